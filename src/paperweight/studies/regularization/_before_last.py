"""A layer put before the last one of a network that is not known."""

from collections.abc import Callable

from torch import nn

from paperweight.data import Splits
from paperweight.nets import replace_modules
from paperweight.studies.regularization._last_layer import ends_in_linear, last_layer

__all__ = ["before_last_linear", "last_is_registered_last"]


def _last_linear(model: nn.Module) -> str | None:
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return names[-1] if names else None


def before_last_linear(model: nn.Module, build: Callable[[int], nn.Module]) -> nn.Module:
    """Copy a network with another layer before the linear layer that is registered last.

    Args:
        model: The network, which stays as it was.
        build: Makes the layer from the number of features that it gets.

    Returns:
        The copy, in which a sequence of the two has the linear layer's name.

    Raises:
        InputError: If there is no linear layer.

    Example:
        >>> before_last_linear(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), lambda features: nn.Dropout(0.5))[1][0]
        Dropout(p=0.5, inplace=False)
    """
    last = _last_linear(model)
    return replace_modules(
        model,
        lambda name, _: name == last,
        lambda head: nn.Sequential(build(head.in_features), head),  # pyright: ignore[reportArgumentType]
        wanted="a module of type Linear",
    )


def last_is_registered_last(model: nn.Module, data: Splits) -> str:
    """Say why the linear layer that is registered last does not give the logits, and nothing where it does."""
    reason, name = ends_in_linear(model, data), _last_linear(model)
    if reason or name is None or last_layer(model, data.train.images[:2]) is model.get_submodule(name):
        return reason
    return (
        f"the linear layer that gives the logits must be registered after all others, in {type(model).__name__} "
        f"{name!r} is; assign it last in __init__"
    )
