"""AdaBelief against hand-computed steps, a scalar loop of the paper's algorithm, closed forms and torch's own SGD."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from tests.optim.compiling import compiled_equals_a_scalar_loop, needs_compiler, quietly
from torch import nn
from torch.nn import Parameter

from paperweight.optim.adabelief import AdaBelief
from paperweight.testing import OptimizerSubject

CONTRACT = {
    "AdaBelief": OptimizerSubject(
        make=partial(AdaBelief, lr=0.01, weight_decay=0.01),
        bad={
            "lr": (-0.1, math.nan, math.inf),
            "betas": ((1.0, 0.9), (0.9, -0.1), (0.9, math.nan), (0.9,)),
            "eps": (0.0, -1e-8, math.nan, math.inf),
            "weight_decay": (-0.1, math.nan),
        },
        null=partial(AdaBelief, lr=0.25, betas=(0.0, 0.0), eps=1.0, weight_decay=0.01, weight_decouple=False),
        baseline=partial(torch.optim.SGD, lr=0.125, weight_decay=0.01),
    ),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descend(weight: Parameter, gradients, **options) -> list[torch.Tensor]:
    """Step on given gradients; return the weight after each."""
    optimizer = AdaBelief([weight], **options)
    path = []
    for gradient in gradients:
        weight.grad = torch.as_tensor(gradient, dtype=weight.dtype).expand_as(weight).clone()
        optimizer.step()
        path.append(weight.detach().clone())
    return path


def test_three_steps_by_hand():
    # The corrected deviation is 4 in each step, so that each divides by sqrt(4) + 1.5.
    # m = 1, 2, 1; g - m = 1, 1, -1; s = 2, 3, 3.5; 1 - 2^-t = 1/2, 3/4, 7/8.
    path = descend(Parameter(torch.zeros(1)), (2.0, 3.0, 0.0), lr=1.0, betas=(0.5, 0.5), eps=1.5)
    torch.testing.assert_close(torch.cat(path), torch.tensor([-4 / 7, -4 / 3, -244 / 147]))


def loop(x, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, amsgrad=False, weight_decouple=True):
    """The paper's algorithm for one number, as it is written."""
    m = s = peak = 0.0
    for t, g in enumerate(gradients, start=1):
        if weight_decouple:
            x = x - lr * weight_decay * x
        else:
            g = g + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * (g - m) ** 2 + eps
        peak = max(peak, s)
        m_hat = m / (1 - betas[0] ** t)
        s_hat = (peak if amsgrad else s) / (1 - betas[1] ** t)
        x = x - lr * m_hat / (math.sqrt(s_hat) + eps)
    return x


VARIANTS = [
    {},
    {"eps": 1e-2, "lr": 0.1},
    {"betas": (0.5, 0.9), "eps": 1e-8, "lr": 0.01},
    {"betas": (0.0, 0.5), "eps": 1e-3, "lr": 0.01},
    {"betas": (0.9, 0.5), "amsgrad": True, "lr": 0.01},
    {"weight_decay": 0.3, "lr": 0.1},
    {"weight_decay": 0.3, "lr": 0.1, "weight_decouple": False},
    {"betas": (0.8, 0.6), "amsgrad": True, "weight_decay": 0.1, "weight_decouple": False, "eps": 1e-4},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_a_scalar_loop(options):
    start, steps = normal(3, 4), 12
    gradients = [normal(3, 4, seed=t) * 0.7**t for t in range(1, steps + 1)]
    ended = descend(Parameter(start.clone()), gradients, **options)[-1]
    columns = zip(start.flatten().tolist(), torch.stack(gradients).flatten(1).T.tolist(), strict=True)
    expected = torch.tensor([loop(x, g, **options) for x, g in columns], dtype=torch.float64)
    torch.testing.assert_close(ended.flatten(), expected, rtol=1e-11, atol=1e-13)


def test_first_step_is_the_rate_over_beta1_whatever_the_gradient():
    gradient = torch.tensor([1e-5, -0.3, 7e4, 0.0], dtype=torch.float64)
    (moved,) = descend(Parameter(torch.zeros(4, dtype=torch.float64)), [gradient], lr=0.09, eps=1e-40)
    expected = torch.tensor([-0.1, 0.1, -0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("factor", [1e-6, 1e5])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_scale_of_the_gradients_does_not_matter_as_eps_vanishes(factor, amsgrad):
    gradients = [normal(5, seed=t) for t in range(10)]
    options = {"lr": 0.1, "eps": 1e-40, "amsgrad": amsgrad}
    plain = descend(Parameter(normal(5)), gradients, **options)[-1]
    scaled = descend(Parameter(normal(5)), [factor * g for g in gradients], **options)[-1]
    torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("eps", [1e-4, 1e-8])
def test_steps_on_a_constant_gradient_grow_as_the_closed_form_says(eps):
    lr, (b1, b2), gradient, count = 0.01, (0.9, 0.99), -2.0, 400
    start = torch.zeros(1, dtype=torch.float64)
    path = torch.cat([start, *descend(Parameter(start.clone()), [gradient] * count, lr=lr, betas=(b1, b2), eps=eps)])
    t = np.arange(1, count + 1)
    squares = gradient**2 * (1 - b2) * b1**2 * (b2**t - b1 ** (2 * t)) / (b2 - b1**2)  # of (g - m) = b1^t g
    expected = lr * 2 / (np.sqrt(squares / (1 - b2**t) + eps / (1 - b2)) + eps)
    steps = path.diff().numpy()
    np.testing.assert_allclose(steps, expected, rtol=1e-9)
    assert (np.diff(steps) > 0).all()
    assert lr < steps[0] < steps[-1] < lr * 2 / math.sqrt(eps / (1 - b2))


@pytest.mark.parametrize(("beta2", "eps"), [(0.0, 1.0), (0.999, 1e-8), (0.5, 1e-3)])
def test_without_memory_of_gradients_it_is_sgd(beta2, eps):
    ours, theirs = Parameter(normal(6)), Parameter(normal(6))
    method = AdaBelief([ours], lr=1e-3, betas=(0.0, beta2), eps=eps)
    sgd = torch.optim.SGD([theirs], lr=1e-3 / (math.sqrt(eps / (1 - beta2)) + eps))
    for step in range(20):
        for weight, optimizer in ((ours, method), (theirs, sgd)):
            weight.grad = normal(6, seed=step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"weight_decay": 0.1, "weight_decouple": False}], ids=str)
def test_large_small_and_strided_tensors_together(options):
    starts = [normal(1000, 700), normal(600_000), normal(700, 1000).T, normal(3, 4), normal(1)[0], normal(1, 400_000)]
    weights = [Parameter(s.clone(memory_format=torch.preserve_format)) for s in starts]
    method = AdaBelief(weights, **options)
    gradients = [[normal(s.numel(), seed=t).reshape(s.shape) for s in starts] for t in range(3)]
    for given in gradients:
        for weight, gradient in zip(weights, given, strict=True):
            weight.grad = gradient
        method.step()
    for start, weight, *given in zip(starts, weights, *gradients, strict=True):
        for entry in torch.linspace(0, start.numel() - 1, 50).long().tolist():
            expected = loop(start.flatten()[entry].item(), [g.flatten()[entry].item() for g in given], **options)
            assert weight.detach().flatten()[entry].item() == pytest.approx(expected, rel=1e-11, abs=1e-13)


def test_bad_gradients_are_refused_and_nothing_moves():
    dense, embedding = Parameter(torch.ones(4)), nn.Embedding(5, 2, sparse=True)
    method = AdaBelief([dense, embedding.weight])
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(ValueError, match=r"gradients must be dense and real, got torch\.sparse_coo"):
        method.step()
    turning = Parameter(torch.ones(2, dtype=torch.complex64))
    turning.grad = torch.ones_like(turning)
    with pytest.raises(ValueError, match=r"gradients must be dense and real, got .* torch\.complex64"):
        AdaBelief([turning]).step()
    assert torch.equal(dense, torch.ones(4))
    assert not method.state


def test_eps_that_half_precision_cannot_hold_is_refused():
    weight = Parameter(torch.ones(3, dtype=torch.float16))
    weight.grad = torch.zeros(3, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"eps must not vanish in torch\.float16, got 1e-16"):
        AdaBelief([weight]).step()
    AdaBelief([weight], eps=1e-4).step()
    assert torch.equal(weight, torch.ones(3, dtype=torch.float16))


def test_numbers_of_a_group_are_checked_as_those_of_all():
    weights = [Parameter(torch.zeros(1)) for _ in range(3)]
    method = AdaBelief([{"params": weights[:1], "lr": 0.1}])
    for given, words in (
        ({"lr": -1.0}, "lr must be"),
        ({"betas": (1.0, 0.9)}, "betas must be"),
        ({"eps": 0.0}, "eps must"),
    ):
        with pytest.raises(ValueError, match=words):
            method.add_param_group({"params": weights[1:2], **given})
        with pytest.raises(ValueError, match=words):
            AdaBelief([{"params": weights[2:], **given}])
    assert len(method.param_groups) == 1


@needs_compiler
@quietly
@pytest.mark.parametrize(
    "options",
    [
        {"eps": 1e-2, "weight_decay": 0.3},
        {"eps": 1e-2, "amsgrad": True, "weight_decay": 0.1, "weight_decouple": False},
    ],
    ids=str,
)
def test_compiled_it_equals_a_scalar_loop_and_compiles_once(options):
    compiled_equals_a_scalar_loop(AdaBelief, loop, lr=0.1, **options)
