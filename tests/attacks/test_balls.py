"""Projections against a general solver and the conditions of an optimum; steps against linear programs."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from tests.attacks.problems import normal, seeded

from paperweight.attacks import project, random_point, steepest_step
from paperweight.testing.attack import best_step

NORMS = (1.0, 2.0, math.inf)


def points(count=6, entries=5):
    inputs = torch.rand(count, entries, generator=seeded(1), dtype=torch.float64)
    inputs[0, :2], inputs[1, :2] = 0.0, 1.0
    return inputs, inputs + 0.8 * normal(count, entries, seed=2).double()


def size(change, norm):
    return torch.linalg.vector_norm(change.flatten(1), norm, dim=1)


def solved(changed, inputs, radius, norm):
    """Give the nearest point of ball and range by SLSQP; the change of norm 1 is split in two parts of one sign."""
    d, x = (changed - inputs).numpy(), inputs.numpy()
    n = len(d)
    parts = [(0, 1 - v) for v in x] + [(0, v) for v in x]
    if norm == 2:
        inside = {"type": "ineq", "fun": lambda p: radius**2 - ((p[:n] - p[n:]) ** 2).sum()}
    else:
        inside = {"type": "ineq", "fun": lambda p: radius - p.sum()}
    found = minimize(
        lambda p: ((p[:n] - p[n:] - d) ** 2).sum(),
        np.zeros(2 * n),
        bounds=parts,
        constraints=[inside],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return torch.from_numpy(x + found.x[:n] - found.x[n:])


@pytest.mark.parametrize("norm", [1.0, 2.0])
@pytest.mark.parametrize("radius", [0.1, 0.7, 5.0])
def test_projections_equal_those_of_a_general_solver(norm, radius):
    inputs, changed = points()
    found = project(changed, inputs, radius, norm)
    for row in range(len(inputs)):
        expected = solved(changed[row], inputs[row], radius, norm)
        torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.05, 0.5, 2.0])
def test_a_projection_is_nearer_than_every_other_point_of_ball_and_range(norm, radius):
    """That is the case if, and only if, (y - p) (q - p) is at most 0 for all q; the largest q is a steepest step."""
    inputs, changed = points(20, 30)
    found = project(changed, inputs, radius, norm)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert size(found - inputs, norm).max().item() <= radius * (1 + 1e-9)
    slope = changed - found
    farthest = inputs + best_step(-slope, -inputs, 1 - inputs, norm, radius)
    assert ((slope * (farthest - found)).sum(dim=1)).max().item() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_points_inside_stay_and_projecting_twice_changes_nothing(norm):
    inputs, changed = points()
    inside = inputs + 0.01 * (changed.clamp(0, 1) - inputs)
    torch.testing.assert_close(project(inside, inputs, 1.0, norm), inside, atol=1e-12, rtol=0)
    once = project(changed, inputs, 0.3, norm)
    torch.testing.assert_close(project(once, inputs, 0.3, norm), once, atol=1e-9, rtol=0)
    assert torch.equal(project(changed, inputs, 0.0, norm), inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_of_images_of_other_types_and_far_points(norm):
    inputs = torch.rand(3, 2, 4, 5, generator=seeded())
    far = inputs + 1e6 * normal(3, 2, 4, 5)
    for dtype, slack in ((torch.float32, 1e-5), (torch.float16, 5e-2), (torch.bfloat16, 5e-2)):
        found = project(far.clamp(-6e4, 6e4).to(dtype), inputs.to(dtype), 0.5, norm)
        assert found.dtype == dtype
        assert found.shape == inputs.shape
        assert bool(((found >= 0) & (found <= 1)).all())
        assert size((found - inputs.to(dtype)).float(), norm).max().item() <= 0.5 * (1 + slack)


def test_a_step_of_norm_1_is_the_best_of_a_linear_program():
    inputs, slope = points()[0], normal(6, 5, seed=3).double()
    found = steepest_step(slope, inputs, 0.8, 1.0, (0.0, 1.0))
    for row in range(len(inputs)):
        x, g = inputs[row].numpy(), slope[row].numpy()
        parts = [(0, 1 - v) for v in x] + [(0, v) for v in x]
        best = linprog(np.concatenate([-g, g]), A_ub=np.ones((1, 10)), b_ub=[0.8], bounds=parts)
        assert (slope[row] * (found[row] - inputs[row])).sum().item() == pytest.approx(-best.fun, rel=1e-9)
        assert (found[row] - inputs[row]).abs().sum().item() <= 0.8 + 1e-12


def test_steps_of_norms_2_and_infinity_have_their_length_and_the_dual_norm_as_gain():
    inputs, slope = points()[0], normal(6, 5, seed=3).double()
    for norm, dual in ((2.0, 2.0), (math.inf, 1.0)):
        step = steepest_step(slope, inputs, 0.8, norm, (0.0, 1.0)) - inputs
        torch.testing.assert_close(size(step, norm), torch.full((6,), 0.8).double())
        torch.testing.assert_close((slope * step).sum(dim=1), 0.8 * size(slope, dual))


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_needs_no_gradient_of_a_size_that_squares_can_hold(norm):
    inputs, slope = torch.full((1, 4), 0.5), normal(1, 4)
    usual = steepest_step(slope, inputs, 0.1, norm, (0.0, 1.0))
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(steepest_step(scale * slope, inputs, 0.1, norm, (0.0, 1.0)), usual)
    assert torch.equal(steepest_step(0 * slope, inputs, 0.1, norm, (0.0, 1.0)), inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball_evenly(norm):
    middle = torch.full((20_000, 3), 0.5)
    change = random_point(middle, 0.2, norm, generator=seeded()) - middle
    sizes = size(change, norm)
    assert sizes.max().item() <= 0.2 * (1 + 1e-5)
    # A ball of half the radius has an eighth of the volume; all signs are as probable.
    assert (sizes < 0.1).float().mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert change.mean(dim=0).abs().max().item() < 0.003
    # Of two points of the ball, x and y, the entries are as probable in another order.
    assert change.abs().mean(dim=0).std().item() < 0.002
    # A cap, the part of the ball beyond half the radius along one entry.
    cap = {1.0: 1 / 16, 2.0: 5 / 32, math.inf: 1 / 4}[norm]
    assert (change[:, 0] > 0.1).float().mean().item() == pytest.approx(cap, abs=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_stay_within_the_range_and_come_from_the_generator(norm):
    inputs = torch.rand(50, 1, 3, 3, generator=seeded())
    found = random_point(inputs, 0.9, norm, generator=seeded(4))
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(found, random_point(inputs, 0.9, norm, generator=seeded(4)))
    assert not torch.equal(found, random_point(inputs, 0.9, norm, generator=seeded(5)))
