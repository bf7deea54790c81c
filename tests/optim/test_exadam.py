"""EXAdam against hand-computed steps, a scalar loop of the paper's algorithm, and torch's Adam."""

import math
from functools import partial

import pytest
import torch
from tests.optim.compiling import compiled_equals_a_scalar_loop, needs_compiler, quietly
from torch.nn import Parameter

from paperweight.optim.exadam import EXAdam
from paperweight.testing import OptimizerSubject

CONTRACT = {
    "EXAdam": OptimizerSubject(
        make=partial(EXAdam, lr=0.003, weight_decay=0.01),
        bad={
            "lr": (-0.1, math.nan, math.inf),
            "betas": ((1.0, 0.9), (0.9, -0.1), (0.9, math.nan), (0.9,)),
            "eps": (0.0, -1e-8, math.nan, math.inf),
            "weight_decay": (-0.1, math.nan),
        },
        null=partial(EXAdam, lr=0.01, betas=(0.0, 0.0), log_step=False),
        baseline=partial(torch.optim.Adam, lr=0.02, betas=(0.0, 0.0)),
    ),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descend(start: torch.Tensor, gradients, **options) -> list[torch.Tensor]:
    """Step on given gradients; return the weight after each."""
    weight = Parameter(start.clone())
    optimizer = EXAdam([weight], **options)
    path = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        path.append(weight.detach().clone())
    return path


def loop(x, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, log_step=True):
    """The paper's algorithm for one number, as it is written."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        x = x - lr * weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        d1 = 1 + v / (v + eps) * betas[1] ** t
        d2 = 1 + m * m / (m * m + eps) * betas[0] ** t
        m_tilde = m / (1 - betas[0] ** t) * d1
        v_tilde = v / (1 - betas[1] ** t) * d2
        g_tilde = g / (1 - betas[0] ** t) * d1
        alpha = lr * math.log(math.sqrt(2) * math.sqrt(t + 1)) if log_step else lr
        x = x - alpha * (m_tilde + g_tilde) / (math.sqrt(v_tilde) + eps)
    return x


VARIANTS = [
    {},
    {"lr": 0.1, "eps": 1e-2},
    {"lr": 0.1, "log_step": False},
    {"lr": 0.1, "betas": (0.5, 0.9)},
    {"lr": 0.1, "betas": (0.0, 0.5), "eps": 0.3},
    {"lr": 0.1, "weight_decay": 0.3},
]


def columns(gradients: list[torch.Tensor]) -> list[list[float]]:
    return torch.stack([g.flatten() for g in gradients]).T.tolist()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_a_scalar_loop(options):
    start = normal(3, 4)
    gradients = [normal(3, 4, seed=t) * 0.7**t for t in range(1, 13)]
    gradients[5][0] = 0
    ended = descend(start, gradients, **options)[-1]
    pairs = zip(start.flatten().tolist(), columns(gradients), strict=True)
    expected = torch.tensor([loop(x, given, **options) for x, given in pairs], dtype=torch.float64)
    torch.testing.assert_close(ended.flatten(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.8)])
@pytest.mark.parametrize("log_step", [False, True])
def test_the_first_step_is_that_of_the_closed_form(betas, log_step):
    # m = (1 - b1) g and v = (1 - b2) g^2, far above eps: d1 = 1 + b2, d2 = 1 + b1, so that the step is
    # lr (1 + 1 / (1 - b1)) (1 + b2) / sqrt(1 + b1) against the gradient's sign, 15.95 lr at the defaults.
    gradient = torch.tensor([1e3, -2e5, 7e4], dtype=torch.float64)
    (moved,) = descend(torch.zeros(3, dtype=torch.float64), [gradient], lr=1.0, betas=betas, log_step=log_step)
    step = (1 + 1 / (1 - betas[0])) * (1 + betas[1]) / math.sqrt(1 + betas[0]) * (math.log(2) if log_step else 1)
    torch.testing.assert_close(moved, -step * gradient.sign(), rtol=1e-9, atol=0)
    if betas == (0.9, 0.999) and not log_step:
        assert step == pytest.approx(15.95, abs=0.005)


def test_in_the_long_run_it_is_adam_at_twice_the_rate_that_grows():
    steps = 20_000
    start, gradient = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    weight = Parameter(start.clone())
    optimizer = EXAdam([weight], lr=1.0)
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(
        before - weight.detach(), 2 * gradient * math.log(2 * (steps + 1)) / 2, rtol=1e-6, atol=0
    )


def test_where_gradients_are_always_zero_nothing_moves():
    assert torch.equal(descend(torch.ones(3), [torch.zeros(3)] * 3)[-1], torch.ones(3))


def test_a_sparse_gradient_is_refused_and_nothing_moves():
    dense, embedding = Parameter(torch.ones(4)), torch.nn.Embedding(5, 2, sparse=True)
    method = EXAdam([dense, embedding.weight])
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(ValueError, match=r"gradients must be dense and real, got torch\.sparse_coo"):
        method.step()
    assert torch.equal(dense, torch.ones(4))
    assert not method.state


def test_large_gradients_of_single_precision_do_not_overflow():
    gradients = [torch.full((2,), 1e12, dtype=torch.float64)] * 5
    precise = descend(torch.zeros(2, dtype=torch.float64), gradients, lr=0.1)[-1]
    single = descend(torch.zeros(2), [g.float() for g in gradients], lr=0.1)[-1]
    torch.testing.assert_close(single, precise.float(), rtol=1e-5, atol=0)


def test_numbers_of_a_group_are_checked_as_those_of_all():
    weights = [Parameter(torch.zeros(1)) for _ in range(3)]
    method = EXAdam([{"params": weights[:1], "lr": 0.1}])
    for given, words in (
        ({"lr": -1.0}, "lr must be"),
        ({"betas": (1.0, 0.9)}, "betas must be"),
        ({"eps": 0.0}, "eps must"),
    ):
        with pytest.raises(ValueError, match=words):
            method.add_param_group({"params": weights[1:2], **given})
        with pytest.raises(ValueError, match=words):
            EXAdam([{"params": weights[2:], **given}])
    assert len(method.param_groups) == 1


@needs_compiler
@quietly
def test_compiled_it_equals_a_scalar_loop_and_compiles_once():
    compiled_equals_a_scalar_loop(EXAdam, loop, lr=0.1, eps=1e-2, weight_decay=0.3)
