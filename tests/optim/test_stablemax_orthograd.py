"""OrthoGrad and StableMax against fractions, float64 projections, geometry by hand, and a loop over numbers."""

import copy
import io
import math
from fractions import Fraction
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Parameter

from paperweight.optim.stablemax_orthograd import (
    OrthoGrad,
    nlm_alignment,
    orthogonal_gradient,
    softmax_collapse_fraction,
    stablemax,
    stablemax_cross_entropy,
)
from paperweight.testing import FunctionSubject, LossSubject, OptimizerSubject


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fresh(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Parameter]:
    return [Parameter(normal(*shape, seed=7 + index, dtype=dtype)) for index, shape in enumerate(shapes)]


def wrapped_sgd(params, lr=0.03, **orthograd):
    return OrthoGrad(torch.optim.SGD(params, lr=lr, momentum=0.9), **orthograd)


def s(x: Fraction) -> Fraction:
    return x + 1 if x >= 0 else 1 / (1 - x)


def exactly(row: list[float]) -> list[Fraction]:
    terms = [s(Fraction(x)) for x in row]
    return [term / sum(terms) for term in terms]


def slow_loss(logits, labels):
    shares = [exactly(row)[label] for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    return -sum(math.log(share) for share in shares) / len(shares)


LOGITS, LABELS = 3 * normal(5, 4, dtype=torch.float32), torch.tensor([0, 3, 1, 1, 2])
BAD_SHARE = (-0.1, 1.1, math.nan, math.inf, True)
CONTRACT = {
    "OrthoGrad": OptimizerSubject(
        make=wrapped_sgd,
        bad={"share": BAD_SHARE},
        null=partial(wrapped_sgd, share=0.0),
        baseline=partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    ),
    "orthogonal_gradient": FunctionSubject(
        make=orthogonal_gradient,
        arguments={"gradient": normal(3, 4), "weight": normal(3, 4, seed=1)},
        bad={
            "share": BAD_SHARE,
            "gradient": (torch.ones(3, 4, dtype=torch.int64), torch.ones(3, 4).to_sparse()),
            "weight": (torch.ones(4, 3), torch.ones(3, 4, dtype=torch.complex64)),
        },
        null=partial(orthogonal_gradient, share=0.0),
        baseline=lambda gradient, weight: gradient.clone(),
    ),
    "stablemax": FunctionSubject(
        make=stablemax, arguments={"x": LOGITS}, bad={"x": (torch.zeros(2, dtype=torch.int64),)}
    ),
    "stablemax_cross_entropy": LossSubject(
        make=partial(partial, stablemax_cross_entropy),
        inputs=(LOGITS, LABELS),
        slow=slow_loss,
        bad={"reduction": ("average", None)},
    ),
    "softmax_collapse_fraction": FunctionSubject(
        make=softmax_collapse_fraction,
        arguments={"logits": LOGITS, "labels": LABELS},
        bad={
            "logits": (torch.zeros(5), torch.zeros(0, 4), torch.zeros(5, 0), torch.zeros(5, 4, dtype=torch.int64)),
            "labels": (torch.zeros(4, dtype=torch.int64), torch.zeros(5), torch.zeros(5, 4)),
        },
    ),
    "nlm_alignment": FunctionSubject(
        make=nlm_alignment,
        arguments={"weights": [normal(3), normal(2, 2)], "gradients": [normal(3, seed=1), normal(2, 2, seed=2)]},
        bad={"weights": ([], [normal(3)]), "gradients": ([normal(3), normal(4)], [])},
    ),
}

# StableMax


@pytest.mark.parametrize("row", [[0.0, 2.0, -3.0], [-0.5, -0.25], [7.0], [0.0, 0.0, 0.0], [1e6, -1e6, 3.0]])
def test_stablemax_equals_fractions(row):
    found = stablemax(torch.tensor(row, dtype=torch.float64))
    torch.testing.assert_close(
        found, torch.tensor([float(p) for p in exactly(row)], dtype=torch.float64), rtol=1e-12, atol=1e-15
    )
    assert found.sum().item() == pytest.approx(1)


def test_stablemax_of_a_logit_and_of_its_negative_are_reciprocal():
    # Against a logit of 0, for which s is 1, the odds are s(x) itself, and s(x) s(-x) = 1.
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)
    pairs = stablemax(torch.stack([x, torch.zeros_like(x)], dim=1))
    odds = pairs[:, 0] / pairs[:, 1]
    torch.testing.assert_close(odds * odds.flip(0), torch.ones_like(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(odds[x >= 0], x[x >= 0] + 1, rtol=1e-12, atol=0)


def test_stablemax_runs_along_the_dimension_asked_for():
    x = normal(3, 4, 2)
    torch.testing.assert_close(stablemax(x, dim=1), stablemax(x.transpose(1, 2)).transpose(1, 2))


def test_the_slope_at_0_is_that_of_both_sides():
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    stablemax_cross_entropy(logits, torch.tensor([2])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, 0.25, -0.75, 0.25]], dtype=torch.float64))


def test_where_the_softmax_collapses_stablemax_still_teaches():
    logits, labels = torch.tensor([[0.0, 50.0, 0.0]]), torch.tensor([1])
    slopes = []
    for loss in (F.cross_entropy, stablemax_cross_entropy):
        given = logits.clone().requires_grad_()
        loss(given, labels).backward()
        slopes.append(given.grad[0, 1].item())
    assert softmax_collapse_fraction(logits, labels) == 1
    assert slopes[0] == 0
    assert slopes[1] == pytest.approx(1 / 53 - 1 / 51, rel=1e-3)  # log(x + 3) - log(x + 1)


def test_collapse_depends_on_the_precision_of_the_logits():
    logits, labels = torch.tensor([[0.0, 17.0], [0.0, 40.0], [0.0, 17.0]]), torch.tensor([1, 1, 0])
    assert softmax_collapse_fraction(logits, labels).item() == pytest.approx(2 / 3)
    assert softmax_collapse_fraction(logits.double(), labels).item() == pytest.approx(1 / 3)
    assert softmax_collapse_fraction(logits.bfloat16(), labels).dtype == torch.float32


def test_logits_and_labels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(5,\), got torch.int64 \(4,\)"):
        stablemax_cross_entropy(LOGITS, LABELS[:4])
    with pytest.raises(ValueError, match=r"logits must have shape \(N, classes\), none of them 0, got \(0, 4\)"):
        stablemax_cross_entropy(LOGITS[:0], LABELS[:0])


def test_collapse_begins_where_one_plus_the_others_rounds_to_one():
    edge = 24 * math.log(2)  # float32 rounds 1 + 2^-24 to 1
    logits = torch.tensor([[0.0, edge - 0.1], [0.0, edge + 0.1]])
    assert softmax_collapse_fraction(logits[:1], torch.tensor([1])) == 0
    assert softmax_collapse_fraction(logits[1:], torch.tensor([1])) == 1


# The orthogonal gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(50,), (7, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30])
def test_it_is_orthogonal_and_as_long_as_the_gradient(dtype, shape, factor):
    gradient, weight = factor * normal(*shape, dtype=dtype), normal(*shape, seed=1, dtype=dtype) / 7
    found = orthogonal_gradient(gradient, weight).double()
    g, w = gradient.double(), weight.double()
    tolerance = 20 * torch.finfo(dtype).eps
    assert abs((found * w).sum()) <= tolerance * found.norm() * w.norm()
    assert found.norm().item() == pytest.approx(g.norm().item(), rel=tolerance)
    across = g - (g * w).sum() / w.square().sum() * w
    torch.testing.assert_close(
        found / factor, across * (g.norm() / across.norm()) / factor, rtol=0, atol=tolerance * 9, check_dtype=False
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_only_at_the_end(dtype):
    gradient, weight = normal(5000, dtype=dtype), normal(5000, seed=1, dtype=dtype) + 1
    expected = orthogonal_gradient(gradient.double(), weight.double()).to(dtype)
    torch.testing.assert_close(orthogonal_gradient(gradient, weight), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_share_takes_out_that_share():
    gradient, weight = torch.tensor([3.0, 4.0]), torch.tensor([-5.0, 0.0])
    half = orthogonal_gradient(gradient, weight, share=0.5)  # (1.5, 4), scaled to a length of 5
    torch.testing.assert_close(half, torch.tensor([1.5, 4.0]) * 5 / math.hypot(1.5, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 1000, 300_000])
def test_of_a_parallel_gradient_rounding_is_not_scaled_up(dtype, size):
    weight = normal(size, dtype=dtype)
    for factor in (-1.0, 0.25, 1024.0):
        assert not orthogonal_gradient(factor * weight, weight).any()
    nearly = orthogonal_gradient(weight.float() * 0.3, weight.float())
    assert not nearly.any()
    half = orthogonal_gradient(weight, weight, share=0.5)
    torch.testing.assert_close(half.double(), weight.double(), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_small_part_across_the_weights_is_found_exactly():
    weight = normal(4000, dtype=torch.float32)
    across = normal(4000, seed=1, dtype=torch.float32)
    across -= (across @ weight) / (weight @ weight) * weight
    for part in (1e-2, 1e-4):
        found = orthogonal_gradient(weight + part * across, weight)
        assert torch.cosine_similarity(found, across, dim=0) > 1 - 1e-5
        assert abs(torch.cosine_similarity(found.double(), weight.double(), dim=0)) < 1e-6


def test_weights_of_0_leave_the_gradient_and_a_gradient_of_0_stays():
    gradient, zero = normal(6), torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(orthogonal_gradient(gradient, zero), gradient, rtol=1e-12, atol=0)
    assert not orthogonal_gradient(zero, gradient).any()
    assert orthogonal_gradient(zero[:0], zero[:0]).shape == (0,)


def test_a_gradient_that_is_not_finite_does_not_hide():
    assert orthogonal_gradient(torch.tensor([math.nan, 1.0]), torch.ones(2)).isnan().any()
    assert not orthogonal_gradient(torch.tensor([math.inf, 1.0]), torch.ones(2)).isfinite().all()


# The alignment


def test_alignment_of_a_scaling_is_1_and_of_a_rotation_0():
    weights = [normal(3, 4), normal(5)]
    assert nlm_alignment(weights, [-2 * w for w in weights]).item() == pytest.approx(1)
    assert nlm_alignment(weights, [0.1 * w for w in weights]).item() == pytest.approx(-1)
    orthogonal = [orthogonal_gradient(normal(*w.shape, seed=9), w) for w in weights]
    assert nlm_alignment(weights, orthogonal).item() == pytest.approx(0, abs=1e-12)
    assert nlm_alignment(weights, [torch.zeros_like(w) for w in weights]) == 0


def test_once_all_is_right_gradients_align_with_the_weights_of_a_homogeneous_network():
    # By Euler w . grad is the mean of logits times slopes, which is negative once all is right.
    inputs, labels = torch.eye(3, dtype=torch.float64), torch.arange(3)
    weight = (10 * torch.eye(3, dtype=torch.float64) - 5).requires_grad_()
    F.cross_entropy(inputs @ weight.T, labels).backward()
    assert nlm_alignment([weight], [weight.grad]) > 0.9


# The optimizer


def loop(w, gradients, lr, momentum):
    """OrthoGrad on SGD with momentum for a list of numbers, as it is written."""
    buffer = [0.0] * len(w)
    for g in gradients:
        along = sum(a * b for a, b in zip(w, g, strict=True)) / sum(a * a for a in w)
        across = [b - along * a for a, b in zip(w, g, strict=True)]
        scale = math.hypot(*g) / math.hypot(*across)
        buffer = [momentum * v + scale * c for v, c in zip(buffer, across, strict=True)]
        w = [a - lr * v for a, v in zip(w, buffer, strict=True)]
    return w


def test_steps_equal_a_loop_over_numbers():
    (weight,) = fresh((2, 3))
    optimizer = OrthoGrad(torch.optim.SGD([weight], lr=0.1, momentum=0.5))
    start, gradients = weight.flatten().tolist(), [normal(2, 3, seed=t) for t in range(8)]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(weight.grad, gradient)
    expected = loop(start, [g.flatten().tolist() for g in gradients], 0.1, 0.5)
    torch.testing.assert_close(weight.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=0)


def test_each_tensor_is_turned_by_itself():
    first, second = fresh((4,), (4,))
    optimizer = OrthoGrad(torch.optim.SGD([first, second], lr=1.0))
    before = [p.detach().clone() for p in (first, second)]
    for p in (first, second):
        p.grad = normal(4, seed=3)
    optimizer.step()
    for p, old in zip((first, second), before, strict=True):
        torch.testing.assert_close(old - p.detach(), orthogonal_gradient(normal(4, seed=3), old))


def test_a_step_of_sgd_can_only_lengthen_weights_and_flow_keeps_them():
    (weight,) = fresh((30,))
    optimizer = OrthoGrad(torch.optim.SGD([weight], lr=0.01))
    for step in range(20):
        before = weight.norm().item()
        weight.grad = normal(30, seed=step)
        optimizer.step()
        assert weight.norm().item() == pytest.approx(math.hypot(before, 0.01 * weight.grad.norm().item()), rel=1e-12)


def test_one_entry_never_moves_unless_its_group_is_left_alone():
    kept, free = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    optimizer = OrthoGrad(torch.optim.Adam([{"params": [kept]}, {"params": [free], "orthograd_share": 0.0}], lr=0.1))
    for _ in range(3):
        kept.grad, free.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
    assert kept.item() == 1
    assert free.item() == pytest.approx(0.7)


def test_shares_of_groups_are_checked_and_kept():
    first, second = fresh((2,), (2,))
    optimizer = wrapped_sgd([first], share=0.5)
    with pytest.raises(ValueError, match="share must be from 0 to 1, got 2"):
        optimizer.add_param_group({"params": [second], "orthograd_share": 2})
    optimizer.add_param_group({"params": [second], "orthograd_share": 0.25})
    assert [group["orthograd_share"] for group in optimizer.optimizer.param_groups] == [0.5, 0.25]
    with pytest.raises(ValueError, match="wrap it only once"):
        OrthoGrad(optimizer)


@pytest.mark.parametrize(
    "make", [partial(torch.optim.AdamW, lr=0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9)], ids=("adamw", "sgd")
)
def test_a_saved_run_and_a_copy_go_on_exactly(make):
    weights = fresh((3, 4), (5,), dtype=torch.float32)
    optimizer = OrthoGrad(make(weights), share=0.75)

    def advance(each, params, steps):
        for step in steps:
            for index, p in enumerate(params):
                p.grad = p.detach() + normal(*p.shape, seed=10 * step + index, dtype=p.dtype)
            each.step()

    advance(optimizer, weights, range(3))
    save = io.BytesIO()
    torch.save((weights, optimizer.state_dict()), save)
    save.seek(0)
    resumed, state = torch.load(save, weights_only=True)
    other = OrthoGrad(make(resumed))
    other.load_state_dict(state)
    twin = copy.deepcopy(optimizer)
    assert twin.param_groups is twin.optimizer.param_groups
    assert twin.share == 0.75
    for each, params in ((optimizer, weights), (other, resumed), (twin, twin.param_groups[0]["params"])):
        advance(each, params, range(3, 6))
        assert all(map(torch.equal, params, weights))


def test_the_state_of_an_unwrapped_optimizer_takes_the_share_given():
    (weight,), (twin,) = fresh((3,)), fresh((3,))
    inner = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer = wrapped_sgd([twin], share=0.5)
    optimizer.load_state_dict(copy.deepcopy(inner.state_dict()))
    assert optimizer.param_groups[0]["orthograd_share"] == 0.5


def test_a_closure_finds_the_gradients_that_it_made_and_its_new_ones_are_turned():
    (ours,), (theirs,) = fresh((6,)), fresh((6,))
    plain, closed = wrapped_sgd([ours]), wrapped_sgd([theirs])
    target = normal(6, seed=3)
    for _ in range(4):

        def closure():
            closed.zero_grad()
            loss = (theirs - target).square().sum()
            loss.backward()
            return loss

        expected = 2 * (theirs.detach() - target)
        loss = closed.step(closure)
        ours.grad = 2 * (ours.detach() - target)
        assert loss.item() == pytest.approx(ours.grad.square().sum().item() / 4)
        plain.step()
        torch.testing.assert_close(theirs.grad, expected)
        torch.testing.assert_close(theirs, ours)


def test_an_optimizer_that_calls_its_closure_often_steps_on_turned_gradients_alone():
    (weight,) = fresh((6,))
    optimizer = OrthoGrad(torch.optim.LBFGS([weight], lr=1e-8, max_iter=5))
    before, found = weight.detach().clone(), []

    def closure():
        found.append(None if weight.grad is None else weight.grad.clone())
        weight.grad = torch.arange(1.0, 7.0, dtype=torch.float64) + len(found)
        return weight.grad.sum()

    optimizer.step(closure)
    moved = weight.detach() - before
    assert len(found) > 2
    assert abs((moved * before).sum()) < 1e-5 * moved.norm() * before.norm()
    for number, gradient in enumerate(found[1:], start=1):
        assert torch.equal(gradient, torch.arange(1.0, 7.0, dtype=torch.float64) + number)


def test_gradients_are_put_back_where_the_step_fails():
    (weight,) = fresh((3,))
    optimizer = wrapped_sgd([weight])
    weight.grad = normal(3)

    def fails():
        raise RuntimeError("no gradient today")

    with pytest.raises(RuntimeError, match="no gradient today"):
        optimizer.step(fails)
    assert torch.equal(weight.grad, normal(3))


def test_sparse_gradients_are_refused_and_nothing_moves():
    dense, embedding = Parameter(torch.ones(4)), nn.Embedding(5, 2, sparse=True)
    optimizer = wrapped_sgd([dense, embedding.weight])
    (embedding(torch.tensor([1])).sum() + (dense * torch.arange(4.0)).sum()).backward()
    with pytest.raises(ValueError, match=r"gradient must be dense and real, got torch\.sparse_coo"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(4))
    assert torch.equal(dense.grad, torch.arange(4.0))


def test_a_group_that_the_wrapped_optimizer_gets_later_is_stepped():
    first, later = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    inner = torch.optim.SGD([first], lr=1.0)
    optimizer = OrthoGrad(inner)
    inner.add_param_group({"params": [later]})
    later.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(later.detach(), torch.tensor([1.0, -5.0]))


def test_a_length_that_the_dtype_does_not_hold_in_one_entry_is_its_largest_number():
    found = orthogonal_gradient(torch.tensor([6e4, 6e4]).half(), torch.tensor([1.0, 0.0]).half())
    assert found.tolist() == [0.0, torch.finfo(torch.float16).max]


def test_labels_that_are_no_class_are_not_read_as_collapsed():
    for label in (-100, 4):
        with pytest.raises(ValueError, match="labels must be from 0 to 3"):
            softmax_collapse_fraction(torch.zeros(3, 4), torch.full((3,), label))
