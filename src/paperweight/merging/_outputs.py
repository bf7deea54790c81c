"""The outputs of a network by name: of a tensor, a tuple, a mapping, a data class."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from paperweight.errors import InputError

__all__ = ["chosen"]


def chosen(value: Any, output: str | int | None) -> list[tuple[str, Tensor]]:
    """Give the tensors of an output with their names.

    Args:
        value: What the network returned.
        output: The part that counts, a key, a field or a number; None for all.

    Raises:
        InputError: If there is no such part.
    """
    if output is None:
        return [(name or "output", part) for name, part in _leaves(value, "")]
    parts = _parts(value)
    if output not in parts:
        names = ", ".join(repr(name) for name in parts) or "one only, without a name"
        raise InputError(f"output must be one of the network's, got {output!r}; it has {names}")
    return list(_leaves(parts[output], str(output)))


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    return dict(enumerate(value)) if isinstance(value, tuple | list) else {}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    for key, part in _parts(value).items():
        yield from _leaves(part, f"{name}.{key}" if name else str(key))
