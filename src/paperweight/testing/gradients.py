"""Gradients against finite differences in float64."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from paperweight.testing.report import CheckFailure

__all__ = ["compare_gradients"]

STEP = 1e-7
TOLERANCE = 1e-4


def compare_gradients(function: Callable[..., Sequence[Tensor]], values: Mapping[str, Tensor]) -> None:
    """Compare the gradient by each tensor with a central difference along a random direction.

    Two evaluations a tensor, whatever its size; differences below 1e-4 of the gradient, or 1e-6, count as rounding.

    Args:
        function: Takes as many tensors as there are values and gives tensors; it must be deterministic.
        values: Name to tensor, in float64: where to differentiate.

    Raises:
        CheckFailure: If two differ, or nothing depends on the values in a differentiable way.

    Example:
        >>> compare_gradients(lambda x: [x.square()], {"x": torch.ones(2, dtype=torch.float64)})
    """
    generator = torch.Generator().manual_seed(0)
    leaves = [value.detach().clone().requires_grad_() for value in values.values()]
    outputs = [output for output in function(*leaves) if output.requires_grad]
    if not outputs:
        raise CheckFailure("it has no gradient", "compute it with differentiable operations, without detach")
    weights = [torch.randn(output.shape, generator=generator, dtype=output.dtype) for output in outputs]

    def project(results: Sequence[Tensor]) -> Tensor:
        kept = [result for result in results if result.requires_grad]
        return sum(
            ((w * result).sum() for w, result in zip(weights, kept, strict=True)), start=torch.zeros(()).double()
        )

    gradients = torch.autograd.grad(project(outputs), leaves, allow_unused=True)
    for index, (name, gradient) in enumerate(zip(values, gradients, strict=True)):
        found = torch.zeros_like(leaves[index]) if gradient is None else gradient
        direction = torch.randn(found.shape, generator=generator, dtype=found.dtype)
        ends = []
        for step in (STEP, -STEP):
            moved = [leaf.detach().clone().requires_grad_() for leaf in leaves]
            with torch.no_grad():
                moved[index] += step * direction
            ends.append(project(function(*moved)).item())
        expected, slope = (ends[0] - ends[1]) / (2 * STEP), (found * direction).sum().item()
        if not abs(slope - expected) <= TOLERANCE * found.norm().item() + 1e-6:
            raise CheckFailure(
                f"along a random direction of {name} the gradient gives {slope:.8g}, finite differences {expected:.8g}",
                "correct the backward pass; where the gradient is meant to differ, declare the failure",
            )
