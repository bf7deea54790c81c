"""The verdicts of a screen: valid whenever it ends, over all recipes that were confirmed, and after selection.

Recipes are confirmed on pairs that no decision has looked at. The evidence for and against each is that of
`paperweight.bench.anytime`, whose mean is 1 at most where a recipe has no effect, whenever one stops. So the rule of
e-values (R. Wang, A. Ramdas, "False discovery rate control with e-values", JRSS B, 2022) holds, whatever the
dependence of recipes that share a baseline: of all verdicts "helps" or "hurts", one in twenty is wrong in expectation
at most. Intervals are at the level that this rule leaves (Z. Xu, R. Wang, A. Ramdas, "Post-selection inference for
e-value based confidence intervals", EJS, 2024): of those with a verdict, one in twenty misses at most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from paperweight.bench.anytime import log_evidence
from paperweight.bench.statistics import Interval, Verdict, mean

__all__ = ["FALSE", "Confirmed", "Series", "confirm", "evidence_interval"]

FALSE = 0.05
"""Share of the verdicts "helps" and "hurts" that is wrong, in expectation at most."""

_DOUBLINGS = 60
_REACH = 64.0


@final
@dataclass(frozen=True)
class Confirmed:
    """What pairs say of a recipe.

    Attributes:
        gains: One a pair, above zero where the recipe is better; ``None`` where a trial failed.
        gain: Their mean.
        interval: Of the centre, with its coverage.
        verdict: ``helps``, ``hurts``, ``no effect`` or ``inconclusive``.
    """

    gains: tuple[float | None, ...]
    gain: float
    interval: Interval
    verdict: Verdict


def _evidence(gains: Sequence[float | None], sign: float, centre: float = 0.0) -> float:
    """Return the logarithm of the evidence that gains, times a sign, have a centre above the given one."""
    series = np.array([-math.inf if gain is None else sign * gain for gain in gains], dtype=np.float64)
    return float(log_evidence(series, centre)[-1]) if len(series) else 0.0


def evidence_interval(gains: Sequence[float | None], level: float) -> Interval:
    """Return the centres that the evidence, as it is now, does not refute.

    Args:
        gains: One a pair, in the order in which they came; ``None`` counts as the worst on either side.
        level: The coverage, between 0 and 1.

    Returns:
        The interval; infinite ends where nothing is refuted. Whenever one stops, it has the coverage ``level``.

    Example:
        >>> interval = evidence_interval([1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 2.0], 0.95)
        >>> round(interval.low, 2), round(interval.high, 2)
        (1.0, 2.94)
    """
    wanted = math.log(2 / (1 - level))
    finite = [abs(gain) for gain in gains if gain is not None and math.isfinite(gain)]
    reach = _REACH * (max(finite, default=0.0) or 1.0)

    def lowest(sign: float) -> float:
        low, high = -reach, reach
        if _evidence(gains, sign, low) < wanted:
            return -math.inf
        if _evidence(gains, sign, high) >= wanted:
            return math.inf
        for _ in range(_DOUBLINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _evidence(gains, sign, middle) >= wanted else (low, middle)
        return low

    return Interval(lowest(1.0), 0.0 - lowest(-1.0), level)


def _level(recipes: int, found: int) -> float:
    return 1 - FALSE * max(1, found) / recipes


def _found(gains: Mapping[str, Sequence[float | None]]) -> set[str]:
    """Return the recipes of which it is found that they have an effect, by the rule of e-values."""
    evidence = {name: max(_evidence(each, 1.0), _evidence(each, -1.0)) for name, each in gains.items()}
    order = sorted(evidence, key=lambda name: -evidence[name])
    most = 0
    for place, name in enumerate(order, start=1):
        if evidence[name] >= math.log(2 * len(order) / (FALSE * place)):
            most = place
    return set(order[:most])


def confirm(gains: Mapping[str, Sequence[float | None]], minimal_effect: float) -> dict[str, Confirmed]:
    """Return what follows for each recipe.

    Args:
        gains: Recipe to its gains over the baseline, one a pair.
        minimal_effect: The smallest gain worth reporting, above 0.

    Returns:
        For each recipe *helps* or *hurts* where the rule of e-values finds an effect; *no effect* where the interval
        lies within the minimal effect on both sides; otherwise *inconclusive*.

    Example:
        >>> found = confirm({"a": [0.03, 0.02, 0.04] * 4, "b": [0.001, -0.001, 0.0005] * 4}, 0.01)
        >>> {name: each.verdict for name, each in found.items()}
        {'a': 'helps', 'b': 'no effect'}
    """
    found = _found(gains)
    level = _level(max(1, len(gains)), len(found))
    return {
        name: _confirmed(each, evidence_interval(each, level), minimal_effect, found=name in found)
        for name, each in gains.items()
    }


def _confirmed(gains: Sequence[float | None], interval: Interval, minimal_effect: float, *, found: bool) -> Confirmed:
    verdict: Verdict = "inconclusive"
    if -minimal_effect < interval.low <= interval.high < minimal_effect:
        verdict = "no effect"
    elif found and interval.low > 0:
        verdict = "helps"
    elif found and interval.high < 0:
        verdict = "hurts"
    return Confirmed(tuple(gains), mean(gains), interval, verdict)


@final
class Series:
    """The gains of recipes, pair by pair, each until it is settled.

    A recipe is settled after the first pair at which it has a verdict that no later verdict on others can take away.

    Args:
        recipes: All that are confirmed.
        minimal_effect: As `confirm` takes it.

    Attributes:
        gains: Recipe to its gains.
        open: The recipes that further pairs are wanted of.

    Example:
        >>> series = Series(["a", "b"], 0.001)
        >>> for one, other in [(0.03, 0.01), (0.02, -0.01), (0.04, 0.0)] * 4:
        ...     series.add({"a": one, "b": other})
        >>> series.open, len(series.gains["a"]), len(series.gains["b"])
        (['b'], 8, 12)
    """

    def __init__(self, recipes: Sequence[str], minimal_effect: float) -> None:
        self.gains: dict[str, list[float | None]] = {name: [] for name in recipes}
        self.open = list(recipes)
        self._minimal_effect = minimal_effect
        self._effects = 0

    def add(self, row: Mapping[str, float | None]) -> None:
        """Take the gains of the next pair: one of each recipe that is open, and no others count."""
        for name in self.open:
            self.gains[name].append(row[name])
        self.open = [name for name in self.open if not self._settled(self.gains[name])]

    def _settled(self, gains: Sequence[float | None]) -> bool:
        strongest = max(_evidence(gains, 1.0), _evidence(gains, -1.0))
        if strongest >= math.log(2 * len(self.gains) / (FALSE * (self._effects + 1))):
            self._effects += 1
            return True
        return _is_small(gains, self._minimal_effect, _level(len(self.gains), self._effects))


def _is_small(gains: Sequence[float | None], minimal_effect: float, level: float) -> bool:
    wanted = math.log(2 / (1 - level))
    return all(_evidence(gains, sign, -minimal_effect) >= wanted for sign in (1.0, -1.0))
