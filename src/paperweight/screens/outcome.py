"""What came of a screen: each recipe's fate, the controls, and a conclusion in words."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, final

from paperweight.bench.statistics import Interval
from paperweight.bench.wording import number
from paperweight.screens.evidence import Confirmed, evidence_interval
from paperweight.screens.plan import Plan
from paperweight.studies.screening import TREES

__all__ = ["Controls", "Fate", "Screen", "Stage", "spanned"]

Stage = Literal["misfit", "waiting", "tried", "raced", "confirmed"]

_IDENTITY_LEVEL = 0.99
_SAVING = 0.9
_TOLD = 3  # winners of which the conclusion tells intervals and costs
_HALF_LEVEL = 0.95


def spanned(interval: Interval) -> str:
    """Return an interval as a person reads it, also where pairs are too few to give it both ends.

    Example:
        >>> spanned(Interval(-0.01, 0.0235, 0.95)), spanned(Interval(-math.inf, 0.0235, 0.95))
        ('-0.01 to 0.0235', 'below 0.0235')
    """
    low, high = interval.low, interval.high
    if low == -math.inf:
        return "unbounded" if high == math.inf else f"below {number(high)}"
    return f"above {number(low)}" if high == math.inf else f"{number(low)} to {number(high)}"


@final
@dataclass(frozen=True)
class Fate:
    """What became of a recipe.

    Attributes:
        name: Its name.
        words: What it does.
        line: The line of code that applies it.
        slots: The slots that it fills.
        stage: How far it came.
        reason: Why no further, where it was not confirmed.
        scores: Learning rate to validation accuracy, of its tries.
        lr: The rate that was chosen; ``None`` before.
        race: Its gains in the race, on validation examples.
        confirmed: What its pairs say, where it was confirmed.
        cost: Its computing time in multiples of the baseline's; ``None`` where it is not known.
    """

    name: str
    words: str
    line: str
    slots: tuple[str, ...]
    stage: Stage
    reason: str = ""
    scores: Mapping[float, float] | None = None
    lr: float | None = None
    race: tuple[float, ...] = ()
    confirmed: Confirmed | None = None
    cost: float | None = None

    @property
    def verdict(self) -> str:
        """The verdict, or why there is none: *not reached* where the screen ended before it was its turn."""
        if self.confirmed is not None:
            return self.confirmed.verdict
        if self.stage == "misfit":
            return "does not fit"
        return "dropped" if self.reason else "not reached"


@final
@dataclass(frozen=True)
class Controls:
    """The two controls of a screen, each with its gains over the baseline, one a pair.

    Attributes:
        identity: Of the baseline with other batches: it must not differ.
        half: Of the baseline with half of the data: it must be worse.
    """

    identity: tuple[float | None, ...]
    half: tuple[float | None, ...]

    @cached_property
    def identity_interval(self) -> Interval:
        """The interval of the identity, which 99 of a hundred screens do not leave out 0 of."""
        return evidence_interval(self.identity, _IDENTITY_LEVEL)

    @cached_property
    def half_interval(self) -> Interval:
        """The interval of half of the data, at 95%."""
        return evidence_interval(self.half, _HALF_LEVEL)

    @property
    def identity_holds(self) -> bool:
        """Whether the identity is not shown to differ."""
        return self.identity_interval.low <= 0 <= self.identity_interval.high

    @property
    def half_hurts(self) -> bool:
        """Whether half of the data is shown to be worse."""
        return self.half_interval.high < 0

    @property
    def failures(self) -> list[str]:
        """What is wrong with the screen, in sentences; empty where both controls hold."""
        found: list[str] = []
        if not self.identity_holds:
            found.append(
                "The baseline with its batches in another order differs from itself "
                f"({spanned(self.identity_interval)}), which happens by chance in one screen of a hundred: do not "
                "trust the differences."
            )
        if not self.half_hurts:
            found.append(
                f"Half of the data is not shown to hurt after {len(self.half)} pair"
                f"{'' if len(self.half) == 1 else 's'}, so that no smaller effect can be told from noise: give more "
                "minutes, more test data, or data that are harder for this network."
            )
        return found


@final
@dataclass(frozen=True)
class Screen:
    """A screen: which of many recipes make a classifier better on these data.

    Attributes:
        data: What the data were called.
        network: What was trained.
        notes: What was done to the data.
        optimizer: The baseline's optimizer.
        lr: The baseline's learning rate; ``None`` where there was no time to choose it.
        scores: For each optimizer of the baseline, learning rate to validation accuracy.
        accuracies: The baseline's test accuracies on the pairs.
        fates: What became of each recipe, the best first.
        controls: The controls.
        plan: Its steps; ``None`` where there was no time to plan.
        minimal_effect: The smallest gain worth reporting.
        minutes: The time that was given.
        seconds: The time that it took.
        end: Why it ended.
        command: The command that goes on with it.
        environment: Versions and hardware.
    """

    data: str
    network: str
    notes: tuple[str, ...]
    optimizer: str
    lr: float | None
    scores: Mapping[str, Mapping[float, float]]
    accuracies: tuple[float, ...]
    fates: tuple[Fate, ...]
    controls: Controls
    plan: Plan | None
    minimal_effect: float
    minutes: float
    seconds: float
    end: Literal["decided", "time", "interrupted"]
    command: str
    environment: Mapping[str, str]

    @property
    def confirmed(self) -> list[Fate]:
        """The recipes that were confirmed, the one with the highest gain first."""
        return [fate for fate in self.fates if fate.confirmed is not None]

    @property
    def ranks(self) -> bool:
        """Whether both controls hold, so that recipes may be ranked."""
        return not self.controls.failures

    @property
    def looked(self) -> list[Fate]:
        """The recipes that fit, as far as that is known by now."""
        return [fate for fate in self._recipes if fate.stage not in ("misfit", "waiting")]

    @property
    def winners(self) -> list[Fate]:
        """The recipes that help; none where a control fails."""
        return [fate for fate in self._recipes if self.ranks and fate.verdict == "helps"]

    @property
    def savers(self) -> list[Fate]:
        """The recipes without an effect that take a tenth of the computing time less; none where a control fails."""
        none = [fate for fate in self._recipes if self.ranks and fate.verdict == "no effect"]
        return [fate for fate in none if fate.cost is not None and fate.cost <= _SAVING]

    def words(self) -> str:
        """Return the conclusion in a few sentences."""
        parts = (self._found(), self._saved(), self._rest(), self._trees(), self._scope())
        return " ".join(filter(None, parts))

    def _found(self) -> str:
        if not self.confirmed:
            return f"No recipe was confirmed on {self.data}: {self._why_none()}."
        if not self.ranks:
            return f"This screen of {self.data} ranks nothing, since a control failed: {self.controls.failures[0]}"
        if not self.winners:
            return f"Of {self._count()}, none is shown to help on {self.data}."
        gains = [(fate, fate.confirmed) for fate in self.winners if fate.confirmed is not None]
        each = "; ".join(
            f"{fate.name} by {number(found.gain)} in test accuracy ({spanned(found.interval)}"
            f"{self._if_small(found, '; ')}) at {_cost(fate)}"
            for fate, found in gains[:_TOLD]
        )
        fewer = ", ".join(
            f"{fate.name} by {number(found.gain)}{self._if_small(found, ', ')}" for fate, found in gains[_TOLD:]
        )
        helps = f"{len(self.winners)} help{'s' if len(self.winners) == 1 else ''}"
        return f"Of {self._count()}, {helps} on {self.data}: {each}{'; then ' if fewer else ''}{fewer}."

    def _why_none(self) -> str:
        if self.end == "interrupted":
            return "it was stopped before"
        if any(fate.verdict == "not reached" for fate in self._recipes):
            return "the time was too short, so give it more minutes, or one field"
        return "none came through the race" if self.looked else "none fits the data and the network"

    @property
    def _recipes(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.name != TREES]

    def _count(self) -> str:
        return f"{len(self.looked)} recipe{'' if len(self.looked) == 1 else 's'}"

    def _if_small(self, found: Confirmed, before: str) -> str:
        smallest = number(self.minimal_effect)
        return f"{before}less than {smallest}, the smallest worth reporting" if found.gain < self.minimal_effect else ""

    def _saved(self) -> str:
        """Say which recipes are as good at less cost."""
        each = "; ".join(f"{fate.name} at {_cost(fate)}" for fate in self.savers)
        return f"As accurate, within {number(self.minimal_effect)}, and cheaper: {each}." if each else ""

    def _rest(self) -> str:
        if self.confirmed and not self.ranks:
            return ""
        counted = {
            "shown to hurt": "hurts",
            f"without an effect of {number(self.minimal_effect)}": "no effect",
            f"undecided{self._reach()}": "inconclusive",
            "dropped by tries or race, of which nothing is shown": "dropped",
            "that did not fit": "does not fit",
            "not reached": "not reached",
        }
        numbers = {words: sum(fate.verdict == verdict for fate in self._recipes) for words, verdict in counted.items()}
        parts = [f"{count} {words}" for words, count in numbers.items() if count]
        return f"The {'others' if self.winners else 'recipes'}: {', '.join(parts)}." if parts else ""

    def _reach(self) -> str:
        """Say how far at most the undecided differ from the baseline, where that is known."""
        open_ = [fate.confirmed.interval for fate in self._recipes if fate.confirmed and fate.verdict == "inconclusive"]
        farthest = max((max(-each.low, each.high) for each in open_), default=math.inf)
        return f" but within {number(farthest)} of the baseline" if farthest < math.inf else ""

    def _trees(self) -> str:
        trees = next((fate.confirmed for fate in self.confirmed if fate.name == TREES), None)
        if trees is None or math.isnan(trees.gain) or not self.ranks:
            return ""
        return (
            f"Gradient-boosted trees, the arm to beat, differ from the baseline by {number(trees.gain)} "
            f"({spanned(trees.interval)})."
        )

    def _scope(self) -> str:
        if not self.confirmed:
            return ""
        plan = self.plan
        how = "" if plan is None else f" trained for {plan.steps:,} updates on at most {plan.examples:,} examples"
        return (
            f"This holds for {self.network}{how} of these data, with as many learning rates tried for each"
            f"{'; of the verdicts one in twenty is expected to be wrong at most' if self.ranks else ''}."
        )

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON; a number that is not finite is ``None``."""
        plain = asdict(self) | {"ranks": self.ranks, "failures": self.controls.failures, "words": self.words()}
        plain["fates"] = [
            each | {"verdict": fate.verdict} for each, fate in zip(plain["fates"], self.fates, strict=True)
        ]
        return _finite(plain)


def _cost(fate: Fate) -> str:
    return "an unknown cost" if fate.cost is None else f"{number(fate.cost)} times the computing time"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
