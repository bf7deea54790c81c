"""What follows from what was measured: pairs, comparisons, costs, the verdict, and all that in words."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from paperweight.bench import anytime
from paperweight.bench.choices import Edge, edges
from paperweight.bench.statistics import (
    Comparison,
    Verdict,
    compare,
    mean,
    pairs_needed,
    sign_flip_p,
    typical_value_interval,
)
from paperweight.bench.wording import number
from paperweight.errors import InputError
from paperweight.studies import Metric, Study

__all__ = ["Conclusion", "CostRatio", "Pair", "conclude", "gain"]

_FEWEST_PAIRS = 6  # with fewer, no sign flips of the pairs reach 0.05


@dataclass(frozen=True, slots=True)
class Pair:
    """The two values of one metric at one seed, the baseline's and an arm's.

    Args:
        seed: The seed.
        baseline: Value of the baseline; ``None`` where its trial did not finish.
        arm: Value of the arm; likewise.
        gain: The difference, signed so that above zero is better: infinite where just one arm diverged, 0 where both
            did, ``None`` where it is unknown.
    """

    seed: int
    baseline: float | None
    arm: float | None
    gain: float | None


@dataclass(frozen=True, slots=True)
class CostRatio:
    """What an arm costs, in multiples of the baseline: medians over the pairs in which both trials finished.

    Args:
        wall: Time on the clock.
        cpu: Computing time.
        memory: Memory at its highest above the idle worker.
    """

    wall: float | None
    cpu: float | None
    memory: float | None


def gain(baseline: float | None, arm: float | None, metric: Metric) -> float | None:
    """Return the gain of a pair, as `Pair` has it."""
    if baseline is None or arm is None:
        return None
    sign = 1.0 if metric.better == "higher" else -1.0
    if math.isfinite(baseline) and math.isfinite(arm):
        return sign * (arm - baseline)
    if math.isfinite(baseline) == math.isfinite(arm):
        return 0.0
    return math.inf if math.isfinite(arm) else -math.inf


@final
class Conclusion:
    """What follows from the measured part of a result, by the study's declaration.

    Args:
        study: The declaration.
        measured: The measured part, as ``measured_part`` gives it and ``results/`` holds it.

    Raises:
        InputError: If arms or metrics of the two do not fit together.
    """

    def __init__(self, study: Study, measured: Mapping[str, Any]) -> None:
        self.study = study
        self.measured = measured
        self.arms: tuple[str, ...] = tuple(measured["arms"])
        self.seeds: tuple[int, ...] = tuple(measured["seeds"])
        unknown = [arm for arm in self.arms if arm not in study.arms]
        unmeasured = [name for name in study.metrics if name not in measured["values"]]
        if unknown or unmeasured:
            names = ", ".join(unknown or unmeasured)
            fault = "no longer declares the arm" if unknown else "declares a metric that was not measured,"
            raise InputError(f"study {study.paper!r} {fault} {names}; weigh it again")
        self._interval = anytime.anytime_interval if self.until_decided else typical_value_interval
        self._pairs_needed = anytime.pairs_needed if self.until_decided else pairs_needed
        gains = {
            (name, arm): [pair.gain for pair in self.pairs_of(arm, name)]
            for name in study.metrics
            for arm in self.arms[1:]
        }
        effects = {name: metric.minimal_effect for name, metric in study.metrics.items()}
        self._comparisons = compare(
            gains,
            effects,
            primary=(study.headline, self.method),
            interval=self._interval,
            p_value=anytime.anytime_p if self.until_decided else sign_flip_p,
        )

    @property
    def until_decided(self) -> bool:
        """Whether each pair was looked at as it came, until there was a verdict."""
        return "most_pairs" in self.measured

    @property
    def method(self) -> str:
        """The arm on which the verdict rests: the study's method, or the first that was asked for."""
        return self.study.method if self.study.method in self.arms else self.arms[1]

    @property
    def primary(self) -> Comparison:
        """The comparison on which the verdict rests: of the method on the headline metric."""
        return self._comparisons[self.study.headline, self.method]

    @property
    def verdict(self) -> Verdict:
        """``helps``, ``hurts``, ``no effect`` or ``inconclusive``."""
        return self.primary.verdict

    @property
    def tuned(self) -> str:
        """What was tuned, over what: as the study declares, or by how many tries in place of that."""
        if "tune" not in self.measured:
            return self.study.tuned
        return (
            f"equally, {self.measured['tune']} tries of each arm, by Optuna between the smallest and the largest value "
            "of its grid"
        )

    @property
    def edges(self) -> list[Edge]:
        """The choices of tuning that lie at an end of their grid in more than a third of the seeds."""
        return edges(self.measured)

    def values(self, arm: str, metric: str) -> list[float | None]:
        """Return what the trials of an arm measured, by seed; ``None`` where one did not finish."""
        return [None if value is None else float(value) for value in self.measured["values"][metric][arm]]

    def pairs_of(self, arm: str, metric: str) -> list[Pair]:
        """Return the pairs of an arm with the baseline on a metric, by seed."""
        both = zip(self.seeds, self.values(self.arms[0], metric), self.values(arm, metric), strict=True)
        declared = self.study.metrics[metric]
        return [Pair(seed, baseline, value, gain(baseline, value, declared)) for seed, baseline, value in both]

    def comparisons(self, metric: str) -> dict[str, Comparison]:
        """Return every arm but the first, compared with the first on a metric."""
        return {arm: comparison for (name, arm), comparison in self._comparisons.items() if name == metric}

    def cost(self, arm: str) -> CostRatio:
        """Return what an arm costs in multiples of the baseline."""
        return CostRatio(*(self._ratio(arm, what) for what in ("wall", "cpu", "memory")))

    def _ratio(self, arm: str, what: str) -> float | None:
        costs: Mapping[str, Mapping[str, Sequence[float | None]]] = self.measured["cost"]
        if what not in costs[arm]:
            return self.measured["cost_ratio_only"][arm][what]
        finished = [None not in (pair.baseline, pair.arm) for pair in self.pairs_of(arm, self.study.headline)]
        both = zip(finished, costs[self.arms[0]][what], costs[arm][what], strict=True)
        ratios = [other / one for done, one, other in both if done and one and other is not None]
        return statistics.median(ratios) if ratios else None

    @property
    def unbeaten(self) -> dict[str, float]:
        """The other arms that a method which helps is not shown to beat, with its mean gain on each.

        It beats an arm where the interval of their differences on the headline metric, taken alone, lies above zero.
        """
        if self.verdict != "helps":
            return {}
        declared, own = self.study.metrics[self.study.headline], self.values(self.method, self.study.headline)
        gains = {
            arm: [gain(*both, declared) for both in zip(self.values(arm, self.study.headline), own, strict=True)]
            for arm in self.arms[1:]
            if arm != self.method
        }
        return {arm: mean(found) for arm, found in gains.items() if not self._interval(found).low > 0}

    def words(self) -> str:
        """Return the verdict in a few sentences: direction, size, interval, cost, and what stands against it."""
        arms = (self.arms[0], self.method)
        cost = self.cost(self.method).cpu
        statuses = [failure["status"] for failure in self.measured["failures"] if failure["arm"] in arms]
        killed = statuses.count("killed")
        failed = len(statuses) - killed
        sentences = [
            f"{self.method} against {self.arms[0]}: {self._size()}.",
            self._outside(),
            self._looks(),
            self._reason(),
            self._rivals(),
            f"The arms were tuned {self.tuned}." if "tune" in self.measured else "",
            f"It takes {cost:.2f} times the computing time of the baseline." if cost else "",
            f"{failed} of its {2 * len(self.seeds)} trials failed or diverged; see below." if failed else "",
            *(edge.words() for edge in self.edges if edge.arm in arms),
            f"{killed} of its {2 * len(self.seeds)} trials were killed from outside, so that what they would have "
            "given is unknown; the same command runs them again."
            if killed
            else "",
            self.secondary_words(),
        ]
        return " ".join(filter(None, sentences))

    @property
    def p_name(self) -> str:
        """What the p-values are."""
        return "anytime p" if self.until_decided else "sign-flip p"

    def _outside(self) -> str:
        value, interval = self.primary.gain, self.primary.interval
        if len(self.seeds) < _FEWEST_PAIRS or not interval.low <= interval.high:
            return ""
        if math.isnan(value) or interval.low <= value <= interval.high:
            return ""
        return "A few pairs that differ much put the average outside the interval, which is of the centre."

    def _looks(self) -> str:
        if not self.until_decided:
            return ""
        most: int = self.measured["most_pairs"]
        if self.verdict != "inconclusive":
            how = f"until there was a verdict, of at most {most}"
        elif len(self.seeds) < most:
            how = "and it ended here, as none of them has a gain"
        else:
            how = "and there was no verdict after all of them"
        return f"The pairs were looked at one by one, {how}; interval and p allow for that."

    def _size(self) -> str:
        metric, found = self.study.metrics[self.study.headline], self.primary
        if math.isnan(found.gain):
            return f"no pair has a finite gain in {metric.label}"
        how = "better" if found.gain > 0 else "worse"
        unit = f" {metric.unit}" if metric.unit else ""
        pairs = f"{len(self.seeds)} pair{'' if len(self.seeds) == 1 else 's'}"
        size = "the same" if found.gain == 0 else f"{how} by {number(abs(found.gain))}{unit}"
        if len(self.seeds) < _FEWEST_PAIRS:
            return f"{metric.label} is {size} on average over {pairs}, too few for an interval"
        return (
            f"{metric.label} is {size} on average over {pairs} ({100 * found.interval.coverage:.1f}% "
            f"interval {number(found.interval.low)} to {number(found.interval.high)}, {self.p_name} = {found.p:.2g})"
        )

    def _reason(self) -> str:
        metric = self.study.metrics[self.study.headline]
        smallest = f"{number(metric.minimal_effect)}{f' {metric.unit}' if metric.unit else ''}"
        if self.verdict == "no effect":
            return f"The whole interval lies inside the minimal effect of {smallest}."
        if self.verdict != "inconclusive":
            return (
                f"That is below the minimal effect of {smallest}."
                if abs(self.primary.gain) < metric.minimal_effect
                else ""
            )
        if len(self.seeds) < (needed := self._pairs_needed()):
            return f"Fewer than {needed} seeds can reach no verdict; use at least {needed}."
        if self.primary.could_not_decide:
            width = number(self.primary.interval.half_width)
            return (
                f"This weighing could not have decided: the interval's half-width, {width}, is not below the minimal "
                f"effect of {smallest}."
            )
        return f"The data neither show an effect nor rule out one of {smallest}."

    def _rivals(self) -> str:
        rivals = [
            f"{arm} ({'better' if gain > 0 else 'worse'} by {number(abs(gain))})" if gain else f"{arm} (the same)"
            for arm, gain in self.unbeaten.items()
        ]
        return f"It is not shown to beat {', '.join(rivals)}." if rivals else ""

    def secondary_words(self) -> str:
        """Return a sentence where the secondary comparisons are too many for so few pairs, and else nothing."""
        count = len(self._comparisons) - 1
        if not self._pairs_needed() <= len(self.seeds) < (needed := self._pairs_needed(max(1, count))):
            return ""
        return (
            f"The {count} secondary comparisons, corrected among themselves, cannot reach 0.05 with {len(self.seeds)} "
            f"pairs; that takes {needed}."
        )

    def record(self) -> dict[str, Any]:
        """Return the concluded part of a result, as plain values for JSON."""
        study = self.study
        return {
            "question": study.question,
            "claim": study.claim,
            "verdict": self.verdict,
            "words": self.words(),
            "baseline": self.arms[0],
            "method": self.method,
            "headline": study.headline,
            "arms": {arm: study.arms[arm].description for arm in self.arms},
            "tuned": self.tuned,
            "limits": study.limits,
            "metrics": {
                name: {
                    "label": metric.label,
                    "unit": metric.unit,
                    "better": metric.better,
                    "minimal_effect": metric.minimal_effect,
                    "comparisons": [_plain(arm, found) for arm, found in self.comparisons(name).items()],
                }
                for name, metric in study.metrics.items()
            },
            "edges": [edge.words() for edge in self.edges],
            "cost": {
                arm: {"wall": cost.wall, "cpu": cost.cpu, "memory": cost.memory}
                for arm in self.arms[1:]
                for cost in (self.cost(arm),)
            },
        }


def _plain(arm: str, found: Comparison) -> dict[str, Any]:
    gain, low, high = (
        value if math.isfinite(value) else str(value) for value in (found.gain, found.interval.low, found.interval.high)
    )
    return {
        "arm": arm,
        "primary": found.primary,
        "verdict": found.verdict,
        "gain": gain,
        "interval": [low, high],
        "coverage": found.interval.coverage,
        "could_not_decide": found.could_not_decide,
        "p": found.p,
        "p_adjusted": found.p_adjusted,
    }


def conclude(declaration: Study, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the concluded part of a result from its measured part: nothing is run.

    Args:
        declaration: What the study declares.
        measured: The measured part.

    Returns:
        What the study declares, and the verdict, the comparisons of every arm in every metric, costs in multiples of
        the baseline and the words that follow. Gains and intervals are signed so that above zero is better.

    Raises:
        InputError: If arms or metrics of the two do not fit together.
    """
    return Conclusion(declaration, measured).record()
