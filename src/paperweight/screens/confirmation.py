"""Confirmation: full trainings on pairs that no decision has looked at, until each recipe is settled."""

from collections.abc import Mapping, Sequence
from typing import final

from paperweight.bench.conclusion import gain
from paperweight.bench.trial import TrialRecord
from paperweight.screens.asking import Asked
from paperweight.screens.evidence import Series
from paperweight.screens.outcome import Controls
from paperweight.screens.readings import value
from paperweight.studies import ACCURACY
from paperweight.studies.screening import BASELINE, HALF, IDENTITY, ScreenArm

__all__ = ["IDENTITY_PAIRS", "Confirmation"]

IDENTITY_PAIRS = 12
"""Pairs that the baseline with other batches takes part in."""

_MOST_PAIRS = 100


@final
class Confirmation:
    """The pairs of a screen.

    Args:
        arms: Name to arm: of the baseline, the two controls, and all recipes.
        first: The recipes that are confirmed first.
        then: Those that may follow, in the time that is left.
        least: The smallest gain worth reporting, above 0.

    Attributes:
        arms: The same.
        series: The gains of the recipes.
        few: Pairs are wanted while more recipes than these are open, for others are then to begin; 0 for the last.
        baseline: Test accuracies of the baseline, one a pair; ``None`` where a trial failed.
    """

    def __init__(self, arms: Mapping[str, ScreenArm], first: Sequence[str], then: Sequence[str], least: float) -> None:
        self.arms = arms
        self.series = Series(first, then, least)
        self.few = 0
        self.baseline: list[float | None] = []
        self._identity: list[float | None] = []
        self._half: list[float | None] = []
        self._half_hurts = False
        self._used: list[Asked] = []

    @property
    def every(self) -> list[Asked]:
        """All trials that may be wanted, in the order in which they start."""
        return [asked for seed in range(_MOST_PAIRS) for asked in self._pair(list(self.arms), seed)]

    def _pair(self, names: Sequence[str], seed: int) -> list[Asked]:
        """Return the trials of a seed; each time another arm comes first, which the data are loaded for."""
        first = seed % max(1, len(names))
        return [(self.arms[name], seed) for name in (*names[first:], *names[:first])]

    @property
    def controls(self) -> Controls:
        """The gains of the controls."""
        return Controls(tuple(self._identity), tuple(self._half))

    @property
    def controls_open(self) -> list[str]:
        """The controls that the next pair is wanted of."""
        identity = [IDENTITY] if len(self._identity) < IDENTITY_PAIRS else []
        return identity if self._half_hurts else [*identity, HALF]

    @property
    def open(self) -> list[str]:
        """The arms that the next pair is wanted of; empty where all is decided, or others are to begin."""
        if self.few and len(self.series.open) <= self.few:
            return []
        wanted = [*self.controls_open, *self.series.open]
        return [BASELINE, *wanted] if wanted and len(self.baseline) < _MOST_PAIRS else []

    def want(self, done: Mapping[Asked, TrialRecord]) -> list[Asked]:
        """Take up the pairs that are complete, and return the trials that count and those that are still wanted.

        Args:
            done: The trials that are done.
        """
        while (names := self.open) and all((self.arms[name], len(self.baseline)) in done for name in names):
            seed = len(self.baseline)
            values = {name: value(done[self.arms[name], seed], "accuracy") for name in names}
            gains = {name: gain(values[BASELINE], values[name], ACCURACY) for name in names}
            self.baseline.append(values[BASELINE])
            if IDENTITY in gains:
                self._identity.append(gains[IDENTITY])
            if HALF in gains:
                self._half.append(gains[HALF])
                self._half_hurts = self.controls.half_hurts
            self.series.add(gains)
            self._used += [(self.arms[name], seed) for name in names]
        rest = range(len(self.baseline), _MOST_PAIRS)
        return [*self._used, *(asked for seed in rest for asked in self._pair(names, seed))]
