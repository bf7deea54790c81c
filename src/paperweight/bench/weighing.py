"""A weighing: all trials of a study on one setting, and what follows from them."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from paperweight.bench.conclusion import Conclusion, CostRatio, Pair
from paperweight.bench.confirmation import comparable, confirmation
from paperweight.bench.loading import LoadedStudy
from paperweight.bench.measuring import measured_part
from paperweight.bench.statistics import Comparison, Interval, example_interval
from paperweight.bench.trial import TrialRecord, TrialSpec, unpack_bits
from paperweight.catalogue import OfficialResult
from paperweight.errors import InputError

__all__ = ["Weighing"]


@final
class Weighing:
    """All trials of a study on one setting, and the verdict that they give.

    Args:
        study: The study.
        arms: The compared arms, the baseline first.
        seeds: The seeds.
        records: One record an arm and seed.
        command: The command that repeats the weighing.
        units: The definitions that the trials executed, with their hashes.
        official: The study's official result, if there is one.
        most_pairs: How many pairs there would have been without a verdict, where each was looked at as it came.

    Example:
        >>> from paperweight import weigh
        >>> weighing = weigh("laplacian_smoothing", budget="smoke", seeds=1, ledger=None)  # doctest: +SKIP
        >>> weighing.verdict  # doctest: +SKIP
        'inconclusive'
    """

    def __init__(
        self,
        study: LoadedStudy,
        arms: Sequence[str],
        seeds: Sequence[int],
        records: Sequence[TrialRecord],
        command: str,
        *,
        units: Mapping[str, str],
        official: OfficialResult | None = None,
        most_pairs: int | None = None,
    ) -> None:
        self.study = study.declaration
        self.loaded = study
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.records = tuple(sorted(records, key=lambda record: (record.spec.seed, self.arms.index(record.spec.arm))))
        self.command = command
        self.conclusion = Conclusion(
            self.study, measured_part(self.study.metrics, self.arms, self.seeds, self.records, units, most_pairs)
        )
        self._official = official
        self._by_trial = {(record.spec.arm, record.spec.seed): record for record in self.records}

    @property
    def spec(self) -> TrialSpec:
        """What the first trial was given; all share budget, data, network and device."""
        return self.records[0].spec

    @property
    def method(self) -> str:
        """The arm on which the verdict rests: the study's method, or the first that was asked for."""
        return self.conclusion.method

    @property
    def verdict(self) -> str:
        """``helps``, ``hurts``, ``no effect`` or ``inconclusive``: of the method on the headline metric."""
        return self.conclusion.verdict

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of the method on the headline metric, by seed."""
        return self.conclusion.pairs_of(self.method, self.study.headline)

    def trial(self, arm: str, seed: int) -> TrialRecord:
        """Return the record of one trial."""
        return self._by_trial[arm, seed]

    def pairs_of(self, arm: str, metric: str) -> list[Pair]:
        """Return the pairs of an arm with the baseline on a metric, by seed."""
        return self.conclusion.pairs_of(arm, metric)

    def comparisons(self, metric: str) -> dict[str, Comparison]:
        """Return every arm but the first, compared with the first on a metric."""
        return self.conclusion.comparisons(metric)

    def cost(self, arm: str) -> CostRatio:
        """Return what an arm costs in multiples of the baseline."""
        return self.conclusion.cost(arm)

    def by_example(self, arm: str) -> Interval | None:
        """Return the interval of the difference in accuracy over test examples, where all trials give them."""
        pairs = [(self.trial(self.arms[0], seed), self.trial(arm, seed)) for seed in self.seeds]
        if not all(record.correct for pair in pairs for record in pair):
            return None
        answers = [(unpack_bits(one.correct), unpack_bits(other.correct)) for one, other in pairs]
        return example_interval(answers) if all(len(one) == len(other) > 1 for one, other in answers) else None

    @property
    def failures(self) -> list[TrialRecord]:
        """The trials that did not end with finite metrics."""
        return [record for record in self.records if record.status != "finished"]

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware of the first trial that could say."""
        return self.conclusion.measured["environment"]

    @property
    def confirmation(self) -> str:
        """A line that compares the verdict with the official one, where that has other seeds; else empty."""
        if self._official is None or not comparable(self._official.record, self.conclusion):
            return ""
        return confirmation(self._official.record, self.conclusion, stale=self._official.stale)

    def words(self) -> str:
        """Return the verdict in a few sentences, and on a line of its own whether it confirms the official one."""
        return "\n".join(filter(None, (self.conclusion.words(), self.confirmation)))

    def record(self) -> dict[str, Any]:
        """Return what was measured and what was concluded, as plain values for JSON."""
        return {
            "study": self.loaded.stem,
            "measured": self.conclusion.measured,
            "renewed": [],
            "concluded": self.conclusion.record(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row a trial: arm, seed, status, costs, every metric and every resolved argument.

        A trial whose executed code was recorded took longer for it: its costs count for nothing where there are others.
        """
        return [
            {
                "study": self.loaded.stem,
                "arm": record.spec.arm,
                "seed": record.spec.seed,
                "status": record.status,
                "wall_seconds": record.wall_seconds,
                "cpu_seconds": record.cpu_seconds,
                "peak_bytes": record.peak_bytes,
                "recorded": bool(record.units),
                **{metric: record.metrics.get(metric) for metric in self.study.metrics},
                **{f"arguments.{name}": value for name, value in record.arguments.items()},
            }
            for record in self.records
        ]

    def to_frame(self) -> Any:
        """Return ``rows()`` as a pandas data frame.

        Raises:
            InputError: If pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore
        except ImportError as error:
            raise InputError("to_frame() needs pandas; install it, or use rows(), a list of plain dicts") from error
        return pandas.DataFrame(self.rows())  # pyright: ignore

    def _repr_html_(self) -> str:
        from paperweight.reports import render_summary

        return render_summary(self)

    def __repr__(self) -> str:
        return f"<Weighing of {self.loaded.stem}: {self.verdict}, {len(self.seeds)} seeds, {self.spec.budget}>"
