"""Groups written down by hand, for networks whose construction is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import nn

from paperweight.merging.groups import Group, Place, Point

__all__ = ["Draft", "finished"]


@final
@dataclass
class Draft:
    """A group of one block of one kind, while its places are being collected.

    Args:
        name: Its name.
        size: Number of its units.
    """

    name: str
    size: int
    places: list[Place] = field(default_factory=list[Place])
    point: Point | None = None

    def touch(
        self, key: str, axis: int, role: Literal["out", "in", "statistic"], start: int = 0, block: int = 1
    ) -> None:
        """Add rows of a parameter or buffer, from ``start`` on, ``block`` for each unit."""
        index = start + torch.arange(self.size * block).view(self.size, block)
        self.places.append(Place(key, axis, role, torch.arange(self.size), index))

    def make(self, model: nn.Module, name: str, start: int = 0) -> None:
        """Add all of a layer or normalization that makes or keeps the units."""
        for part in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(getattr(model.get_submodule(name), part, None), torch.Tensor):
                self.touch(f"{name}.{part}", 0, "statistic" if part.startswith("running") else "out", start)

    def look(self, module: str, start: int = 0, block: int = 1) -> None:
        """Observe the units at the input of a module, on axis 1."""
        index = start + torch.arange(self.size * block).view(self.size, block)
        self.point = Point(module, "input", 1, torch.arange(self.size), index)


def finished(model: nn.Module, drafts: Sequence[Draft]) -> tuple[Group, ...]:
    """Turn drafts into groups; those of one unit are left out."""
    order = {key: number for number, key in enumerate(model.state_dict())}
    return tuple(
        Group(
            draft.name,
            1,
            (draft.size,),
            tuple(sorted(draft.places, key=lambda place: (order[place.key], place.axis))),
            (draft.point,) if draft.point else (),
        )
        for draft in drafts
        if draft.size > 1
    )
