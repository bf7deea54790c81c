"""Batches of data as a model is called with them."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.errors import InputError

__all__ = ["Inputs", "batches", "joined"]


@final
@dataclass(frozen=True)
class Inputs:
    """What a model is called with.

    Args:
        value: The first argument, or arguments by name.
    """

    value: Tensor | Mapping[str, Tensor]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.value if isinstance(self.value, Tensor) else next(iter(self.value.values())))

    def first(self, count: int) -> "Inputs":
        """Give the first samples."""
        if isinstance(self.value, Tensor):
            return replace(self, value=self.value[:count])
        return replace(self, value={name: part[:count] for name, part in self.value.items()})

    def arguments(self, model: nn.Module) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Give positional and named arguments for a model, on its device.

        Of named tensors a model takes those that its forward names, but labels; if it names none, the first one.
        """
        parameter = next(model.parameters(), None)
        device = None if parameter is None else parameter.device
        if isinstance(self.value, Tensor):
            return (self.value.to(device),), {}
        taken = inspect.signature(model.forward).parameters
        named = {name: part.to(device) for name, part in self.value.items() if name in taken and name not in _LABELS}
        return ((), named) if named else ((next(iter(self.value.values())).to(device),), {})

    def call(self, model: nn.Module) -> Any:
        """Call a model.

        Raises:
            InputError: If the model cannot be called with them.
        """
        args, named = self.arguments(model)
        try:
            return model(*args, **named)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"data must be what the model is called with, {self} {_refused(error)}") from error

    def __str__(self) -> str:
        """Say types and shapes."""
        parts = {"a batch": self.value} if isinstance(self.value, Tensor) else self.value
        return ", ".join(f"{name} of {str(part.dtype)[6:]} {tuple(part.shape)}" for name, part in parts.items())


_LABELS = frozenset(["labels", "label", "targets", "target"])


def _refused(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    remedy = "give batches as in training, of its type and range, such as images.float() / 255 for bytes"
    return f"made it fail: {text}; {remedy}"


def batches(data: Iterable[Any]) -> Iterator[Inputs]:
    """Give the inputs of each batch.

    Args:
        data: Batches of inputs, of tuples that begin with them, or of tensors by name.

    Raises:
        InputError: If a batch is none of these, or there is none.
    """
    empty = True
    for batch in data:
        first: Any = batch[0] if isinstance(batch, tuple | list) and batch else batch
        named: dict[str, Tensor] = {}
        if isinstance(first, Mapping):
            named = {str(name): part for name, part in first.items() if isinstance(part, Tensor) and part.ndim}
        if not named and not isinstance(first, Tensor):
            rule = "data must give tensors, tuples that begin with one, or tensors by name"
            raise InputError(f"{rule}, got {type(batch).__name__}")
        empty = False
        yield Inputs(named or first)
    if empty:
        raise InputError("data must have at least one batch, got none; an iterator can be used only once, give a list")


def joined(data: Iterable[Any]) -> Iterator[Inputs]:
    """Give the inputs of each batch, one of a single sample together with that after it, the last with that before."""
    held: Inputs | None = None
    single: Inputs | None = None
    for inputs in batches(data):
        if held is None:
            held = inputs
        elif len(held) == 1:
            held = _together(held, inputs)
        elif single is None and len(inputs) == 1:
            single = inputs
        else:
            yield held
            held, single = (inputs if single is None else _together(single, inputs)), None
    if held is not None:
        yield held if single is None else _together(held, single)


def _together(a: Inputs, b: Inputs) -> Inputs:
    if isinstance(a.value, Tensor) and isinstance(b.value, Tensor):
        return Inputs(torch.cat([a.value, b.value]))
    if isinstance(a.value, Mapping) and isinstance(b.value, Mapping):
        other = b.value
        return Inputs({name: torch.cat([part, other[name]]) for name, part in a.value.items()})
    raise InputError("data must give batches of one kind, got tensors and tensors by name")
