"""What all networks share: the check of their construction arguments, the parameter count, and the eval mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["check_at_least", "check_classifier", "count_multiplications", "count_parameters", "evaluating"]


def check_at_least(minimum: int, values: dict[str, int]) -> None:
    """Check that arguments are whole numbers of a minimum size.

    Args:
        minimum: The smallest value allowed.
        values: The arguments by name.

    Raises:
        ValueError: If one of them is no ``int`` or below the minimum.

    Example:
        >>> check_at_least(1, {"dim": 64, "depth": 4})
    """
    for name, value in values.items():
        if not isinstance(value, int) or value < minimum:
            raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")


def check_classifier(shape: tuple[int, int, int], classes: int) -> None:
    """Check the two arguments that every classifier takes.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.

    Raises:
        ValueError: If ``shape`` is not three positive whole numbers, or ``classes`` not one.

    Example:
        >>> check_classifier((1, 8, 8), 10)
    """
    if len(shape) != 3 or not all(isinstance(side, int) and side >= 1 for side in shape):
        raise ValueError(f"shape must be (channels, height, width), each a positive int, got {shape!r}")
    check_at_least(1, {"classes": classes})


def count_parameters(model: nn.Module) -> int:
    """Count the numbers a model learns.

    Args:
        model: Any module; a parameter used twice counts once, a frozen one counts, buffers do not.

    Returns:
        The number of scalar parameters.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_multiplications(model: nn.Module, inputs: Tensor) -> int:
    """Count the multiplications by weights other than 0 in convolutions and linear layers, those with padding included.

    Args:
        model: A network whose convolutions have two dimensions; run once in eval mode, and left as it was.
        inputs: What it is run on, (1, ...) for the cost of one sample.

    Returns:
        The number of multiplications for all of the inputs.

    Example:
        >>> count_multiplications(nn.Conv2d(1, 2, 3, padding=1), torch.zeros(1, 1, 8, 8))
        1152
    """
    count = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal count
        weight = layer.get_parameter("weight")
        count += output.numel() // len(weight) * int(weight.count_nonzero())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with evaluating(model):
        model(inputs)
    for hook in hooks:
        hook.remove()
    return count


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and at the end every submodule back into the mode it was in.

    Args:
        model: The model.

    Yields:
        Nothing.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
