"""Curves of trials, summarised over seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paperweight.bench.trial import TrialRecord

__all__ = ["Point", "later_curves", "median_curves", "plain_points", "read_points", "strays"]

_COLUMNS = ("at", "lowest", "median", "highest")

Point = tuple[float, float, float, float]
"""A place, and the smallest, median and largest value there over seeds."""


def median_curves(records: Iterable[TrialRecord], arms: Sequence[str], most: int) -> dict[str, dict[str, list[Point]]]:
    """Return the median of each curve of each arm over its trials, and its range.

    Args:
        records: The trials.
        arms: Their arms, in the order of the result.
        most: Largest number of points of a curve; of more, neighbouring ones are taken together.

    Returns:
        Name of a curve to arm to points, by place; places and values that are not finite are left out, and arms that
        have no other.

    Example:
        >>> from paperweight.bench.trial import TrialSpec
        >>> specs = [TrialSpec(study="s", arm="a", seed=seed, budget="smoke") for seed in range(3)]
        >>> points = [(1.0, 0.0)], [(1.0, 2.0)], [(1.0, 1.0)]
        >>> trials = [
        ...     TrialRecord(spec=spec, status="finished", curves={"loss": given})
        ...     for spec, given in zip(specs, points, strict=True)
        ... ]
        >>> median_curves(trials, ["a"], 20)
        {'loss': {'a': [(1.0, 0.0, 1.0, 2.0)]}}
    """
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for record in records:
        for name, points in record.curves.items():
            of_arms = found.setdefault(name, {arm: defaultdict(list) for arm in arms})
            for x, y in points:
                if math.isfinite(x) and math.isfinite(y):
                    of_arms[record.spec.arm][x].append(y)
    return {
        name: {arm: _thinned(by_x, most) for arm, by_x in of_arms.items() if by_x} for name, of_arms in found.items()
    }


def plain_points(points: Sequence[Point]) -> dict[str, list[float]]:
    """Return points as plain lists of numbers of five digits, for JSON.

    Args:
        points: Places, and the smallest, median and largest value at each.

    Example:
        >>> plain_points([(1.0, 0.0, 1 / 3, 2.0)])
        {'at': [1.0], 'lowest': [0.0], 'median': [0.33333], 'highest': [2.0]}
    """
    columns = zip(*points, strict=True) if points else ((), (), (), ())
    return {name: [float(f"{value:.5g}") for value in column] for name, column in zip(_COLUMNS, columns, strict=True)}


def read_points(plain: Mapping[str, Sequence[float]]) -> list[Point]:
    """Return the points that `plain_points` gave.

    Example:
        >>> read_points(plain_points([(1.0, 0.0, 0.5, 2.0)]))
        [(1.0, 0.0, 0.5, 2.0)]
    """
    at, lowest, median, highest = (plain[name] for name in _COLUMNS)
    return list(zip(at, lowest, median, highest, strict=True))


def later_curves(measured: Mapping[str, Any], again: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """Return the curves of trials that repeat some of a result, with what tells how well they do.

    Args:
        measured: The measured part of the result.
        again: That of the repeated trials: all arms, on some of its seeds.
        headline: The metric that is compared.

    Returns:
        ``seeds``, ``measured_on``, ``environment``, ``curves`` of the repeated trials, and ``difference``: the largest
        of the headline metric, infinite where a trial finished in one of the two alone.

    Example:
        >>> old = {"seeds": [0, 1], "values": {"accuracy": {"plain": [0.5, 0.25]}}}
        >>> new = {"seeds": [1], "values": {"accuracy": {"plain": [0.375]}}, "curves": {}}
        >>> later_curves(old, new | {"measured_on": "2026-11-30", "environment": {}}, "accuracy")["difference"]
        0.125
    """
    place = {seed: index for index, seed in enumerate(measured["seeds"])}
    differences = [
        _apart(measured["values"][headline][arm][place[seed]], value)
        for arm, values in again["values"][headline].items()
        for seed, value in zip(again["seeds"], values, strict=True)
    ]
    kept = {name: again[name] for name in ("seeds", "measured_on", "environment", "curves")}
    return {**kept, "difference": max(differences)}


def strays(measured: Mapping[str, Any], again: Mapping[str, Any], headline: str, margin: float) -> list[str]:
    """Return the arms of which a repeated trial gave a value that is not among those of the result.

    Args:
        measured: The measured part of the result.
        again: That of the repeated trials.
        headline: The metric that is looked at.
        margin: How far outside the smallest and largest value of an arm is still among them, exclusive.

    Example:
        >>> old = {"values": {"accuracy": {"plain": [0.5, 0.25], "method": [0.5, 0.5]}}}
        >>> new = {"values": {"accuracy": {"plain": [0.375], "method": [0.75]}}}
        >>> strays(old, new, "accuracy", 0.1)
        ['method']
    """
    found: list[str] = []
    for arm, values in again["values"][headline].items():
        known = [float(value) for value in measured["values"][headline][arm] if value is not None]
        inside = [
            value is not None and bool(known) and min(known) - margin < float(value) < max(known) + margin
            for value in values
        ]
        if not all(inside):
            found.append(arm)
    return found


def _apart(one: float | str | None, other: float | str | None) -> float:
    if one == other:
        return 0.0
    return abs(float(one) - float(other)) if one is not None and other is not None else math.inf


def _thinned(by_x: Mapping[float, Sequence[float]], most: int) -> list[Point]:
    xs = sorted(by_x)
    each = -(-len(xs) // most)
    points: list[Point] = []
    for start in range(0, len(xs), each):
        group = xs[start : start + each]
        values = [value for x in group for value in by_x[x]]
        points.append((group[len(group) // 2], min(values), statistics.median(values), max(values)))
    return points
