"""MAID: hyperparameters by gradient descent that solves the inner problem only as well as each step needs.

The inner problem, training, is solved to an accuracy; with it comes a gradient of the validation loss by the
hyperparameters, and a bound on its error. If the bound is too large for the gradient to be sure to point downhill, the
accuracy is raised. A step is taken where the validation loss is sure to fall, whatever the errors are; if none is found
the accuracy is raised, too, and after each step it is lowered a little and the step size grows.
Cost: as many inner iterations as it takes; a Hessian product for each iteration of conjugate gradients.

Source:
    M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, "An adaptively inexact first-order method for bilevel
    optimization with application to hyperparameter learning", 2023, https://arxiv.org/abs/2308.10098. Implemented: the
    inexact hypergradient, its bound, the line search with inexact values, the rules by which accuracies change.

Deviations:
    - The full text was not at hand. The bound is derived here and has the terms of the paper's, as a public account of
      its Theorem 2.1 gives them, but for |q| where that has |grad g| / mu, which is not smaller, and the residual's
      share in the terms of e. The inequality of the line search, and the factors, are this project's.
    - Bounds are taken at the accuracy that was reached, not at that which was asked for. The inequality does not ask
      the upper loss to be convex, at the price of a term of second order on both sides.
    - The inner solver is Nesterov's method for strongly convex functions, in the paper FISTA or gradient descent.
"""

import math

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.optim._bilevel import (
    Bilevel,
    Course,
    Hypergradient,
    Solved,
    check_above_0,
    conjugate_gradients,
    gradient,
)

__all__ = [
    "Bilevel",
    "Course",
    "Hypergradient",
    "Solved",
    "adaptive_descent",
    "hypergradient",
    "solve_lower",
    "sure_fall",
]

PAPER = Paper(
    title=(
        "An adaptively inexact first-order method for bilevel optimization with application to hyperparameter learning"
    ),
    authors=("Mohammad Sadegh Salehi", "Subhadip Mukherjee", "Lindon Roberts", "Matthias J. Ehrhardt"),
    year=2023,
    url="https://arxiv.org/abs/2308.10098",
    provides={
        "adaptive_descent": "function",
        "hypergradient": "function",
        "solve_lower": "function",
        "sure_fall": "function",
    },
    claim="Adaptive accuracy finds hyperparameters with less inner work than a fixed one, wherever it starts from.",
)


def solve_lower(problem: Bilevel, theta: Tensor, start: Tensor, eps: float, most: int = 100_000) -> Solved:
    """Minimise h until the distance from the minimiser is sure to be at most eps, since |grad h| / mu bounds it.

    Args:
        problem: The problem.
        theta: Hyperparameters, (m,).
        start: Where to begin, (n,).
        eps: The distance, above 0.
        most: The largest number of gradients, at least 1; the solution may then be further away, as its error says.

    Returns:
        The solution, on which no gradient depends.

    Raises:
        ValueError: If an argument is outside its range, or mu is not above 0 and at most L.

    Example:
        >>> square = Bilevel(lower=lambda x, theta: ((x - theta) ** 2).sum(), upper=lambda x: x.sum(),
        ...     convexity=lambda theta: 2.0, smoothness=lambda theta: 2.0, hessian_change=lambda theta: 0.0,
        ...     jacobian_change=lambda theta: 0.0, upper_smoothness=0.0)
        >>> solve_lower(square, torch.tensor([3.0]), torch.zeros(1), eps=0.1)
        Solved(x=tensor([3.]), error=0.0, work=2)
    """
    check_above_0("eps", eps)
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be a whole number of at least 1, got {most!r}")
    low, high = problem.convexity(theta), problem.smoothness(theta)
    if not 0 < low <= high < math.inf:
        raise ValueError(f"problem must have convexity above 0 and at most smoothness, got {low} and {high}")
    momentum = (math.sqrt(high) - math.sqrt(low)) / (math.sqrt(high) + math.sqrt(low))
    fixed = theta.detach()
    x = y = start.detach()
    work = 0
    while True:
        slope = gradient(lambda given: problem.lower(given, fixed), y)
        work += 1
        error = slope.norm().item() / low
        if not error > eps or work == most:
            return Solved(y, error, work)
        before, x = x, y - slope / high
        y = x + momentum * (x - before)


def hypergradient(problem: Bilevel, theta: Tensor, solved: Solved, delta: float, most: int = 1_000) -> Hypergradient:
    """Compute z = -J^T q with q near H^-1 grad g, and by how much it can differ from the exact gradient of g(x(theta)).

    H is the Hessian of h by x and J its second derivative by x and theta, at the inner solution, at most e from the
    exact one; q comes from conjugate gradients with a residual r. With b = r / mu + e (L_g + L_H (|q| + r / mu)) / mu,
    the largest error of q, that of z is |J| b + L_J e (|q| + b): q solves a system whose right-hand side and matrix are
    off by L_g e and L_H e, and J is off by L_J e. For |J| stands the root of the sum of its squares.

    Args:
        problem: The problem.
        theta: Hyperparameters, (m,).
        solved: The inner solution at theta.
        delta: The residual at which conjugate gradients stop, above 0.
        most: The largest number of their iterations, at least 1.

    Returns:
        The gradient, on which no gradient depends, and the bound.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> square = Bilevel(lower=lambda x, theta: ((x - theta) ** 2).sum(), upper=lambda x: (x**2).sum(),
        ...     convexity=lambda theta: 2.0, smoothness=lambda theta: 2.0, hessian_change=lambda theta: 0.0,
        ...     jacobian_change=lambda theta: 0.0, upper_smoothness=2.0)
        >>> hypergradient(square, torch.tensor([3.0]), Solved(torch.tensor([3.0]), 0.0, 0), delta=0.1)
        Hypergradient(gradient=tensor([6.]), error=0.0, work=1)
    """
    check_above_0("delta", delta)
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be a whole number of at least 1, got {most!r}")
    x = solved.x.detach().requires_grad_()
    given = theta.detach().requires_grad_()
    with torch.enable_grad():
        by_x, by_theta = torch.autograd.grad(problem.lower(x, given), (x, given), create_graph=True)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(by_x, x, v, retain_graph=True, materialize_grads=True)[0]

    q, residual, work = conjugate_gradients(product, gradient(problem.upper, x.detach()), delta, most)
    jacobian = torch.autograd.grad(
        by_theta, x, torch.eye(len(theta)).to(theta), is_grads_batched=True, materialize_grads=True
    )[0]
    low = problem.convexity(theta)
    of_q = residual / low
    length = q.norm().item()
    curved = problem.upper_smoothness + problem.hessian_change(theta) * (length + of_q)
    of_q += solved.error * curved / low
    error = jacobian.norm().item() * of_q + problem.jacobian_change(theta) * solved.error * (length + of_q)
    return Hypergradient(-(jacobian @ q), error, work)


def sure_fall(problem: Bilevel, before: Solved, after: Solved) -> float:
    """Compute the least by which g(x(theta)) fell from one inner solution to another, whatever their errors are.

    g(x) differs by at most |grad g(x)| e + L_g e^2 / 2 from g at the exact solution, which is at most e away.

    Args:
        problem: The problem.
        before: The inner solution at the old theta.
        after: That at the new one.

    Returns:
        The fall, below 0 where it may have risen.

    Raises:
        ValueError: If the solutions differ in shape.

    Example:
        >>> square = Bilevel(lower=lambda x, theta: ((x - theta) ** 2).sum(), upper=lambda x: (x**2).sum(),
        ...     convexity=lambda theta: 2.0, smoothness=lambda theta: 2.0, hessian_change=lambda theta: 0.0,
        ...     jacobian_change=lambda theta: 0.0, upper_smoothness=2.0)
        >>> sure_fall(square, Solved(torch.tensor([2.0]), 0.5, 1), Solved(torch.tensor([0.0]), 0.0, 1))
        1.75
    """
    if before.x.shape != after.x.shape:
        raise ValueError(f"after must be a solution of shape {tuple(before.x.shape)}, got {tuple(after.x.shape)}")
    values, doubts = list[float](), list[float]()
    for solved in (before, after):
        values.append(problem.upper(solved.x).item())
        slope = gradient(problem.upper, solved.x).norm().item()
        doubts.append(slope * solved.error + problem.upper_smoothness * solved.error**2 / 2)
    return values[0] - values[1] - sum(doubts)


def adaptive_descent(
    problem: Bilevel,
    theta: Tensor,
    x: Tensor,
    *,
    work: int,
    eps: float = 0.1,
    delta: float = 0.1,
    step: float = 1.0,
    descent: float = 0.5,
    sufficient: float = 1e-4,
    backtracks: int = 5,
    tolerance: float = 0.0,
) -> Course:
    """Descend the upper loss with accuracies that adapt, until the work is done.

    A theta is accepted where `sure_fall` is at least the step size times ``sufficient * descent * |z|^2``, so that the
    exact upper loss never rises. Accuracies are halved until the bound on the
    error of z is at most (1 - ``descent``) |z|, and where no step was accepted; they grow by a twentieth after each
    step, and the step size by a ninth.

    Args:
        problem: The problem.
        theta: Hyperparameters to begin with, (m,).
        x: Where the inner solver begins, (n,).
        work: Gradients of h and Hessian products after which no new step begins, at least 1.
        eps: Distance from the inner minimiser to begin with, above 0.
        delta: Residual of conjugate gradients to begin with, above 0.
        step: Step size to begin with, above 0.
        descent: eta, in (0, 1).
        sufficient: lambda, in (0, 1).
        backtracks: Halvings of a step before the accuracy is raised, at least 1; one more after each failure.
        tolerance: Stops where |z| and the bound on its error add up to no more, at least 0.

    Returns:
        Where it ended, and the course.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> square = Bilevel(lower=lambda x, theta: ((x - theta) ** 2).sum(), upper=lambda x: ((x - 1) ** 2).sum(),
        ...     convexity=lambda theta: 2.0, smoothness=lambda theta: 2.0, hessian_change=lambda theta: 0.0,
        ...     jacobian_change=lambda theta: 0.0, upper_smoothness=2.0)
        >>> course = adaptive_descent(square, torch.tensor([3.0]), torch.zeros(1), work=100, tolerance=1e-3)
        >>> course.theta.round(decimals=2), course.losses[0]
        (tensor([1.]), 4.0)
    """
    for name, value in (("eps", eps), ("delta", delta), ("step", step)):
        check_above_0(name, value)
    for name, value in (("descent", descent), ("sufficient", sufficient)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be above 0 and below 1, got {value}")
    for name, value in (("work", work), ("backtracks", backtracks)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and at least 0, got {tolerance}")
    done = 0

    def solve(at: Tensor, start: Tensor) -> Solved:
        nonlocal done
        solved = solve_lower(problem, at, start, eps, most=max(1, work - done))
        done += solved.work
        return solved

    theta = theta.detach()
    here = solve(theta, x)
    works, losses = [done], [problem.upper(here.x).item()]
    while done < work:
        z, error, products = hypergradient(problem, theta, here, delta)
        done += products
        size = z.norm().item()
        if size + error <= tolerance:
            break
        if error > (1 - descent) * size:
            eps, delta = eps / 2, delta / 2
            here = solve(theta, here.x)
            continue
        for trial in range(backtracks):
            length = step * 0.5**trial
            moved = theta - length * z
            there = solve(moved, here.x)
            if sure_fall(problem, here, there) >= sufficient * descent * length * size**2:
                theta, here, step = moved, there, length * 10 / 9
                eps, delta = eps * 1.05, delta * 1.05
                works.append(done)
                losses.append(problem.upper(here.x).item())
                break
            if done >= work:
                break
        else:
            backtracks += 1
            eps, delta = eps / 2, delta / 2
            here = solve(theta, here.x)
    return Course(theta, here.x, works, losses, eps, delta, step)
