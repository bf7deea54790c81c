"""What a permutation of units touches: places in a state dict, points where the units are observed, groups of units."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

__all__ = ["Group", "Place", "Point"]


@final
@dataclass(frozen=True, eq=False)
class Place:
    """Rows of one axis of a parameter or buffer that belong to units of a group.

    Args:
        key: The entry of the state dict.
        axis: The axis on which the units lie.
        role: ``"out"`` where the layer makes the units, ``"in"`` where it reads them, ``"statistic"`` for a buffer of
            running statistics.
        units: Numbers of the units, (U,), int64.
        index: Rows of each unit, (U, block), int64; a block has more than one row where a map was flattened, or where
            query and key share their units.

    Example:
        >>> place = Place("fc.weight", 0, "out", torch.arange(2), torch.tensor([[0], [1]]))
        >>> place.key, place.index.shape
        ('fc.weight', torch.Size([2, 1]))
    """

    key: str
    axis: int
    role: Literal["out", "in", "statistic"]
    units: Tensor
    index: Tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Place)
            and (self.key, self.axis, self.role) == (other.key, other.axis, other.role)
            and torch.equal(self.units, other.units)
            and torch.equal(self.index, other.index)
        )


@final
@dataclass(frozen=True, eq=False)
class Point:
    """Where the units of a group are observed.

    Args:
        module: Name of the module whose input or output shows the units.
        side: ``"input"``, ``"output"``, or ``"query"``, ``"key"``, ``"value"`` for the projections inside of
            `torch.nn.MultiheadAttention`.
        axis: The axis of that tensor on which the units lie, counted from the first.
        units: Numbers of the units, (U,), int64.
        index: Entries of each unit, (U, block), int64.

    Example:
        >>> Point("fc", "input", 1, torch.arange(2), torch.tensor([[0], [1]])).side
        'input'
    """

    module: str
    side: Literal["input", "output", "query", "key", "value"]
    axis: int
    units: Tensor
    index: Tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Point)
            and (self.module, self.side, self.axis) == (other.module, other.side, other.axis)
            and torch.equal(self.units, other.units)
            and torch.equal(self.index, other.index)
        )


@final
@dataclass(frozen=True)
class Group:
    """Units that may change places among each other without a change of the function.

    Most groups are one block of one kind: any permutation will do. The units of an attention are ``blocks`` heads,
    each of two kinds, the units of query and key and those of value: heads change places as a whole, and within a head
    the units of a kind. The channels of a group normalization are ``blocks`` of one kind.

    Args:
        name: Name of the group, that of the first module that makes its units.
        blocks: Number of blocks.
        kinds: Number of units of each kind in a block.
        places: What the permutation touches.
        points: Where the units are observed.

    Example:
        >>> Group("attention", 4, (8, 8), (), ()).size
        64
    """

    name: str
    blocks: int
    kinds: tuple[int, ...]
    places: tuple[Place, ...]
    points: tuple[Point, ...]

    @property
    def size(self) -> int:
        """Number of units: all kinds of all blocks, numbered block by block, kind by kind."""
        return self.blocks * sum(self.kinds)

    def units(self) -> tuple[Tensor, ...]:
        """Give the numbers of the units of each kind, each (blocks, units of the kind)."""
        numbers = torch.arange(self.size).view(self.blocks, -1)
        return numbers.split(self.kinds, dim=1)

    def allows(self, permutation: Tensor) -> bool:
        """Tell whether a permutation keeps blocks together and kinds apart.

        Args:
            permutation: For each unit the number of the one that takes its place, (size,), int64.
        """
        if permutation.shape != (self.size,) or permutation.dtype != torch.int64:
            return False
        if not torch.equal(permutation.sort().values.cpu(), torch.arange(self.size)):
            return False
        blocks = torch.arange(self.size).view(self.blocks, -1)
        moved = permutation.cpu().view(self.blocks, -1)
        width = blocks.shape[1]
        kind = torch.repeat_interleave(torch.arange(len(self.kinds)), torch.tensor(self.kinds))
        together = (moved // width == moved[:, :1] // width).all()
        return bool(together and (kind[moved % width] == kind).all())

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw a permutation that keeps blocks together and kinds apart.

        Args:
            generator: Source of the random numbers, on the CPU.
        """
        moved = torch.empty(self.blocks, sum(self.kinds), dtype=torch.int64)
        order = torch.randperm(self.blocks, generator=generator)
        start = 0
        for units in self.units():
            width = units.shape[1]
            for block in range(self.blocks):
                inner = torch.randperm(width, generator=generator)
                moved[block, start : start + width] = units[order[block]][inner]
            start += width
        return moved.flatten()
