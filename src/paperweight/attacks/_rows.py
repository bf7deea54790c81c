"""What attacks share: checks of what they are given, labels, and rows spread over entries."""

import math

import torch
from torch import Tensor

__all__ = [
    "check_bounds",
    "check_choice",
    "check_inputs",
    "check_number",
    "check_whole",
    "class_numbers",
    "draw",
    "fooled_by",
    "over",
]


def check_number(name: str, value: float, least: float = 0.0, above: bool = False) -> None:
    if isinstance(value, bool) or not (least < value if above else least <= value) or value == math.inf:
        rule = f"{'above' if above else 'at least'} {least:g} and finite"
        raise ValueError(f"{name} must be {rule}, got {value}")


def check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def check_choice(name: str, value: float, choices: tuple[float, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(f'{choice:g}' for choice in choices)}, got {value}")


def check_bounds(bounds: tuple[float, float]) -> None:
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")


def check_inputs(inputs: Tensor, labels: Tensor, bounds: tuple[float, float]) -> None:
    if inputs.ndim < 2 or not inputs.is_floating_point():
        found = f"shape {tuple(inputs.shape)} and {inputs.dtype}"
        raise ValueError(f"inputs must be floating numbers of shape (N, ...), got {found}")
    if len(inputs) != len(labels):
        raise ValueError(f"labels must be one for each of {len(inputs)} inputs, got {len(labels)}")
    if labels.ndim != (2 if labels.is_floating_point() else 1):
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        raise ValueError(f"labels must be class numbers (N,) or shares of classes (N, classes), got {found}")
    if len(inputs) and not bool(((inputs >= bounds[0]) & (inputs <= bounds[1])).all()):
        found = f"{inputs.min().item():g} to {inputs.max().item():g}"
        raise ValueError(f"inputs must be within bounds, {bounds}, got {found}; give their bounds")


def class_numbers(labels: Tensor) -> Tensor:
    """Give class numbers (N,) of labels that are such, or of shares of classes (N, classes) the largest."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def fooled_by(logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """Tell of each row whether the class seen is another than the label, or if targeted whether it is the label."""
    return (logits.argmax(dim=1) == class_numbers(labels)) == targeted


def over(values: Tensor, like: Tensor) -> Tensor:
    """Give values, one a row, a shape that broadcasts over the entries of each row."""
    return values.view(-1, *[1] * (like.ndim - 1))


def draw(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw uniform numbers below 1 where the generator is, and give them with the dtype and device of a tensor."""
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float32).to(like)
