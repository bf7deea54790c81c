"""The verdicts of a screen: valid whenever it ends, over all recipes that were confirmed, and after selection.

Recipes are confirmed on pairs that no decision has looked at. The evidence for and against each is that of
`paperweight.bench.anytime`, whose mean is 1 at most where a recipe has no effect, whenever one stops. So the rule of
e-values (R. Wang, A. Ramdas, "False discovery rate control with e-values", JRSS B, 2022) holds, whatever the
dependence of recipes that share a baseline: of all verdicts "helps" or "hurts", one in twenty is wrong in expectation
at most. Intervals are at the level that the number of all verdicts leaves (Z. Xu, R. Wang, A. Ramdas, "Post-selection
inference for e-value based confidence intervals", EJS, 2024), and "no effect" is said of those that lie within the
minimal effect at that level, which these verdicts count towards: of all that have a verdict, one in twenty misses at
most. The recipes that are confirmed first share three fifths of that twentieth alike; of the rest, those that are only
looked at afterwards have the more the sooner their turn is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import final

import numpy as np
from numpy.typing import NDArray

from paperweight.bench.anytime import last_refuted, log_evidence, pairs_needed
from paperweight.bench.statistics import Interval, Verdict, mean

__all__ = [
    "FALSE",
    "Confirmed",
    "Series",
    "confirm",
    "evidence_interval",
    "pairs_expected",
    "pairs_wanted",
    "shares",
    "verdicts",
]

FALSE = 0.05
"""Share of the verdicts that is wrong, in expectation at most; of "helps" and "hurts" alone, too."""

_UP, _DOWN = 1.0, -1.0  # signs of the gains: evidence for a centre above, or below
_FIRST = 0.6
_NONE = 1e-15  # of the largest centre that is looked at
_FAILURES = 3
_REACH = 64.0
_SPARE = 3
_DRAWN, _MANY, _MOST = 200, 100, 0.8


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
        {'a': 0.3, 'b': 0.3, 'c': 0.218, 'd': 0.109, 'e': 0.073}
    """
    weights = {name: 1 / (1 + place) for place, name in enumerate(then)}
    left = 1 - _FIRST if first else 1.0
    whole = sum(weights.values())
    alike = {name: (1.0 - (left if then else 0.0)) / len(first) for name in first}
    return alike | {name: left * weight / whole for name, weight in weights.items()}


def pairs_wanted(share: float, found: int = 1) -> int:
    """Return the pairs that a recipe should have time for: three more than it takes a sure verdict to count.

    Args:
        share: Its share of the wrong verdicts, in (0, 1].
        found: How many verdicts there are then, this one included.

    Example:
        >>> pairs_wanted(0.1), pairs_wanted(0.01), pairs_wanted(0.01, 8)
        (12, 16, 13)
    """
    return pairs_needed(math.ceil(1 / min(1.0, share * found))) + _SPARE


def pairs_expected(effect: float, spread: float, shares: Sequence[float]) -> list[int]:
    """Return the pairs that most recipes without an effect need to be shown to have none.

    Args:
        effect: The smallest gain worth reporting, above 0.
        spread: Standard deviation of gains, 0 or more; they are drawn from a normal distribution.
        shares: For each recipe, its share of the wrong verdicts times how many verdicts there are then, above 0.

    Returns:
        For each recipe the number that suffices for four of five recipes, and one to spare; a hundred at most.

    Example:
        >>> pairs_expected(0.01, 0.005, [0.8, 0.1]), pairs_expected(0.01, 0.02, [0.8])
        ([10, 14], [100])
    """
    gains = spread * np.random.default_rng(0).standard_normal((_DRAWN, _MANY))
    within = np.minimum(log_evidence(gains, -effect), log_evidence(-gains, -effect))
    pairs: list[int] = []
    for share in shares:
        shown = (within >= _wanted(min(1.0, share), 1)).mean(axis=0) >= _MOST
        pairs.append(min(int(shown.argmax()) + 2, _MANY) if shown.any() else _MANY)
    return pairs


def _wanted(share: float, found: int) -> float:
    """Return the logarithm of the evidence on one side from which a recipe counts, as one of so many that are found."""
    return math.log(2 / (FALSE * found * share))


def verdicts(
    gains: Mapping[str, Sequence[float | None]],
    share: Mapping[str, float],
    minimal_effect: float,
    before: Mapping[str, Verdict] = MappingProxyType({}),
) -> dict[str, Verdict]:
    """Return the verdicts; recipes without one are left out.

    Args:
        gains: Recipe to its gains over the baseline, one a pair.
        share: What `shares` gave before the first pair.
        minimal_effect: The smallest gain worth reporting, above 0.
        before: Verdicts after fewer pairs, which stay.

    Returns:
        *no effect* where both sides of the minimal effect are refuted at the level that as many verdicts as there are
        leave; *helps* or *hurts* where the rule of e-values finds an effect, at the level that so many of these leave.

    Example:
        >>> gains = {"a": [0.03, 0.02, 0.04] * 4, "b": [0.001, -0.001, 0.0005] * 4, "c": [0.03, -0.02] * 6}
        >>> verdicts(gains, shares(list(gains)), 0.01)
        {'b': 'no effect', 'a': 'helps'}
    """
    sides = ((_UP, 0.0), (_DOWN, 0.0), (_UP, -minimal_effect), (_DOWN, -minimal_effect))
    evidence = {name: _evidence(each, *sides) for name, each in gains.items() if each and name not in before}
    effects = sum(verdict != "no effect" for verdict in before.values())
    for count in range(len(before) + len(evidence), len(before), -1):
        small = [name for name, (_, _, *within) in evidence.items() if min(within) >= _wanted(share[name], count)]
        others = {name: max(up, down) for name, (up, down, *_) in evidence.items() if name not in small}
        strong = _largest(others, share, effects)
        if len(before) + len(small) + len(strong) >= count:
            found: dict[str, Verdict] = {name: _direction(*evidence[name][:2]) for name in strong}
            return {**before, **dict.fromkeys(small, "no effect"), **found}
    return dict(before)


def _largest(evidence: Mapping[str, float], share: Mapping[str, float], before: int) -> list[str]:
    """Return the largest set of recipes whose evidence suffices for as many effects as there are with those before."""
    for count in range(before + len(evidence), before, -1):
        strong = [name for name, each in evidence.items() if each >= _wanted(share[name], count)]
        if before + len(strong) >= count:
            return strong
    return []


def _direction(up: float, down: float) -> Verdict:
    return "helps" if up >= down else "hurts"


def confirm(
    gains: Mapping[str, Sequence[float | None]], share: Mapping[str, float], said: Mapping[str, Verdict]
) -> dict[str, Confirmed]:
    """Return what follows for each recipe.

    Args:
        gains: As `verdicts` takes them.
        share: As `verdicts` takes it.
        said: What `verdicts` gave.

    Returns:
        The verdict of each, or *inconclusive*, and an interval: at the level that the number of verdicts leaves where
        it has one; otherwise at that of the rule of e-values, so that the interval of what is undecided holds 0.

    Example:
        >>> gains = {"a": [0.03, 0.02, 0.04] * 4, "b": [0.001, -0.001, 0.0005] * 4}
        >>> share = shares(["a", "b"])
        >>> {name: each.verdict for name, each in confirm(gains, share, verdicts(gains, share, 0.01)).items()}
        {'a': 'helps', 'b': 'no effect'}
    """
    effects = sum(verdict != "no effect" for verdict in said.values())
    confirmed: dict[str, Confirmed] = {}
    for name, each in gains.items():
        count = len(said) if name in said else max(1, effects)
        interval = evidence_interval(each, 1 - FALSE * share[name] * count)
        confirmed[name] = Confirmed(tuple(each), _middle(each, interval), interval, said.get(name, "inconclusive"))
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

    A recipe is settled after the first pair at which it has a verdict, which stays: as others get theirs, less is
    wanted of each. It is given up, which is no verdict, after three pairs in a row in which a trial failed.

    Args:
        first: The recipes that are confirmed first.
        then: Those that `begin` may add.
        minimal_effect: As `verdicts` takes it.

    Attributes:
        gains: Recipe to its gains.
        share: Recipe to its share of the wrong verdicts.
        open: The recipes that the next pair is wanted of.
        verdicts: Recipe to its verdict, of those that are settled.

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
        self.verdicts: dict[str, Verdict] = {}

    def begin(self, names: Sequence[str]) -> None:
        """Open recipes that waited; which ones must not depend on gains of theirs, and only later pairs count."""
        for name in names:
            self._waiting.remove(name)
            self.open.append(name)

    def wanted(self, names: Sequence[str]) -> list[int]:
        """Return the pairs that each recipe should have time for, were it and those before it to begin.

        Args:
            names: Recipes that wait, in the order in which they are to begin.
        """
        counted = list(enumerate(names, len(self.verdicts) + 1))
        none = pairs_expected(self._minimal_effect, self.spread, [self.share[name] * found for found, name in counted])
        sure = [pairs_wanted(self.share[name], found) for found, name in counted]
        return [min(each) for each in zip(none, sure, strict=True)]

    def add(self, row: Mapping[str, float | None]) -> None:
        """Take the gains of the next pair: one of each recipe that is open, and no others count."""
        for name in self.open:
            self.gains[name].append(row[name])
        self.verdicts = verdicts(self.gains, self.share, self._minimal_effect, self.verdicts)
        self.open = [name for name in self.open if name not in self.verdicts and not self.gave_up(name)]

    @property
    def spread(self) -> float:
        """Standard deviation of the gains of each recipe about its own mean, over all together; 0 before two pairs."""
        known = [[gain for gain in each if gain is not None] for each in self.gains.values()]
        squares = sum((gain - mean(each)) ** 2 for each in known for gain in each)
        free = sum(len(each) - 1 for each in known if each)
        return math.sqrt(squares / free) if free else 0.0

    def gave_up(self, name: str) -> bool:
        """Whether the last three pairs of a recipe failed."""
        last = self.gains[name][-_FAILURES:]
        return len(last) == _FAILURES and all(gain is None for gain in last)
