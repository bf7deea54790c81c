"""What tuning chose, and where that is the edge of what was tried, so that a wider grid might change a result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from paperweight.bench.wording import number

__all__ = ["EDGE_SHARE", "Edge", "edges"]

EDGE_SHARE = 1 / 3
"""The share of seeds above which a choice at an edge is told."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A tuned argument that many seeds chose at one end of its grid.

    Args:
        arm: The arm.
        name: The argument.
        value: The value at the end.
        side: ``lowest`` or ``highest``.
        count: How many seeds chose it.
        seeds: Of how many.
    """

    arm: str
    name: str
    value: float
    side: str
    count: int
    seeds: int

    def words(self) -> str:
        """Return a sentence."""
        return (
            f"{self.arm} chose the {self.side} {self.name.replace('_', ' ')} that was tried, {number(self.value)}, in "
            f"{self.count} of {self.seeds} seeds: a wider grid may change this."
        )


def edges(measured: Mapping[str, Any]) -> list[Edge]:
    """Return the choices at an end of their grid, each of more than a third of the seeds.

    Args:
        measured: The measured part of a result. One from before grids were recorded gives none.

    Example:
        >>> grids = {"sgd": {"lr": [0.1, 0.3, 1.0]}}
        >>> arguments = {"sgd": {"lr": [1.0, 0.3, 1.0]}}
        >>> edges({"seeds": [0, 1, 2], "grids": grids, "arguments": arguments})[0].words()
        'sgd chose the highest lr that was tried, 1, in 2 of 3 seeds: a wider grid may change this.'
    """
    found: list[Edge] = []
    seeds = len(measured["seeds"])
    for arm, grids in measured.get("grids", {}).items():
        for name, grid in grids.items():
            tried = grid if any(isinstance(part, list | None) for part in grid) else [grid] * seeds
            chosen = measured["arguments"][arm][name]
            of_seeds = cast(list[Any], chosen) if isinstance(chosen, list) else [chosen] * seeds
            both = list(zip(of_seeds, tried, strict=True))
            for side, end in (("lowest", min), ("highest", max)):
                at = [value for value, grid in both if grid and len(grid) > 1 and value == end(grid)]
                if len(at) > EDGE_SHARE * seeds:
                    found.append(Edge(arm, name, at[0], side, len(at), seeds))
    return found
