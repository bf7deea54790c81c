"""Trainings for every combination of some choices, as one long table, and how much each choice matters.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821: robustness compared over budgets, losses, sources of labels and images. The
    analysis of variance of a complete block design is that of the textbooks.

Deviations:
    - The authors compare what they happened to train; here each combination is trained with each seed.
    - The analysis of variance, which takes differences between combinations to be of equal spread, is added.
"""

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.stats import f as f_distribution

from paperweight.errors import InputError

__all__ = ["BudgetStudy", "BudgetTable", "Effect"]


@final
@dataclass(frozen=True)
class Effect:
    """What one factor, or two together beyond what each does alone, changes in a measure.

    Attributes:
        factors: One name or two.
        share: Of the variance of all trainings, from 0 to 1.
        p: How often as large a share comes about by chance where nothing is changed; nan where nothing is left over to
            tell chance by.
        means: For a single factor its levels and the mean of each; empty for two.
    """

    factors: tuple[str, ...]
    share: float
    p: float
    means: Mapping[str, float]


@final
@dataclass(frozen=True)
class BudgetTable:
    """One row a training: its level of each factor, its seed, and what was measured.

    Args:
        factors: Levels by factor, as text.
        rows: One dict a training, with each factor, ``seed`` and each measure.
    """

    factors: Mapping[str, tuple[str, ...]]
    rows: tuple[Mapping[str, Any], ...]

    def values(self, measure: str) -> np.ndarray:
        """Give a measure as an array, one axis a factor, in their order, and one of seeds at the end.

        Args:
            measure: Name of what was measured.

        Returns:
            Float64; what was not finite is so here.

        Raises:
            ValueError: If nothing of that name was measured.
        """
        known = [name for name in self.rows[0] if name not in self.factors and name != "seed"]
        if measure not in known:
            raise ValueError(f"measure must be one of {', '.join(known)}, got {measure!r}")
        seeds = sorted({row["seed"] for row in self.rows})
        shape = [*map(len, self.factors.values()), len(seeds)]
        found = np.full(shape, np.nan)
        for row in self.rows:
            place = [levels.index(row[factor]) for factor, levels in self.factors.items()]
            found[(*place, seeds.index(row["seed"]))] = row[measure]
        return found

    def effects(self, measure: str) -> list[Effect]:
        """Say how much of a measure's variance each factor explains, and each two together, the largest first.

        What seeds change on average is taken out; what is left after that and all effects is chance.

        Args:
            measure: Name of what was measured.

        Returns:
            An effect for each factor and each pair of factors.

        Raises:
            ValueError: If nothing of that name was measured, or a value is not finite.

        Example:
            >>> def train(loss, budget, seed):
            ...     return {"accuracy": 0.1 * (loss == "clip") + budget / 1000 + 0.001 * (seed * budget % 7)}
            >>> table = BudgetStudy({"loss": ["labels", "clip"], "budget": [100, 400]}, train, seeds=[1, 2, 3]).run()
            >>> [(effect.factors, round(effect.share, 2)) for effect in table.effects("accuracy")][0]
            (('budget',), 0.9)
        """
        values = self.values(measure)
        if not np.isfinite(values).all():
            raise ValueError(f"measure must be finite in every training, {measure} is not; leave out what failed")
        total, axes = float(((values - values.mean()) ** 2).sum()), range(values.ndim)
        chosen = [(axis,) for axis in axes] + list(itertools.combinations(range(values.ndim - 1), 2))
        parts = {those: _beyond(values, those) for those in chosen}
        squares = {those: float((np.broadcast_to(part, values.shape) ** 2).sum()) for those, part in parts.items()}
        freedom = {those: math.prod(values.shape[axis] - 1 for axis in those) for those in chosen}
        left = max(0.0, total - sum(squares.values()))
        free = values.size - 1 - sum(freedom.values())
        names = list(self.factors)
        found: list[Effect] = []
        for those in chosen:
            if values.ndim - 1 in those or not freedom[those]:
                continue
            p = math.nan
            if free > 0 and left > 1e-12 * total:
                p = float(f_distribution.sf(squares[those] / freedom[those] / (left / free), freedom[those], free))
            means = values.mean(axis=tuple(axis for axis in axes if axis not in those)) if len(those) == 1 else []
            of = {level: float(mean) for level, mean in zip(self.factors[names[those[0]]], means, strict=False)}
            share = squares[those] / total if total > 0 else 0.0
            found.append(Effect(tuple(names[axis] for axis in those), share, p, of))
        return sorted(found, key=lambda effect: -effect.share)


@final
class BudgetStudy:
    """Trains every combination of some choices with every seed.

    Args:
        factors: Choices by name, such as ``{"budget": [500, 2000], "loss": ["labels", "captions"]}``; each has at least
            one level, no two of which read alike.
        train: Called with one level of each factor by name, and ``seed``; gives measures by name, the same each time.
        seeds: Whole numbers, at least one, all different.

    Raises:
        ValueError: If factors or seeds are not as above.

    Example:
        >>> study = BudgetStudy({"budget": [500, 2000]}, lambda budget, seed: {"accuracy": budget / 4000}, seeds=[0])
        >>> [row["accuracy"] for row in study.run().rows]
        [0.125, 0.5]
    """

    def __init__(
        self,
        factors: Mapping[str, Sequence[Any]],
        train: Callable[..., Mapping[str, float]],
        seeds: Sequence[int] = (0, 1, 2),
    ) -> None:
        if not factors or "seed" in factors:
            raise ValueError(f"factors must be one at least, and none is named seed, got {list(factors)}")
        for name, levels in factors.items():
            if not len(levels) or len({str(level) for level in levels}) < len(levels):
                raise ValueError(f"factors must have levels that read differently, {name} has {list(levels)}")
        if not len(seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be at least one, all different, got {list(seeds)}")
        self.factors, self.train, self.seeds = {name: list(levels) for name, levels in factors.items()}, train, seeds

    def run(self, path: Path | str | None = None) -> BudgetTable:
        """Train what is not in the table yet, and give the table.

        Args:
            path: A CSV file to which each training adds a row when it is done. Where it is there already, what it holds
                is not trained again.

        Returns:
            The table, in the order of factors and seeds.

        Raises:
            InputError: If the file belongs to other factors, or cannot be read.
            ValueError: If a training gives other measures than the first.
        """
        done = {} if path is None else self._read(Path(path))
        rows: list[Mapping[str, Any]] = []
        for seed in self.seeds:
            for combination in itertools.product(*self.factors.values()):
                levels = dict(zip(self.factors, combination, strict=True))
                key = (*map(str, combination), str(seed))
                if key not in done:
                    measured = {name: float(value) for name, value in self.train(**levels, seed=seed).items()}
                    row = {**{name: str(level) for name, level in levels.items()}, "seed": seed, **measured}
                    expected = next(iter(done.values()), row)
                    if set(row) != set(expected):
                        raise ValueError(f"train must give the same measures each time, got {list(measured)}")
                    done[key] = row
                    if path is not None:
                        _append(Path(path), {name: row[name] for name in expected})
                rows.append(done[key])
        texts = {name: tuple(map(str, levels)) for name, levels in self.factors.items()}
        return BudgetTable(texts, tuple(rows))

    def _read(self, path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
        """Give the rows that a file holds, by levels and seed."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            return {}
        names = [*self.factors, "seed"]
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if columns[: len(names)] != names:
                wanted, there = ", ".join(names), ", ".join(columns)
                raise InputError(f"{path} must begin with the columns {wanted}, it has {there}; give a new path")
            found: dict[tuple[str, ...], dict[str, Any]] = {}
            for row in reader:
                try:
                    numbers = {name: float(value) for name, value in row.items() if name not in self.factors}
                except (TypeError, ValueError):
                    raise InputError(
                        f"{path}, line {reader.line_num}: measures must be numbers, got {list(row.values())}; "
                        "take the line out, and it is trained again"
                    ) from None
                levels = {name: row[name] for name in self.factors}
                found[(*levels.values(), row["seed"])] = {**levels, **numbers, "seed": int(numbers["seed"])}
        return found


def _append(path: Path, row: Mapping[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _beyond(values: np.ndarray, those: tuple[int, ...]) -> np.ndarray:
    """Give means over all other axes, less what fewer of these axes explain."""
    others = tuple(axis for axis in range(values.ndim) if axis not in those)
    found = values.mean(axis=others, keepdims=True)
    for size in range(len(those)):
        for fewer in itertools.combinations(those, size):
            found = found - _beyond(values, fewer)
    return found
