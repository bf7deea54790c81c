"""Toy problems for checks: small, deterministic, and made from an explicit generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["SHAPES", "Problem", "Quadratic", "Regression", "quadratic", "regression"]

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (7,), (4, 3), (2, 3, 3, 3))


class Problem(Protocol):
    """Fresh parameters, and a loss of them that may differ from step to step.

    Example:
        >>> problem: Problem = quadratic(generator=torch.Generator().manual_seed(0))
        >>> len(problem.parameters()) == len(SHAPES)
        True
    """

    def parameters(self) -> list[Parameter]:
        """Make new parameters, every time with the same values."""
        ...

    def loss(self, parameters: Sequence[Tensor], step: int) -> Tensor:
        """Give the loss at a step, a scalar."""
        ...


@final
@dataclass(frozen=True)
class Quadratic:
    """The sum over all entries of c (x - t)^2 / 2; convex, its minimum 0 at t.

    Args:
        start: Initial values, one tensor a parameter.
        target: The minimiser t, of the same shapes.
        curvature: The curvatures c, positive, of the same shapes.

    Example:
        >>> problem = Quadratic([torch.zeros(1)], [torch.ones(1)], [torch.full((1,), 4.0)])
        >>> problem.loss(problem.parameters()).item()
        2.0
    """

    start: Sequence[Tensor]
    target: Sequence[Tensor]
    curvature: Sequence[Tensor]

    def parameters(self) -> list[Parameter]:
        """Make new parameters at the start, with the strides that the start has."""
        return [Parameter(values.clone()) for values in self.start]

    def loss(self, parameters: Sequence[Tensor], step: int = 0) -> Tensor:
        """Give the loss, the same at every step."""
        terms = zip(self.curvature, parameters, self.target, strict=True)
        return torch.stack([(c * (x - t) ** 2).sum() / 2 for c, x, t in terms]).sum()


@final
@dataclass(frozen=True)
class Regression:
    """Least squares of a linear map with bias, on one of four minibatches a step; convex.

    Args:
        inputs: Shape ``(4, batch, features)``.
        outputs: Shape ``(4, batch, targets)``.

    Example:
        >>> problem = Regression(torch.ones(4, 2, 3), torch.full((4, 2, 1), 2.0))
        >>> problem.loss(problem.parameters(), step=0).item()
        4.0
    """

    inputs: Tensor
    outputs: Tensor

    def parameters(self) -> list[Parameter]:
        """Make a weight of shape ``(targets, features)`` and a bias of shape ``(targets,)``, both zero."""
        weight = self.inputs.new_zeros(self.outputs.shape[-1], self.inputs.shape[-1])
        return [Parameter(weight), Parameter(weight.new_zeros(weight.shape[0]))]

    def loss(self, parameters: Sequence[Tensor], step: int) -> Tensor:
        """Give the mean squared error on minibatch ``step % 4``."""
        weight, bias = parameters
        return ((self.inputs[step % 4] @ weight.T + bias - self.outputs[step % 4]) ** 2).mean()


def quadratic(
    shapes: Sequence[tuple[int, ...]] = SHAPES, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Quadratic:
    """Draw a quadratic problem; matrices are stored transposed, tensors of four dimensions channels-last.

    Args:
        shapes: One a parameter; the default has a scalar, sizes 1 and 2, a matrix and a tensor of four dimensions.
        generator: Source of all random numbers.
        dtype: Number format of the parameters.

    Returns:
        A problem with normal start and target and curvatures between 0.5 and 1.5.

    Example:
        >>> problem = quadratic([(2, 3)], generator=torch.Generator().manual_seed(0))
        >>> problem.parameters()[0].shape
        torch.Size([2, 3])
    """

    def normal(shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator).to(dtype)
        if len(shape) == 2:
            return values.T.contiguous().T
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    curvature = [torch.rand(shape, generator=generator).to(dtype) + 0.5 for shape in shapes]
    return Quadratic([normal(shape) for shape in shapes], [normal(shape) for shape in shapes], curvature)


def regression(*, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Regression:
    """Draw a noisy linear regression from 5 features to 3 targets, 16 examples a minibatch.

    Args:
        generator: Source of all random numbers.
        dtype: Number format of the parameters.

    Returns:
        The problem.

    Example:
        >>> regression(generator=torch.Generator().manual_seed(0)).inputs.shape
        torch.Size([4, 16, 5])
    """
    inputs = torch.randn(4, 16, 5, generator=generator).to(dtype)
    truth = torch.randn(5, 3, generator=generator).to(dtype)
    noise = torch.randn(4, 16, 3, generator=generator).to(dtype)
    return Regression(inputs, inputs @ truth + 0.3 * noise)
