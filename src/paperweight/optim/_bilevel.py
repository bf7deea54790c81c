"""Two problems, one inside the other, what is found of them, and the linear algebra that goes through both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

__all__ = ["Bilevel", "Course", "Hypergradient", "Solved", "check_above_0", "conjugate_gradients", "gradient"]


@final
@dataclass(frozen=True, kw_only=True)
class Bilevel:
    """Minimise g(x(theta)) over theta, where x(theta) minimises h(x, theta): training inside validation.

    What is given about h must hold at every x, for the theta in question; it may be larger than it need be, mu smaller.

    Args:
        lower: h, maps x, (n,), and theta, (m,), to a scalar; twice differentiable, strongly convex in x.
        upper: g, maps x to a scalar; differentiable.
        convexity: Maps theta to mu, above 0: the Hessian of h by x is at least mu.
        smoothness: Maps theta to L: the Hessian is at most L.
        hessian_change: Maps theta to the Lipschitz constant of the Hessian by x; 0 where h is quadratic in x.
        jacobian_change: Maps theta to the Lipschitz constant by x of the second derivative by x and theta.
        upper_smoothness: Lipschitz constant of the gradient of g.
    """

    lower: Callable[[Tensor, Tensor], Tensor]
    upper: Callable[[Tensor], Tensor]
    convexity: Callable[[Tensor], float]
    smoothness: Callable[[Tensor], float]
    hessian_change: Callable[[Tensor], float]
    jacobian_change: Callable[[Tensor], float]
    upper_smoothness: float


class Solved(NamedTuple):
    """An inner solution x, (n,), the largest distance that it has from the exact one, and the gradients it took."""

    x: Tensor
    error: float
    work: int


class Hypergradient(NamedTuple):
    """The gradient by theta, (m,), the largest distance from the exact one, and the Hessian products it took."""

    gradient: Tensor
    error: float
    work: int


class Course(NamedTuple):
    """Where a run ended, and the course of it: work so far and upper loss, one for each theta that it accepted."""

    theta: Tensor
    x: Tensor
    work: list[int]
    losses: list[float]
    eps: float
    delta: float
    step: float


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Give the gradient of a scalar at x, on which no gradient depends."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(x), x, materialize_grads=True)[0]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, delta: float, most: int
) -> tuple[Tensor, float, int]:
    """Solve H q = target to a residual, and give q, the residual and the number of products."""
    q = torch.zeros_like(target)
    residual = direction = target
    square = residual @ residual
    work = 0
    while square.sqrt().item() > delta and work < most:
        curved = product(direction)
        work += 1
        share = square / (direction @ curved)
        q = q + share * direction
        residual = residual - share * curved
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return q, square.sqrt().item(), work


def check_above_0(name: str, value: float) -> None:
    """Raise where a number is not finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value}")
