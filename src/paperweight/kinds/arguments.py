"""The arguments that an object was made with, read from the object: what a trial records of its arm."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch

__all__ = ["constructor_arguments", "not_kept", "plain", "recorded"]

_MISSING = object()
_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def constructor_arguments(made: object) -> dict[str, object]:
    """Read the arguments of the constructor that made an object, defaults included, or those bound to a function.

    Methods keep their arguments unchanged under their names: as attributes or, a `torch.optim.Optimizer`, in
    ``defaults``; what a stranger's class does not keep is left out. Of a function, or a `functools.partial` of one,
    arguments that are neither bound nor have a default are left out. So are parameters and iterators, of which nothing
    can be told, and an optimizer's ``params``.

    Args:
        made: An object, a function or a `functools.partial`.

    Returns:
        Name to value in the order of the signature; see `plain` for what stands for a value.

    Example:
        >>> constructor_arguments(torch.nn.Dropout(0.25))
        {'p': 0.25, 'inplace': False}
        >>> constructor_arguments(functools.partial(torch.nn.functional.leaky_relu, negative_slope=0.3))
        {'negative_slope': 0.3, 'inplace': False}
    """
    values = _bound(made) if _is_function(made) else _kept(made)
    return recorded({name: value for name, value in values.items() if value is not _MISSING})


def not_kept(made: object) -> list[str]:
    """Give the names of the constructor's arguments that an object does not keep.

    Args:
        made: An object.

    Example:
        >>> not_kept(torch.nn.Dropout(0.25)), not_kept(torch.nn.Linear(1, 1))
        ([], ['device', 'dtype'])
    """
    return [name for name, value in _kept(made).items() if value is _MISSING]


def recorded(arguments: Mapping[str, object]) -> dict[str, object]:
    """Give what is written down of arguments: parameters and iterators, of which nothing can be told, are left out.

    Args:
        arguments: Name to value.

    Returns:
        Name to what stands for the value, see `plain`.

    Example:
        >>> recorded({"lr": 0.1, "loss": torch.nn.functional.l1_loss, "batches": iter([])})
        {'lr': 0.1, 'loss': 'torch.nn.functional.l1_loss'}
    """
    return {
        name: plain(value) for name, value in arguments.items() if not isinstance(value, torch.nn.Parameter | Iterator)
    }


def plain(value: object) -> object:
    """Give what can be written down of an argument, the same in every process.

    Args:
        value: The argument.

    Returns:
        The value itself if it is a bool, an int, a float, a string, None, or a list or tuple of these; else the
        qualified name of a function or class, and of the class of anything else.

    Example:
        >>> plain((0.9, 0.999)), plain(torch.tanh), plain(torch.nn.Tanh()), plain(torch.ones(2))
        ((0.9, 0.999), 'torch.tanh', 'torch.nn.modules.activation.Tanh', 'torch.Tensor')
    """
    if _is_plain(value):
        return value
    if isinstance(value, functools.partial):
        return plain(cast("functools.partial[Any]", value).func)
    named: Any = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    name = named.__name__ if inspect.isbuiltin(named) else named.__qualname__
    return name if named.__module__ in (None, "builtins") else f"{named.__module__}.{name}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, cast("Sequence[object]", value)))
    return value is None or isinstance(value, bool | int | float | str)


def _is_function(made: object) -> bool:
    return isinstance(made, functools.partial) or inspect.isroutine(made)


def _names(call: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(call).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in _CATCH_ALL]


def _bound(made: Any) -> dict[str, object]:
    """Give what is bound to a partial's function, or to none, and the defaults of the rest."""
    partial = cast("functools.partial[Any]", made if isinstance(made, functools.partial) else functools.partial(made))
    try:
        signature = inspect.signature(partial.func)
    except ValueError:  # a built-in function that does not tell its signature
        return dict(partial.keywords)
    bound = signature.bind_partial(*partial.args, **partial.keywords)
    bound.apply_defaults()
    return {name: bound.arguments[name] for name in _names(partial.func) if name in bound.arguments}


def _kept(made: object) -> dict[str, object]:
    """Give what an object keeps under the names of its constructor's arguments."""
    kind = type(made)
    if kind.__init__ is object.__init__ and kind.__new__ is object.__new__:
        return {}
    names = _names(kind)
    defaults: Mapping[str, object] = {}
    if isinstance(made, torch.optim.Optimizer):
        defaults = made.defaults
        names = [name for name in names if name != "params"]
    return {name: getattr(made, name, defaults.get(name, _MISSING)) for name in names}
