"""Atoms: one for each row of each axis of each parameter, and the ties between them.

A label tensor has the shape of a value in the network and says for each element which atom it belongs to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.errors import InputError

__all__ = ["BLANK", "FIXED", "Atoms", "Record", "Seen", "column", "grid", "narrowed", "settled", "spread", "varies"]

BLANK = 0
"""Label of a constant that is the same for every unit, such as padding."""
FIXED = 1
"""Label of what keeps its place: the inputs and outputs of the network."""


@final
@dataclass(frozen=True)
class Record:
    """The atoms of one axis of an entry of the state dict; of all its elements if the axis is None."""

    keys: tuple[str, ...]
    axis: int | None
    role: Literal["out", "in", "statistic"]
    atoms: Tensor


@final
@dataclass(frozen=True)
class Seen:
    """A tensor that a hook on a module can observe, and its labels."""

    module: str
    side: Literal["input", "output", "query", "key", "value"]
    labels: Tensor


@final
class Atoms:
    """The atoms of a model, which of them belong together, and which of them stay together as blocks.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 2
        self.state = model.state_dict(keep_vars=True)
        self.names: dict[int, list[str]] = {}
        for key, value in self.state.items():
            self.names.setdefault(id(value), []).append(key)
        self.records: dict[tuple[int, int | None], Record] = {}
        self.ties: list[Tensor] = []
        self.blocks: list[tuple[str, Tensor]] = []
        self.asked: list[Tensor] = []

    def key(self, value: Tensor) -> str | None:
        """Give the name of a parameter or buffer; None for any other tensor."""
        return next(iter(self.names.get(id(value), ())), None)

    def axis(self, value: Tensor, axis: int, role: Literal["out", "in", "statistic"]) -> Tensor:
        """Give the atoms of an axis of a parameter or buffer; one of several names has them once."""
        return self._record(value, axis, role, value.shape[axis : axis + 1])

    def elements(self, value: Tensor) -> Tensor:
        """Give the atoms of all elements of a parameter or buffer that is added or multiplied as it is."""
        if value.ndim == 1:
            return self.axis(value, 0, "out")
        return self._record(value, None, "out", value.shape)

    def fresh(self, count: int) -> Tensor:
        """Make atoms of no parameter, for what a network numbers itself, such as heads."""
        self.count += count
        return torch.arange(self.count - count, self.count)

    def whole(self, labels: Tensor) -> None:
        """Say that elements are taken together, such as in a sum, so that they change places among themselves only."""
        self.records[-self.count, None] = Record((), 0, "in", labels.flatten())
        self.count += 1

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Say of two label tensors that their elements belong together; give the labels of the sum of both."""
        a, b = torch.broadcast_tensors(a, b)
        keep = tuple(slice(1) if x == y == 0 else slice(None) for x, y in zip(a.stride(), b.stride(), strict=True))
        small_a, small_b = a[keep], b[keep]
        differ = (small_a != small_b) & (small_a != BLANK) & (small_b != BLANK)
        if differ.any():
            code = (small_a[differ] << 32) + small_b[differ]
            code = code.unique()
            self.ties.append(torch.stack([code >> 32, code & 0xFFFFFFFF]))
        if (small_a == BLANK).any():
            return torch.where(a == BLANK, b, a)
        return a

    def same(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """Say that elements belong together that differ in other axes only; give the labels along the axes.

        Padding that takes the place of some of the elements does not count; where all are padding, the label is fixed.
        """
        found = grid(labels, axes)
        self.tie(labels, spread(found, labels.shape, axes))
        return settled(found)

    def _record(
        self, value: Tensor, axis: int | None, role: Literal["out", "in", "statistic"], shape: Sequence[int]
    ) -> Tensor:
        identity = id(value)
        if (identity, axis) not in self.records:
            if any(number == identity and (axis is None) != (other is None) for number, other in self.records):
                name = self.key(value)
                raise InputError(f"{name} must be used either as weights or element by element, not both; split it")
            count = math.prod(shape)
            atoms = self.fresh(count).view(tuple(shape))
            self.records[identity, axis] = Record(tuple(self.names[identity]), axis, role, atoms)
        return self.records[identity, axis].atoms


def grid(labels: Tensor, axes: Sequence[int]) -> Tensor:
    """Give one label for each place along some axes: any of those that are not blank."""
    chosen = [axis % labels.ndim for axis in axes]
    others = [axis for axis in range(labels.ndim) if axis not in chosen]
    return labels.amax(others) if others else labels


def spread(labels: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Repeat labels along all axes of a shape but some."""
    view = [1] * len(shape)
    for axis, size in zip(axes, labels.shape, strict=True):
        view[axis] = size
    return labels.view(view).expand(tuple(shape))


def settled(labels: Tensor) -> Tensor:
    """Turn blanks into what keeps its place, as a layer with weights does."""
    return torch.where(labels == BLANK, FIXED, labels)


def varies(value: Tensor, axis: int) -> bool:
    """Tell whether a tensor is not the same all along an axis."""
    return value.shape[axis] > 1 and value.stride(axis) != 0 and bool((value != value.narrow(axis, 0, 1)).any())


def narrowed(labels: Tensor) -> Tensor:
    """Give labels that hold each axis along which they are the same once, expanded."""
    small = labels
    for axis in range(labels.ndim):
        if small.shape[axis] > 1 and not varies(small, axis):
            small = small.narrow(axis, 0, 1)
    return small.expand(labels.shape)


def column(labels: Tensor, roots: Tensor) -> tuple[int, Tensor] | None:
    """Find the axis along which the units of a label tensor change.

    Args:
        labels: The labels.
        roots: For each atom the number of its unit.

    Returns:
        The axis and the atoms along it; None if there is no such axis.
    """
    keep = tuple(slice(1) if stride == 0 else slice(None) for stride in labels.stride())
    small = labels[keep]
    units = roots[small]
    for axis, size in enumerate(labels.shape):
        if size == 1 or small.shape[axis] != size:
            continue
        lines = units.movedim(axis, 0).flatten(1) if units.ndim > 1 else units[:, None]
        if (lines == lines[:, :1]).all():
            return axis, (small.movedim(axis, 0).flatten(1)[:, 0] if small.ndim > 1 else small)
    return None
