"""Grams against hand-computed steps, a scalar loop of the paper's algorithm, and torch's AdamW."""

import math
from functools import partial

import pytest
import torch
from tests.optim.compiling import compiled_equals_a_scalar_loop, needs_compiler, quietly
from torch.nn import Parameter

from paperweight.optim.grams import Grams
from paperweight.testing import OptimizerSubject

CONTRACT = {
    "Grams": OptimizerSubject(
        make=partial(Grams, lr=0.01, weight_decay=0.01),
        bad={
            "lr": (-0.1, math.nan, math.inf),
            "betas": ((1.0, 0.9), (0.9, -0.1), (0.9, math.nan), (0.9,)),
            "eps": (0.0, -1e-8, math.nan, math.inf),
            "weight_decay": (-0.1, math.nan),
        },
        null=partial(Grams, lr=0.01, betas=(0.0, 0.999), weight_decay=0.1),
        baseline=partial(torch.optim.AdamW, lr=0.01, betas=(0.0, 0.999), eps=1e-6, weight_decay=0.1),
    ),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descend(make, start: torch.Tensor, gradients) -> list[torch.Tensor]:
    """Step on given gradients; return the weight after each."""
    weight = Parameter(start.clone())
    optimizer = make([weight])
    path = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(weight.grad, gradient)
        path.append(weight.detach().clone())
    return path


def loop(x, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
    """The paper's algorithm for one number, as it is written."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = m / (1 - betas[0] ** t) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
        x = x - lr * (math.copysign(abs(u), g) * (g != 0) + weight_decay * x)
    return x


VARIANTS = [
    {},
    {"lr": 0.1, "eps": 1e-2},
    {"lr": 0.1, "betas": (0.5, 0.9)},
    {"lr": 0.1, "betas": (0.0, 0.5)},
    {"lr": 0.1, "weight_decay": 0.3},
]


def columns(gradients: list[torch.Tensor]) -> list[list[float]]:
    return torch.stack([g.flatten() for g in gradients]).T.tolist()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_a_scalar_loop(options):
    start = normal(3, 4)
    gradients = [normal(3, 4, seed=t) * 0.7**t for t in range(1, 13)]
    gradients[5][0] = 0
    ended = descend(partial(Grams, **options), start, gradients)[-1]
    pairs = zip(start.flatten().tolist(), columns(gradients), strict=True)
    expected = torch.tensor([loop(x, given, **options) for x, given in pairs], dtype=torch.float64)
    torch.testing.assert_close(ended.flatten(), expected, rtol=1e-12, atol=1e-14)


def test_two_steps_by_hand():
    # betas 1/2: m = 2, then 1/2; v = 8, then 9/2; corrected 4, 2/3 and 16, 6; the second gradient points up again.
    first, second = descend(
        partial(Grams, lr=1.0, betas=(0.5, 0.5), eps=1.0), torch.zeros(1), [torch.tensor([4.0]), torch.tensor([-1.0])]
    )
    torch.testing.assert_close(first, torch.tensor([-4 / 5]))
    torch.testing.assert_close(second, torch.tensor([-4 / 5 + (2 / 3) / (math.sqrt(6) + 1)]))


def test_steps_are_as_large_as_those_of_adamw_and_never_uphill():
    gradients = [normal(50, seed=t) for t in range(20)]
    weight, other = Parameter(normal(50)), Parameter(normal(50))
    method = Grams([weight], lr=0.1, eps=1e-8)
    adamw = torch.optim.AdamW([other], lr=0.1, eps=1e-8, weight_decay=0.0)
    turned = 0
    for gradient in gradients:
        before, there = weight.detach().clone(), other.detach().clone()
        weight.grad, other.grad = gradient.clone(), gradient.clone()
        method.step()
        adamw.step()
        moved, adam = weight.detach() - before, other.detach() - there
        torch.testing.assert_close(moved.abs(), adam.abs(), rtol=1e-9, atol=1e-12)
        assert (moved * gradient <= 0).all()
        assert (moved * gradient).sum() <= (adam * gradient).sum() + 1e-12
        turned += int((moved * adam < 0).sum())
    assert turned > 100


def test_where_signs_agree_it_is_adamw():
    gradients = [normal(9, seed=1).sign() * normal(9, seed=t).abs() for t in range(10)]
    ours = descend(partial(Grams, lr=0.1, weight_decay=0.1), normal(9), gradients)
    adam = descend(partial(torch.optim.AdamW, lr=0.1, eps=1e-6, weight_decay=0.1), normal(9), gradients)
    for mine, torchs in zip(ours, adam, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=1e-14)


def test_a_sparse_gradient_is_refused_and_nothing_moves():
    dense, embedding = Parameter(torch.ones(4)), torch.nn.Embedding(5, 2, sparse=True)
    method = Grams([dense, embedding.weight])
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(ValueError, match=r"gradients must be dense and real, got torch\.sparse_coo"):
        method.step()
    assert torch.equal(dense, torch.ones(4))
    assert not method.state


def test_numbers_of_a_group_are_checked_as_those_of_all():
    weights = [Parameter(torch.zeros(1)) for _ in range(3)]
    method = Grams([{"params": weights[:1], "lr": 0.1}])
    for given, words in (
        ({"lr": -1.0}, "lr must be"),
        ({"betas": (1.0, 0.9)}, "betas must be"),
        ({"eps": 0.0}, "eps must"),
    ):
        with pytest.raises(ValueError, match=words):
            method.add_param_group({"params": weights[1:2], **given})
        with pytest.raises(ValueError, match=words):
            Grams([{"params": weights[2:], **given}])
    assert len(method.param_groups) == 1


@needs_compiler
@quietly
def test_compiled_it_equals_a_scalar_loop_and_compiles_once():
    compiled_equals_a_scalar_loop(Grams, loop, lr=0.1, eps=1e-2, weight_decay=0.3)
