"""The verdicts of a screen: valid whenever it ends, over all recipes that were confirmed, and after selection.

Recipes are confirmed on pairs that no decision has looked at. The evidence for and against each is that of
`paperweight.bench.anytime`, whose mean is 1 at most where a recipe has no effect, whenever one stops. So the rule of
e-values (R. Wang, A. Ramdas, "False discovery rate control with e-values", JRSS B, 2022) holds, whatever the
dependence of recipes that share a baseline: of all verdicts "helps" or "hurts", one in twenty is wrong in expectation
at most. Intervals are at the level that this rule leaves (Z. Xu, R. Wang, A. Ramdas, "Post-selection inference for
e-value based confidence intervals", EJS, 2024): of those with a verdict, one in twenty misses at most. The recipes that
are confirmed first share four fifths of that twentieth alike; of the rest, those that are only looked at afterwards
have the more the sooner their turn is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

import numpy as np
from numpy.typing import NDArray

from paperweight.bench.anytime import last_refuted, log_evidence, pairs_needed
from paperweight.bench.statistics import Interval, Verdict, mean

__all__ = ["FALSE", "Confirmed", "Series", "confirm", "effects", "evidence_interval", "pairs_wanted", "shares"]

FALSE = 0.05
"""Share of the verdicts "helps" and "hurts" that is wrong, in expectation at most."""

_UP, _DOWN = 1.0, -1.0  # signs of the gains: evidence for a centre above, or below
_FIRST = 0.8
_NONE = 1e-15  # of the largest centre that is looked at
_FAILURES = 3
_REACH = 64.0
_SPARE = 3


@final
@dataclass(frozen=True)
class Confirmed:
    """What pairs say of a recipe.

    Attributes:
        gains: One a pair, above zero where the recipe is better; ``None`` where a trial failed.
        gain: Their mean; where a few that differ much put that outside the interval, their median, and where that is
            outside, too, the nearest end.
        interval: Of the centre, with its coverage.
        verdict: ``helps``, ``hurts``, ``no effect`` or ``inconclusive``.
    """

    gains: tuple[float | None, ...]
    gain: float
    interval: Interval
    verdict: Verdict


def _evidence(gains: Sequence[float | None], *sides: tuple[float, float]) -> list[float]:
    """Return, for each sign and centre, the logarithm of the evidence that gains times the sign have a centre above."""
    if not gains:
        return [0.0] * len(sides)
    series = np.array([math.nan if gain is None else gain for gain in gains], dtype=np.float64)
    signs, centres = np.array(sides).T[:, :, None]
    signed = np.where(np.isnan(series), -math.inf, signs * series)
    return log_evidence(signed, centres)[:, -1].tolist()


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
        def refuted(centres: NDArray[np.float64]) -> NDArray[np.bool_]:
            return np.array(_evidence(gains, *((sign, centre) for centre in centres))) >= wanted

        low = last_refuted(refuted, -reach, reach)
        return math.inf if low == reach else low if abs(low) > _NONE * reach else 0.0

    return Interval(lowest(_UP), 0.0 - lowest(_DOWN), level)


def shares(first: Sequence[str], then: Sequence[str] = ()) -> dict[str, float]:
    """Return which share of the wrong verdicts that are allowed falls to each recipe; they add up to 1.

    Args:
        first: The recipes that are confirmed first.
        then: Those that are confirmed once these are settled, in their order: the second has half the share of the
            first, the third a third, for it is not known how many will have a turn.

    Example:
        >>> {name: round(share, 3) for name, share in shares(["a", "b"], ["c", "d", "e"]).items()}
        {'a': 0.4, 'b': 0.4, 'c': 0.109, 'd': 0.055, 'e': 0.036}
    """
    weights = {name: 1 / (1 + place) for place, name in enumerate(then)}
    left = 1 - _FIRST if first else 1.0
    whole = sum(weights.values())
    alike = {name: (1.0 - (left if then else 0.0)) / len(first) for name in first}
    return alike | {name: left * weight / whole for name, weight in weights.items()}


def pairs_wanted(share: float) -> int:
    """Return the pairs that a recipe should have time for: three more than it takes a sure effect to count alone.

    Args:
        share: Its share of the wrong verdicts, in (0, 1].

    Example:
        >>> pairs_wanted(0.1), pairs_wanted(0.01)
        (12, 16)
    """
    return pairs_needed(math.ceil(1 / share)) + _SPARE


def _wanted(share: float, found: int) -> float:
    """Return the logarithm of the evidence on one side from which a recipe counts, as one of so many that are found."""
    return math.log(2 / (FALSE * found * share))


def effects(gains: Mapping[str, Sequence[float | None]], share: Mapping[str, float]) -> dict[str, Verdict]:
    """Return which recipes help and which hurt, by the rule of e-values; the others are left out.

    Args:
        gains: Recipe to its gains over the baseline, one a pair.
        share: What `shares` gave before the first pair.

    Example:
        >>> effects({"a": [0.03, 0.02, 0.04] * 4, "b": [0.001, -0.001, 0.0005] * 4}, shares(["a", "b"]))
        {'a': 'helps'}
    """
    sides = {name: _evidence(each, (_UP, 0.0), (_DOWN, 0.0)) for name, each in gains.items()}
    evidence = {name: max(each) for name, each in sides.items()}
    for count in range(len(gains), 0, -1):
        strong = [name for name in gains if evidence[name] >= _wanted(share[name], count)]
        if len(strong) >= count:
            return {name: "helps" if sides[name][0] == evidence[name] else "hurts" for name in strong}
    return {}


def confirm(
    gains: Mapping[str, Sequence[float | None]], share: Mapping[str, float], minimal_effect: float
) -> dict[str, Confirmed]:
    """Return what follows for each recipe.

    Args:
        gains: Recipe to its gains over the baseline, one a pair.
        share: What `shares` gave before the first pair.
        minimal_effect: The smallest gain worth reporting, above 0.

    Returns:
        For each recipe *helps* or *hurts* where the rule of e-values finds an effect; *no effect* where the interval
        lies within the minimal effect on both sides; otherwise *inconclusive*.

    Example:
        >>> gains = {"a": [0.03, 0.02, 0.04] * 4, "b": [0.001, -0.001, 0.0005] * 4}
        >>> {name: each.verdict for name, each in confirm(gains, shares(["a", "b"]), 0.01).items()}
        {'a': 'helps', 'b': 'no effect'}
    """
    found = effects(gains, share)
    confirmed: dict[str, Confirmed] = {}
    for name, each in gains.items():
        interval = evidence_interval(each, 1 - FALSE * share[name] * max(1, len(found)))
        small = -minimal_effect < interval.low <= interval.high < minimal_effect
        verdict = "no effect" if small else found.get(name, "inconclusive")
        confirmed[name] = Confirmed(tuple(each), _middle(each, interval), interval, verdict)
    return confirmed


def _middle(gains: Sequence[float | None], interval: Interval) -> float:
    """Return the gain to tell beside an interval, within it unless that is empty: what is told must not contradict."""
    low, high = interval.low, interval.high
    value = mean(gains)
    if math.isnan(value) or low <= value <= high or low > high:
        return value
    return min(max(median(gain for gain in gains if gain is not None), low), high)


@final
class Series:
    """The gains of recipes, pair by pair, each until it is settled.

    A recipe is settled after the first pair at which it has a verdict that no later verdict on others can undo (a sure
    effect may still turn out to lie within the minimal one once others are found, since intervals then narrow),
    and given up, which is no verdict, after three pairs in a row in which a trial failed.

    Args:
        first: The recipes that are confirmed first.
        then: Those that `begin` may add.
        minimal_effect: As `confirm` takes it.

    Attributes:
        gains: Recipe to its gains.
        share: Recipe to its share of the wrong verdicts.
        open: The recipes that the next pair is wanted of.

    Example:
        >>> series = Series(["a", "b"], [], 0.001)
        >>> for one, other in [(0.03, 0.01), (0.02, -0.01), (0.04, 0.0)] * 4:
        ...     series.add({"a": one, "b": other})
        >>> series.open, len(series.gains["a"]), len(series.gains["b"])
        (['b'], 8, 12)
    """

    def __init__(self, first: Sequence[str], then: Sequence[str], minimal_effect: float) -> None:
        self.share = shares(first, then)
        self.gains: dict[str, list[float | None]] = {name: [] for name in self.share}
        self.open = list(first)
        self._waiting = list(then)
        self._minimal_effect = minimal_effect
        self._effects = 0

    def begin(self, names: Sequence[str]) -> None:
        """Open recipes that waited; which ones must not depend on gains of theirs, and only later pairs count."""
        for name in names:
            self._waiting.remove(name)
            self.open.append(name)

    def add(self, row: Mapping[str, float | None]) -> None:
        """Take the gains of the next pair: one of each recipe that is open, and no others count."""
        for name in list(self.open):
            self.gains[name].append(row[name])
            if self._settled(name) or self.gave_up(name):
                self.open.remove(name)

    def gave_up(self, name: str) -> bool:
        """Whether the last three pairs of a recipe failed."""
        last = self.gains[name][-_FAILURES:]
        return len(last) == _FAILURES and all(gain is None for gain in last)

    def _settled(self, name: str) -> bool:
        gains, share = self.gains[name], self.share[name]
        least = self._minimal_effect
        up, down, not_lower, not_higher = _evidence(gains, (_UP, 0.0), (_DOWN, 0.0), (_UP, -least), (_DOWN, -least))
        if max(up, down) >= _wanted(share, self._effects + 1):
            self._effects += 1
            return True
        return min(not_lower, not_higher) >= _wanted(share, max(1, self._effects))
