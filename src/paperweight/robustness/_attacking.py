"""What attacks share: a model in eval mode for their time, checks of inputs and bounds, rows spread over entries."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["attacked", "check_bounds", "check_inputs", "over"]


@contextmanager
def attacked(model: nn.Module) -> Iterator[None]:
    """Switch the model to eval mode and gradients on, and put both back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def check_bounds(bounds: tuple[float, float]) -> None:
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")


def check_inputs(inputs: Tensor, labels: Tensor, bounds: tuple[float, float]) -> None:
    if len(inputs) != len(labels):
        raise ValueError(f"labels must be one for each of {len(inputs)} inputs, got {len(labels)}")
    if len(inputs) and not bool(((inputs >= bounds[0]) & (inputs <= bounds[1])).all()):
        found = f"{inputs.min().item():g} to {inputs.max().item():g}"
        raise ValueError(f"inputs must be within bounds, {bounds}, got {found}; give their bounds")


def over(values: Tensor, like: Tensor) -> Tensor:
    """Give values, one a row, a shape that broadcasts over the entries of each row."""
    return values.view(-1, *[1] * (like.ndim - 1))
