"""MAID: hypergradients against the closed form of ridge regression, bounds that hold, and losses that only fall."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.optim.maid import (
    Bilevel,
    Hypergradient,
    Solved,
    adaptive_descent,
    hypergradient,
    solve_lower,
    sure_fall,
)
from paperweight.testing import FunctionSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B = normal(12, 4, seed=1), normal(12, seed=2)
C, D = normal(9, 4, seed=3), normal(9, seed=4)
SQUARED = torch.linalg.svdvals(A) ** 2


def exact_x(theta: Tensor) -> Tensor:
    return torch.linalg.solve(A.T @ A + torch.diag(theta.exp()), A.T @ B)


def exact_loss(theta: Tensor) -> Tensor:
    return 0.5 * (C @ exact_x(theta) - D).square().sum()


RIDGE = Bilevel(
    lower=lambda x, theta: 0.5 * (A @ x - B).square().sum() + 0.5 * (theta.exp() * x.square()).sum(),
    upper=lambda x: 0.5 * (C @ x - D).square().sum(),
    convexity=lambda theta: SQUARED.min().item() + theta.min().exp().item(),
    smoothness=lambda theta: SQUARED.max().item() + theta.max().exp().item(),
    hessian_change=lambda theta: 0.0,
    jacobian_change=lambda theta: theta.max().exp().item(),
    upper_smoothness=torch.linalg.svdvals(C).max().item() ** 2,
)
THETA = torch.tensor([0.5, -1.0, 1.0, 0.0], dtype=torch.float64)
START = torch.zeros(4, dtype=torch.float64)

X, Y = normal(30, 3, seed=5), torch.arange(30) % 2
V, W = normal(20, 3, seed=6), (torch.arange(20) // 3) % 2
LENGTHS = X.norm(dim=1)

# Logistic regression: s'' is at most 1 / (6 sqrt 3) for the sigmoid s, so that the Hessian changes with x.
LOGISTIC = Bilevel(
    lower=lambda x, theta: (
        F.binary_cross_entropy_with_logits(X @ x, Y.double()) + 0.5 * (theta.exp() * x.square()).sum()
    ),
    upper=lambda x: F.binary_cross_entropy_with_logits(V @ x, W.double()),
    convexity=lambda theta: theta.min().exp().item(),
    smoothness=lambda theta: 0.25 * torch.linalg.svdvals(X).max().item() ** 2 / 30 + theta.max().exp().item(),
    hessian_change=lambda theta: LENGTHS.pow(3).mean().item() / (6 * math.sqrt(3)),
    jacobian_change=lambda theta: theta.max().exp().item(),
    upper_smoothness=0.25 * torch.linalg.svdvals(V).max().item() ** 2 / 20,
)
LOGISTIC_THETA = torch.tensor([-2.0, -1.0, -3.0], dtype=torch.float64)
LOGISTIC_START = torch.zeros(3, dtype=torch.float64)


def hyper(theta: Tensor, eps: float = 1e-3, delta: float = 1e-3, problem: Bilevel = RIDGE) -> Hypergradient:
    return hypergradient(problem, theta, solve_lower(problem, theta, torch.zeros_like(theta), eps), delta)


CONTRACT = {
    "solve_lower": FunctionSubject(
        make=lambda theta, start, eps=0.01, most=1_000, convexity=None: solve_lower(
            RIDGE if convexity is None else replace(RIDGE, convexity=lambda theta: convexity), theta, start, eps, most
        ),
        arguments={"theta": THETA, "start": START},
        bad={"eps": (0.0, -1.0, math.inf, math.nan), "most": (0, 1.5), "convexity": (0.0, -1.0, 1e9, math.nan)},
    ),
    "hypergradient": FunctionSubject(
        make=lambda theta, delta=0.01, most=100: hypergradient(RIDGE, theta, Solved(START, 1.0, 0), delta, most),
        arguments={"theta": THETA},
        bad={"delta": (0.0, -1.0, math.inf, math.nan), "most": (0, 1.5)},
    ),
    "sure_fall": FunctionSubject(
        make=lambda before, after: sure_fall(RIDGE, before, after),
        arguments={"before": Solved(START, 1.0, 0), "after": Solved(START + 1, 0.5, 0)},
        bad={"after": (Solved(START[:2], 0.5, 0),)},
    ),
    "adaptive_descent": FunctionSubject(
        make=lambda theta, x, work=300, **given: adaptive_descent(RIDGE, theta, x, work=work, **given),
        arguments={"theta": THETA, "x": START},
        bad={
            "work": (0, 1.5),
            "eps": (0.0, -1.0, math.inf, math.nan),
            "delta": (0.0, -1.0, math.inf, math.nan),
            "step": (0.0, -1.0, math.inf, math.nan),
            "descent": (0.0, 1.0, math.nan),
            "sufficient": (0.0, 1.0, math.nan),
            "backtracks": (0, 1.5),
            "tolerance": (-1.0, math.inf, math.nan),
        },
    ),
}


@pytest.mark.parametrize("eps", [1.0, 1e-2, 1e-6, 1e-10])
def test_inner_solutions_are_as_near_as_they_say(eps):
    solved = solve_lower(RIDGE, THETA, START, eps)
    assert (solved.x - exact_x(THETA)).norm() <= solved.error * (1 + 1e-9) + 1e-14
    assert solved.error <= eps
    assert not solved.x.requires_grad


def test_inner_solutions_are_near_where_the_inner_problem_is_hardly_convex():
    for eps in (3.0, 0.1):
        solved = solve_lower(LOGISTIC, LOGISTIC_THETA, LOGISTIC_START + 5, eps)
        assert (solved.x - _x(LOGISTIC, LOGISTIC_THETA)).norm() <= solved.error <= eps


def test_inner_work_grows_with_the_root_of_the_condition_and_the_log_of_the_accuracy():
    condition = RIDGE.smoothness(THETA) / RIDGE.convexity(THETA)
    works = [solve_lower(RIDGE, THETA, START, eps).work for eps in (1e-2, 1e-4, 1e-6, 1e-8)]
    steps = [later - earlier for earlier, later in itertools.pairwise(works)]
    # |x - x*|^2 shrinks by 1 - 1 / sqrt(condition) an iteration, at least on the whole.
    assert all(0 < step <= 2 * math.log(100) * math.sqrt(condition) + 3 for step in steps)
    capped = solve_lower(RIDGE, THETA, START, 1e-8, most=3)
    assert capped.work == 3
    assert capped.error > 1e-8
    assert (capped.x - exact_x(THETA)).norm() <= capped.error


def test_a_nearly_exact_hypergradient_is_that_of_the_closed_form():
    theta = THETA.clone().requires_grad_()
    expected = torch.autograd.grad(exact_loss(theta), theta)[0]
    found = hyper(THETA, 1e-12, 1e-12)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-8, atol=1e-10)
    assert found.error < 1e-8
    assert found.work <= 5  # conjugate gradients end after as many products as there are dimensions, but for rounding


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("problem", ["ridge", "logistic"])
def test_the_bound_on_the_error_of_a_hypergradient_holds(problem, seed):
    given, size = (RIDGE, 4) if problem == "ridge" else (LOGISTIC, 3)
    theta = normal(size, seed=seed) - (2.0 if problem == "logistic" else 0.0)
    exact = hyper(theta, 1e-11, 1e-12, given).gradient
    for eps in (3.0, 0.3, 0.01):
        for delta in (1.0, 0.01):
            start = 2.0 * normal(size, seed=seed + 50)
            found = hypergradient(given, theta, solve_lower(given, theta, start, eps), delta)
            assert (found.gradient - exact).norm().item() <= found.error
            far = hypergradient(
                given, theta, Solved(found.gradient, (found.gradient - _x(given, theta)).norm().item(), 0), delta
            )
            assert (far.gradient - exact).norm().item() <= far.error


def _x(problem: Bilevel, theta: Tensor) -> Tensor:
    return solve_lower(problem, theta, torch.zeros_like(theta), 1e-11).x


@pytest.mark.parametrize("size", [1, 2])
def test_the_bound_by_hand(size):
    # h = (x - t)^2 / 2 + x^4 / 4 is curved: at x = 1, t = 0: H = 1 + 3 = 4, J = -1, q = g' / H = 2 / 4, in each entry.
    problem = Bilevel(
        lower=lambda x, theta: (0.5 * (x - theta) ** 2 + x**4 / 4).sum(),
        upper=lambda x: (x**2).sum(),
        convexity=lambda theta: 0.5,
        smoothness=lambda theta: 10.0,
        hessian_change=lambda theta: 6.0,
        jacobian_change=lambda theta: 0.5,
        upper_smoothness=2.0,
    )
    theta, here = torch.zeros(size).double(), Solved(torch.ones(size).double(), 0.1, 0)
    root = math.sqrt(size)
    found = hypergradient(problem, theta, here, delta=1e-6)
    assert found.gradient.tolist() == pytest.approx([0.5] * size)
    b = 0.1 * (2 + 6 * 0.5 * root) / 0.5
    assert found.error == pytest.approx(root * b + 0.5 * 0.1 * (0.5 * root + b))
    lazy = hypergradient(problem, theta, here, delta=3.0)
    b = 2 * root / 0.5 + 0.1 * (2 + 6 * 2 * root / 0.5) / 0.5  # no product: q = 0, and the residual is g' = 2
    assert not lazy.gradient.any()
    assert lazy.work == 0
    assert lazy.error == pytest.approx(root * b + 0.5 * 0.1 * b)


def test_a_fall_by_hand_and_by_the_closed_form():
    # g = (x - 1)^2 with L_g = 2: 9 at 4, slope 6; 1 at 2, slope 2. Doubts 6 * 0.1 + 0.01 and 2 * 0.2 + 0.04.
    problem = replace(RIDGE, upper=lambda x: ((x - 1) ** 2).sum(), upper_smoothness=2.0)
    before, after = Solved(torch.tensor([4.0]), 0.1, 0), Solved(torch.tensor([2.0]), 0.2, 0)
    assert sure_fall(problem, before, after) == pytest.approx(9 - 1 - 0.61 - 0.44)
    for seed in range(5):
        thetas = normal(2, 4, seed=seed)
        ends = [solve_lower(RIDGE, theta, START, 0.3) for theta in thetas]
        assert sure_fall(RIDGE, *ends) <= (exact_loss(thetas[0]) - exact_loss(thetas[1])).item()


@pytest.mark.parametrize("eps", [10.0, 0.1, 1e-4])
@pytest.mark.parametrize("step", [1e-2, 1.0, 100.0])
def test_the_exact_loss_never_rises_and_ends_near_the_least(eps, step):
    works = [50, 100, 200, 400, 800, 1_600]
    thetas = [adaptive_descent(RIDGE, THETA, START, work=work, eps=eps, delta=eps, step=step).theta for work in works]
    losses = [exact_loss(theta).item() for theta in (THETA, *thetas)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0]
    free = THETA.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = exact_loss(free)
        loss.backward()
        return loss

    optimizer.step(closure)
    least = closure().item()
    assert losses[-1] - least < 0.2 * (losses[0] - least)


def test_a_curved_inner_problem_is_descended_too():
    course = adaptive_descent(LOGISTIC, LOGISTIC_THETA, LOGISTIC_START, work=3_000)
    exact = [LOGISTIC.upper(_x(LOGISTIC, theta)).item() for theta in (LOGISTIC_THETA, course.theta)]
    assert exact[1] < exact[0] - 1e-3
    assert course.losses[-1] == pytest.approx(exact[1], abs=0.05)
    assert course.work == sorted(course.work)
    assert len(course.work) == len(course.losses) > 2


def test_accuracy_rises_where_it_must_and_work_is_kept_to():
    course = adaptive_descent(RIDGE, THETA, START, work=500, eps=100.0, delta=100.0)
    assert course.eps < 100.0
    assert course.work[-1] <= 500
    loose = adaptive_descent(RIDGE, THETA, START, work=5_000, tolerance=5.0)
    theta = loose.theta.clone().requires_grad_()
    assert torch.autograd.grad(exact_loss(theta), theta)[0].norm() <= 5.0
    assert loose.work[-1] < 5_000


def test_one_step_written_out():
    # In one dimension all is known: h = (x - t)^2, g = (x - 1)^2, from t = 3 with x exact after two gradients.
    problem = Bilevel(
        lower=lambda x, theta: ((x - theta) ** 2).sum(),
        upper=lambda x: ((x - 1) ** 2).sum(),
        convexity=lambda theta: 2.0,
        smoothness=lambda theta: 2.0,
        hessian_change=lambda theta: 0.0,
        jacobian_change=lambda theta: 0.0,
        upper_smoothness=2.0,
    )
    course = adaptive_descent(problem, torch.tensor([3.0]), torch.zeros(1), work=5, step=0.4, eps=0.1, delta=0.1)
    # Gradient 2 (3 - 1) = 4: 3 - 0.4 * 4 = 1.4. Two gradients, one product, two gradients: 5.
    assert course.theta.item() == pytest.approx(1.4)
    assert course.work == [2, 5]
    assert course.losses == pytest.approx([4.0, 0.16])
    assert (course.step, course.eps, course.delta) == pytest.approx((0.4 * 10 / 9, 0.105, 0.105))
    far = adaptive_descent(problem, torch.tensor([3.0]), torch.zeros(1), work=9, step=1.6)
    # 3 - 1.6 * 4 = -3.4 and 3 - 0.8 * 4 = -0.2 : the first is further from 1, the second nearer.
    assert far.theta.item() == pytest.approx(-0.2)
    assert far.step == pytest.approx(0.8 * 10 / 9)
    # A fall of 16 a (1 - a) is at least 0.9 * 0.9 * 16 a for a up to 0.19: 0.74 and 0.37 are too far.
    strict = adaptive_descent(
        problem, torch.tensor([3.0]), torch.zeros(1), work=9, step=0.74, sufficient=0.9, descent=0.9
    )
    assert strict.theta.item() == pytest.approx(3 - 4 * 0.185)
