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

_ROUNDING = 1e-12


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
        if total <= values.size * (_ROUNDING * float(np.abs(values).max())) ** 2:
            total = 0.0
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
            if free > 0 and total > 0 and left > 1e-12 * total:
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
            texts = [] if isinstance(levels, str) else [str(level) for level in levels]
            if not texts or len(set(texts)) < len(texts) or any(len(text.splitlines()) > 1 for text in (name, *texts)):
                raise ValueError(
                    f"factors must have lists of levels that read differently, in one line each, {name} has {levels!r}"
                )
        if not len(seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be at least one, all different, got {list(seeds)}")
        self.factors, self.train, self.seeds = {name: list(levels) for name, levels in factors.items()}, train, seeds

    def run(self, path: Path | str | None = None) -> BudgetTable:
        """Train what is not in the table yet, and give the table.

        Args:
            path: A CSV file in UTF-8 to which each training adds a row when it is done. Where it is there already, what
                it holds is not trained again; a last line that was cut off is.

        Returns:
            The table, in the order of factors and seeds.

        Raises:
            InputError: If the file belongs to other factors, or cannot be read or written.
            ValueError: If a training gives other measures than those before, or one that is named as a factor.
        """
        file = None if path is None else _File(Path(path), tuple(self.factors))
        done = {} if file is None else file.rows()
        rows: list[Mapping[str, Any]] = []
        for seed in self.seeds:
            for combination in itertools.product(*self.factors.values()):
                levels = dict(zip(self.factors, combination, strict=True))
                key = (*map(str, combination), str(seed))
                if key not in done:
                    measured = {name: float(value) for name, value in self.train(**levels, seed=seed).items()}
                    expected = next((set(row) - {*self.factors, "seed"} for row in done.values()), set(measured))
                    if file is not None and file.measures:
                        expected = set(file.measures)
                    if set(measured) != expected or expected & {*self.factors, "seed"}:
                        raise ValueError(
                            f"train must give the same measures each time, {sorted(expected)}, and none that is named "
                            f"as a factor or seed, got {list(measured)}"
                        )
                    done[key] = {**{name: str(level) for name, level in levels.items()}, "seed": seed, **measured}
                    if file is not None:
                        file.add(done[key])
                rows.append(done[key])
        texts = {name: tuple(map(str, levels)) for name, levels in self.factors.items()}
        return BudgetTable(texts, tuple(rows))


@final
class _File:
    """A CSV file of trainings; a last line that was cut off is taken out, and trained again."""

    def __init__(self, path: Path, factors: tuple[str, ...]) -> None:
        self._path, self._names = path, [*factors, "seed"]
        self.measures: list[str] = []

    def rows(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """Give the rows that are there, by levels and seed."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = self._path.read_bytes().decode("utf-8-sig") if self._path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                self._path.write_bytes(whole.encode())
            reader = csv.DictReader(whole.splitlines(keepends=True), strict=True)
            return self._parsed(reader) if whole else {}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self._path} must be a CSV file in UTF-8 that can be read: {error}") from None

    def _parsed(self, reader: "csv.DictReader[str]") -> dict[tuple[str, ...], dict[str, Any]]:
        columns = list(reader.fieldnames or ())
        if columns[: len(self._names)] != self._names:
            wanted, there = ", ".join(self._names), ", ".join(columns)
            raise InputError(f"{self._path} must begin with the columns {wanted}, it has {there}; give a new path")
        self.measures = columns[len(self._names) :]
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in reader:
            try:
                if None in row:
                    raise ValueError
                numbers = {name: float(row[name]) for name in self.measures}
                levels = {name: row[name] for name in self._names[:-1]}
                found[(*levels.values(), row["seed"])] = {**levels, "seed": int(row["seed"]), **numbers}
            except (TypeError, ValueError):
                raise InputError(
                    f"{self._path}, line {reader.line_num}: seeds must be whole numbers and measures numbers, as many "
                    f"as there are columns, got {list(row.values())}; take the line out, and it is trained again"
                ) from None
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row at the end."""
        new = not self.measures
        self.measures = self.measures or [name for name in row if name not in self._names]
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [*self._names, *self.measures], lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be written: {error.strerror}; free space, or give a new path"
            ) from None


def _beyond(values: np.ndarray, those: tuple[int, ...]) -> np.ndarray:
    """Give means over all other axes, less what fewer of these axes explain."""
    others = tuple(axis for axis in range(values.ndim) if axis not in those)
    found = values.mean(axis=others, keepdims=True)
    for size in range(len(those)):
        for fewer in itertools.combinations(those, size):
            found = found - _beyond(values, fewer)
    return found
