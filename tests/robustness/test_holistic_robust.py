"""The worst distribution against a general solver of the authors' program, closed forms, bounds and limits."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from paperweight.attacks import ProjectedGradient
from paperweight.loops import fit_robust
from paperweight.nets import MLP
from paperweight.robustness.holistic_robust import HolisticRobustLoss, holistic_weights
from paperweight.testing import FunctionSubject, LossSubject


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, LABELS = normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
LOSSES = F.cross_entropy(LOGITS, LABELS, reduction="none")


def solved(losses, alpha, r):
    """Solve the authors' program over p, q and s for the largest mean, by SLSQP from several starts."""
    n = len(losses)
    gains = np.append(losses, max(losses))

    def divergence(x):
        p, q = x[: n + 1], np.append(1 / n - x[n + 1 :], x[n + 1 :].sum())
        return r - (q * np.log(np.maximum(q, 1e-300) / np.maximum(p, 1e-300))).sum()

    best = -math.inf
    for seed in range(2):
        draw = np.random.default_rng(seed)
        s = draw.random(n) * alpha / n / 2
        start = np.concatenate([np.append(1 / n - s, s.sum()), s])
        found = minimize(
            lambda x: -(x[: n + 1] @ gains),
            start,
            bounds=[(1e-12, 1)] * (n + 1) + [(0, 1 / n)] * n,
            constraints=[
                {"type": "eq", "fun": lambda x: x[: n + 1].sum() - 1},
                {"type": "ineq", "fun": lambda x: alpha - x[n + 1 :].sum()},
                {"type": "ineq", "fun": divergence},
            ],
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-11},
        )
        if abs(found.x[: n + 1].sum() - 1) < 1e-6 and divergence(found.x) > -1e-6:
            best = max(best, -found.fun)
    return best


def slow(logits, labels, alpha=0.05, r=0.1):
    """The largest mean by the dual: the smallest value over a fine grid of eta, refined around its best."""
    rows = logits.double().tolist()
    losses = sorted(
        math.log(sum(math.exp(z - max(row)) for z in row)) + max(row) - row[y]
        for row, y in zip(rows, labels.tolist(), strict=True)
    )
    n, worst = len(losses), losses[-1]
    q, left = [], alpha
    for _ in losses:
        taken = min(left, 1 / n)
        left -= taken
        q.append(1 / n - taken)
    gaps = [worst - loss for loss in losses] + [0.0]
    q.append(alpha)

    def dual(log_u):
        u = math.exp(log_u)
        return worst + u - math.exp(-r + sum(m * math.log(u + d) for m, d in zip(q, gaps, strict=True)))

    middle, width = 0.0, 30.0
    for _ in range(40):
        middle = min((middle + width * k / 50 for k in range(-50, 51)), key=dual)
        width /= 2
    return dual(middle)


CONTRACT = {
    "HolisticRobustLoss": LossSubject(
        make=HolisticRobustLoss,
        inputs=(LOGITS, LABELS),
        slow=slow,
        bad={"alpha": (-0.1, 1.1, math.nan, True), "r": (-0.1, math.nan, math.inf, True)},
        null=partial(HolisticRobustLoss, alpha=0.0, r=0.0),
        baseline=lambda alpha=0.0, r=0.0: F.cross_entropy,
    ),
    "holistic_weights": FunctionSubject(
        make=holistic_weights,
        arguments={"losses": LOSSES.float(), "alpha": 0.05, "r": 0.1},
        bad={"alpha": (-0.1, 1.1, math.nan, True), "r": (-0.1, math.nan, math.inf, True)},
        null=lambda losses, alpha, r: holistic_weights(losses, 0.0, 0.0),
        baseline=lambda losses, alpha, r: torch.tensor([1 / 6] * 6 + [0.0]),
    ),
}


def value(losses, alpha, r):
    p = holistic_weights(losses, alpha, r)
    return (p[:-1] @ losses + p[-1] * losses.max()).item()


@pytest.mark.parametrize(("alpha", "r"), [(0.0, 0.2), (0.1, 0.01), (0.1, 1.0), (0.45, 0.2)])
def test_it_is_the_optimum_of_the_authors_program(alpha, r):
    losses = normal(4).abs()
    assert value(losses, alpha, r) == pytest.approx(solved(losses.numpy(), alpha, r), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.13, 0.6])
@pytest.mark.parametrize("r", [1e-6, 0.1, 3.0])
def test_weights_are_within_the_divergence_and_at_its_end(alpha, r):
    losses = normal(30).abs()
    p = holistic_weights(losses, alpha, r)
    q = torch.full((31,), 1 / 30, dtype=torch.float64)
    q[-1] = alpha
    left = alpha
    for row in losses.argsort().tolist():
        taken = min(left, 1 / 30)
        q[row] -= taken
        left -= taken
    kept = q > 1e-15
    assert (q[kept] * (q[kept] / p[kept]).log()).sum().item() == pytest.approx(r, rel=1e-4)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert bool((p >= 0).all())


def test_without_divergence_the_smallest_losses_are_replaced_by_the_largest():
    losses = torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0])
    # Of a share of 0.3 of five losses one and a half go: 0, and half of 1.
    torch.testing.assert_close(holistic_weights(losses, 0.3, 0.0), torch.tensor([0.2, 0.1, 0.2, 0.2, 0.0, 0.3]))
    assert value(losses, 1.0, 0.0) == pytest.approx(4)
    assert value(losses, 0.0, 0.0) == pytest.approx(2)


def test_two_losses_in_closed_form():
    # With losses 0 and 1 and no corruption: KL = -log(4 p (1 - p)) / 2 = r, so that p = (1 + sqrt(1 - exp(-2 r))) / 2.
    for r in (0.001, 0.1, 2.0):
        p = holistic_weights(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.0, r)
        assert (p[1] + p[2]).item() == pytest.approx((1 + math.sqrt(1 - math.exp(-2 * r))) / 2, rel=1e-9)


def test_for_small_divergences_it_is_mean_and_spread():
    losses = normal(200).abs()
    spread = math.sqrt(2 * 1e-6) * losses.std(correction=0).item()
    assert value(losses, 0.0, 1e-6) - losses.mean().item() == pytest.approx(spread, rel=0.01)


def test_it_grows_with_both_and_stays_between_mean_and_largest():
    losses = normal(40).abs()
    for values in (
        [value(losses, alpha, 0.05) for alpha in (0.0, 0.1, 0.3, 0.7, 1.0)],
        [value(losses, 0.05, r) for r in (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)],
    ):
        assert values == sorted(values)
        assert losses.mean().item() < values[1] < values[-2] <= losses.max().item() + 1e-12
        assert values[-1] == pytest.approx(losses.max().item(), rel=1e-4)


def test_weights_do_not_depend_on_scale_and_shift():
    losses = normal(20).abs()
    for scale, shift in ((1e-6, 0.0), (1e6, 0.0), (1.0, 50.0)):
        torch.testing.assert_close(
            holistic_weights(scale * losses + shift, 0.1, 0.2), holistic_weights(losses, 0.1, 0.2), atol=1e-7, rtol=1e-6
        )


def test_equal_losses_one_loss_and_nearly_equal_losses():
    for losses in (torch.ones(4), torch.ones(1), torch.zeros(3), torch.tensor([1.0, 1.0 + 1e-6, 1e3, 0.0])):
        for alpha, r in ((0.0, 0.1), (0.3, 0.0), (1.0, 1.0), (0.2, 1e-14), (0.2, 500.0)):
            p = holistic_weights(losses, alpha, r)
            assert p.sum().item() == pytest.approx(1, abs=1e-5)
            assert bool((p >= 0).all())


def test_the_gradient_is_that_of_each_example_by_its_weight():
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(HolisticRobustLoss(0.2, 0.3)(logits, LABELS), logits)
    p = holistic_weights(LOSSES, 0.2, 0.3)
    weights = p[:-1].clone()
    weights[LOSSES.argmax()] += p[-1]
    torch.testing.assert_close(gradient, weights[:, None] * (LOGITS.softmax(1) - F.one_hot(LABELS, 4)))


def test_losses_that_are_not_finite_are_refused_or_passed_on():
    with pytest.raises(ValueError, match="losses must be finite"):
        holistic_weights(torch.tensor([1.0, math.nan]))
    for bad in (torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="of shape"):
            holistic_weights(bad)
    assert HolisticRobustLoss()(torch.tensor([[math.nan, 0.0]]), torch.tensor([0])).isnan()


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.1), ("alpha", math.nan), ("r", -0.1), ("r", math.inf)])
def test_bad_arguments_are_refused_before_the_first_batch(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        HolisticRobustLoss(**{name: value})


def test_precisions_and_copies():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = HolisticRobustLoss()(LOGITS.to(dtype), LABELS)
        assert found.dtype == dtype
        assert found.item() == pytest.approx(HolisticRobustLoss()(LOGITS, LABELS).item(), rel=0.02)
    loss = copy.deepcopy(HolisticRobustLoss(0.2, 0.3))
    assert (loss.alpha, loss.r) == (0.2, 0.3)


def test_adversarial_training_takes_it():
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = (images.mean(dim=(1, 2, 3)) > 0.5).long()
    model, loss = MLP((1, 4, 4), 2, hidden=(8,)), HolisticRobustLoss()
    losses = fit_robust(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        images,
        labels,
        attack=ProjectedGradient(radius=0.05, steps=2, keep_going=True),
        steps=3,
        batch_size=10,
        generator=torch.Generator().manual_seed(0),
        loss=lambda model, _, attacked, given: loss(model(attacked), given),
    )
    assert bool(losses.isfinite().all())
