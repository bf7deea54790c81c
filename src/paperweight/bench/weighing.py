"""Weighing a study: running its trials, pairing them by seed, and stating what follows."""

import math
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from paperweight.bench.engine import LocalEngine, default_jobs
from paperweight.bench.ledger import Ledger
from paperweight.bench.loading import LoadedStudy, load_study
from paperweight.bench.statistics import Comparison, Interval, compare, example_interval, pairs_needed
from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec, unpack_bits
from paperweight.catalogue import nearest, object_hash
from paperweight.data import source_hash
from paperweight.errors import InputError
from paperweight.studies import BUDGETS, DEFAULT_SEEDS, Budget, Metric

__all__ = ["TIME_LIMITS", "CostRatio", "Pair", "Progress", "Weighing", "weigh"]

TIME_LIMITS: dict[Budget, float] = {"smoke": 120.0, "desk": 300.0, "gpu": 600.0}

Progress = Callable[[str, int, int], None]


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


def _gain(baseline: float | None, arm: float | None, metric: Metric) -> float | None:
    if baseline is None or arm is None:
        return None
    sign = 1.0 if metric.better == "higher" else -1.0
    if math.isfinite(baseline) and math.isfinite(arm):
        return sign * (arm - baseline)
    return (
        math.inf * (math.isfinite(arm) - math.isfinite(baseline))
        if math.isfinite(arm) != math.isfinite(baseline)
        else 0.0
    )


@final
class Weighing:
    """All trials of a study on one setting, and the verdict that they give.

    Args:
        study: The study.
        arms: The compared arms, the baseline first.
        seeds: Number of seeds.
        records: One record an arm and seed.
        command: The command that repeats the weighing.

    Example:
        >>> from paperweight import weigh
        >>> weighing = weigh("laplacian_smoothing", budget="smoke", seeds=1, out=None)  # doctest: +SKIP
        >>> weighing.verdict  # doctest: +SKIP
        'inconclusive'
    """

    def __init__(
        self, study: LoadedStudy, arms: Sequence[str], seeds: int, records: Sequence[TrialRecord], command: str
    ) -> None:
        self.study = study.declaration
        self.loaded = study
        self.arms = tuple(arms)
        self.seeds = seeds
        self.records = tuple(sorted(records, key=lambda record: (record.spec.seed, self.arms.index(record.spec.arm))))
        self.command = command
        self.report: Path | None = None
        self._by_trial = {(record.spec.arm, record.spec.seed): record for record in self.records}

    @property
    def spec(self) -> TrialSpec:
        """What the first trial was given; all share budget, data, network and device."""
        return self.records[0].spec

    @property
    def method(self) -> str:
        """The arm on which the verdict rests: the study's method, or the first that was asked for."""
        return self.study.method if self.study.method in self.arms else self.arms[1]

    @property
    def verdict(self) -> str:
        """``helps``, ``hurts``, ``no effect`` or ``inconclusive``: of the method on the headline metric."""
        return self.comparisons(self.study.headline)[self.method].verdict

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of the method on the headline metric, by seed."""
        return self.pairs_of(self.method, self.study.headline)

    def trial(self, arm: str, seed: int) -> TrialRecord:
        """Return the record of one trial."""
        return self._by_trial[arm, seed]

    def value(self, arm: str, seed: int, metric: str) -> float | None:
        """Return what a trial measured, ``None`` where it did not finish."""
        record = self.trial(arm, seed)
        return record.metrics[metric] if record.status in FINISHED else None

    def pairs_of(self, arm: str, metric: str) -> list[Pair]:
        """Return the pairs of an arm with the baseline on a metric, by seed."""
        pairs: list[Pair] = []
        for seed in range(self.seeds):
            baseline, value = self.value(self.arms[0], seed, metric), self.value(arm, seed, metric)
            pairs.append(Pair(seed, baseline, value, _gain(baseline, value, self.study.metrics[metric])))
        return pairs

    def comparisons(self, metric: str) -> dict[str, Comparison]:
        """Return every arm but the first, compared with the first on a metric; Holm's rule runs over these arms."""
        others = self.arms[1:]
        gains = [[pair.gain for pair in self.pairs_of(arm, metric)] for arm in others]
        return dict(zip(others, compare(gains, self.study.metrics[metric].minimal_effect), strict=True))

    def by_example(self, arm: str) -> Interval | None:
        """Return the interval of the difference in accuracy over test examples, where all trials give them."""
        pairs = [(self.trial(self.arms[0], seed), self.trial(arm, seed)) for seed in range(self.seeds)]
        if not all(record.correct for pair in pairs for record in pair):
            return None
        answers = [(unpack_bits(one.correct), unpack_bits(other.correct)) for one, other in pairs]
        return example_interval(answers) if all(len(one) == len(other) > 1 for one, other in answers) else None

    def cost(self, arm: str) -> CostRatio:
        """Return what an arm costs in multiples of the baseline."""
        pairs = [(self.trial(self.arms[0], seed), self.trial(arm, seed)) for seed in range(self.seeds)]
        pairs = [pair for pair in pairs if all(record.status in FINISHED for record in pair)]

        def ratio(read: Callable[[TrialRecord], float | None]) -> float | None:
            values = [(read(one), read(other)) for one, other in pairs]
            ratios = [other / one for one, other in values if one and other is not None]
            return statistics.median(ratios) if ratios else None

        return CostRatio(
            ratio(lambda record: record.wall_seconds),
            ratio(lambda record: record.cpu_seconds),
            ratio(lambda record: record.peak_bytes),
        )

    @property
    def failures(self) -> list[TrialRecord]:
        """The trials that did not end with finite metrics."""
        return [record for record in self.records if record.status != "finished"]

    @property
    def environment(self) -> dict[str, str]:
        """Versions and hardware of the first trial that could say."""
        return next((record.environment for record in self.records if record.environment), dict[str, str]())

    def words(self) -> str:
        """Return the verdict in a sentence or two."""
        return in_words(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row a trial: arm, seed, status, costs, every metric and every resolved argument."""
        return [
            {
                "study": self.loaded.stem,
                "arm": record.spec.arm,
                "seed": record.spec.seed,
                "status": record.status,
                "wall_seconds": record.wall_seconds,
                "cpu_seconds": record.cpu_seconds,
                "peak_bytes": record.peak_bytes,
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

    def record(self) -> dict[str, Any]:
        """Return all that a reader needs to check the verdict, as plain values for JSON."""
        from paperweight.bench.record import weighing_record

        return weighing_record(self)

    def html(self) -> str:
        """Return the report as one self-contained page."""
        from paperweight.bench.report import render

        return render(self)

    def _repr_html_(self) -> str:
        from paperweight.bench.report import render_summary

        return render_summary(self)

    def __repr__(self) -> str:
        return f"<Weighing of {self.loaded.stem}: {self.verdict}, {self.seeds} seeds, {self.spec.budget}>"


def number(value: float | None) -> str:
    """Return a number as a person reads it.

    Example:
        >>> number(0.012345), number(None), number(float("inf"))
        ('0.0123', 'unknown', 'infinite')
    """
    if value is None or math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:.3g}"


def in_words(weighing: Weighing) -> str:
    """Return the verdict of a weighing in words: direction, size, interval, cost, and what stands against it."""
    study, arm = weighing.study, weighing.method
    metric = study.metrics[study.headline]
    comparison = weighing.comparisons(study.headline)[arm]
    interval = comparison.interval
    unit = f" {metric.unit}" if metric.unit else ""
    others = len(weighing.arms) - 1
    how = "better" if comparison.gain > 0 else "worse"
    size = "the same" if comparison.gain == 0 else f"{how} by {number(abs(comparison.gain))}{unit}"
    corrected = f", {comparison.p_holm:.2g} after Holm's correction for {others} arms" if others > 1 else ""
    found = (
        f"{metric.label} is {size} on average over {weighing.seeds} pairs ({100 * interval.coverage:.1f}% interval "
        f"{number(interval.low)} to {number(interval.high)}, sign-flip p = {comparison.p:.2g}{corrected})"
    )
    cost = weighing.cost(arm).cpu
    spent = f" It takes {cost:.2f} times the computing time of the baseline." if cost else ""
    smallest = f"{number(metric.minimal_effect)}{unit}"
    if math.isnan(comparison.gain):
        found = f"no pair has a finite gain in {metric.label}"
    if comparison.verdict == "no effect":
        reason = f" The whole interval lies inside the minimal effect of {smallest}."
    elif comparison.verdict != "inconclusive":
        reason = ""
    elif weighing.seeds < (needed := pairs_needed(others)):
        reason = f" With {weighing.seeds} seeds no test of {others} arms can reach 0.05; use at least {needed}."
    elif interval.low > 0 or interval.high < 0:
        reason = " Taken alone the interval leaves zero out; corrected for the number of arms the test does not."
    else:
        reason = f" The data neither show an effect nor rule out one of {smallest}."
    failed = [record for record in weighing.failures if record.spec.arm in (weighing.arms[0], arm)]
    warning = f" {len(failed)} of its {2 * weighing.seeds} trials failed or diverged; see below." if failed else ""
    return f"{arm} against {weighing.arms[0]}: {found}.{reason}{spent}{warning}"


def _chosen_arms(study: LoadedStudy, arms: Sequence[str] | None) -> list[str]:
    known = list(study.declaration.arms)
    if arms is None:
        return known
    for arm in arms:
        if arm not in known:
            raise InputError(f"study {study.stem} has no arm {arm!r}; {nearest(arm, known)}")
    chosen = [arm for arm in known if arm in arms or arm == study.declaration.baseline]
    if len(chosen) < 2:
        raise InputError(f"arms must name at least one arm beside the baseline {known[0]!r}; there are {known[1:]}")
    return chosen


def _command(study: LoadedStudy, options: Mapping[str, object], arms: Sequence[str] | None) -> str:
    words = ["paperweight", "weigh", study.name]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    for arm in arms or ():
        words += ["--arms", arm]
    return shlex.join(words)


def weigh(
    study: str,
    *,
    data: str | Path | None = None,
    network: str | None = None,
    budget: Budget = "desk",
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
    jobs: int | None = None,
    device: str | None = None,
    time_limit: float | None = None,
    retry: bool = False,
    ledger: str | Path | None = None,
    out: str | Path | None = "weighings",
    progress: Progress | None = None,
) -> Weighing:
    """Weigh a study: run its trials, or what is missing of them, and write the report.

    Args:
        study: Stem of a paper, or the path of a study file.
        data: The user's data in place of the study's default: a path, or the name of a known set.
        network: The user's network as ``package.module:factory``, called with input shape and number of classes.
        budget: ``"smoke"`` (seconds), ``"desk"`` (minutes on two cores) or ``"gpu"``.
        seeds: Number of pairs, at least 1; below 6 no verdict is possible. Where left out 8, or as many more as
            so many arms need.
        arms: Arms to run beside the baseline; all where left out.
        jobs: Number of worker processes; the number of cores where left out, 1 on a GPU.
        device: Where to compute; a GPU for the ``gpu`` budget, otherwise the CPU, where left out.
        time_limit: Seconds a trial may take.
        retry: Whether trials that crashed, ran out of memory or time are run again.
        ledger: A SQLAlchemy URL or the path of an SQLite file; ``ledger.sqlite`` in ``out`` where left out.
        out: Folder of the report; ``None`` for no report and a ledger in memory.
        progress: Called with words and (trials done, trials in all).

    Returns:
        The weighing: verdict, pairs, costs, rows, and the path of the report.

    Raises:
        InputError: If an argument, the data or the network cannot be used.

    Example:
        >>> weigh("laplacian_smoothing", seeds=0)
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: seeds must be at least 1, got 0; 8 is the default
    """
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}; {DEFAULT_SEEDS} is the default")
    if budget not in BUDGETS:
        raise InputError(f"budget must be one of {', '.join(BUDGETS)}; got {budget!r}")
    loaded = load_study(study)
    chosen = _chosen_arms(loaded, arms)
    if seeds is None:
        seeds = max(DEFAULT_SEEDS, pairs_needed(len(chosen) - 1))
    device = _device(device, budget)
    code = loaded.code() | ({} if network is None else {"network": object_hash(network, "network")})
    data_hash = "" if data is None else source_hash(data)
    specs = [
        TrialSpec(
            study=loaded.name,
            arm=arm,
            seed=seed,
            budget=budget,
            device=device,
            data=None if data is None else str(data),
            data_hash=data_hash,
            network=network,
            code=code,
        )
        for seed in range(seeds)
        for arm in chosen
    ]
    engine = LocalEngine(
        jobs=jobs if jobs is not None else default_jobs(device),
        time_limit=time_limit if time_limit is not None else TIME_LIMITS[budget],
        progress=progress,
    )
    book = Ledger(
        str(ledger) if ledger is not None else "sqlite://" if out is None else str(Path(out, "ledger.sqlite"))
    )
    with book:
        found = book.find(specs)
        if retry:
            found = {key: record for key, record in found.items() if record.status in FINISHED}
        missing = [spec for spec in specs if spec.key() not in found]
        if progress is not None:
            progress("trials", len(specs) - len(missing), len(specs))
        running = engine.run(missing)
        try:
            for record in running:
                book.add(record)
                found[record.spec.key()] = record
                if progress is not None:
                    progress("trials", len(found), len(specs))
        finally:
            running.close()
        options = {
            "data": data,
            "network": network,
            "budget": budget,
            "seeds": seeds,
            "device": None if device == "cpu" else device,
        }
        weighing = Weighing(
            loaded, chosen, seeds, [found[spec.key()] for spec in specs], _command(loaded, options, arms)
        )
        book.add_verdict(
            study=loaded.stem,
            budget=budget,
            data=None if data is None else str(data),
            network=network,
            record=weighing.record(),
        )
    if out is not None:
        weighing.report = _write_report(weighing, Path(out))
    return weighing


def _device(device: str | None, budget: Budget) -> str:
    if device is None:
        device = "cuda" if budget == "gpu" else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device must be cpu or cuda, got {device!r}") from error
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device} is not available here; use --device cpu, or the desk budget")
    return device


def _write_report(weighing: Weighing, out: Path) -> Path:
    name = f"{weighing.loaded.stem}-{weighing.spec.budget}-{weighing.spec.key()[:8]}.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f".{name}.partial"
        partial.write_text(weighing.html(), encoding="utf-8")
        partial.replace(out / name)
    except OSError as error:
        raise InputError(f"out {out} cannot be written ({error}); give a folder that can") from error
    return out / name
