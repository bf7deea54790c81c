"""The screen: which published methods help on a person's data, in the minutes that they give."""

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal, final

from paperweight.bench.engines import chosen_engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.trial import FINISHED, TrialSpec
from paperweight.catalogue import FIELDS, entries, nearest, object_hash
from paperweight.data import is_embedded, source_hash
from paperweight.errors import InputError
from paperweight.files import expanded, write_failure
from paperweight.processes import GuardedProcess
from paperweight.provenance import here
from paperweight.screens.asking import Bench, Clock
from paperweight.screens.confirmation import Confirmation
from paperweight.screens.course import Course, Progress
from paperweight.screens.evidence import confirm
from paperweight.screens.outcome import Controls, Fate, Screen, Stage
from paperweight.screens.plan import Costs, Plan
from paperweight.screens.readings import failure
from paperweight.studies import ACCURACY, Recipe
from paperweight.studies.screening import BASELINE, TREES, ScreenData, find_recipe

__all__ = ["screen"]

_SHORTEST = 0.25
_LONGEST = 7 * 24 * 60.0
_RESERVE = 2.0
_TRAIN, _VALIDATION, _TEST, _BATCH = 10_000, 3_000, 7_000, 64


def screen(
    data: str | Path,
    *,
    target: str | None = None,
    network: str | None = None,
    minutes: float = 10.0,
    least: float = ACCURACY.minimal_effect,
    fields: Sequence[str] | None = None,
    recipes: Sequence[str] = (),
    jobs: int | None = None,
    engine: str = "local",
    out: str | Path = "screens",
    ledger: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    worker: GuardedProcess | None = None,
    started: float | None = None,
) -> Screen:
    """Look at every recipe that fits, on a person's data, and confirm those that look best on fresh pairs.

    The baseline is tuned first; each recipe has as many tries of its learning rate. A race at a part of the steps, by
    validation examples, drops the hopeless. Those that are left are trained at full length on seeds that no decision
    has looked at, pair by pair with the baseline, until each has a verdict or the time is over. Finished trials are
    kept, so that the same call goes on where one was stopped.

    Args:
        data: Images or a table, as ``paperweight weigh`` takes them; a table where its name ends in ``.csv``, or a
            ``target`` is given.
        target: The column of a table to predict, a class; the last one where left out.
        network: The person's network as ``package.module:factory``; a LeNet, or of tables a perceptron with two hidden
            layers and batch normalization, where left out.
        minutes: The time, from 0.25 minutes to a week.
        least: The smallest gain in test accuracy worth reporting, above 0 and below 1: a recipe has no effect once it
            is shown to gain and to lose less. The larger, the sooner that is decided, and the more recipes have a turn.
        fields: Fields whose recipes are looked at; all where left out.
        recipes: Recipes of the person's own, each as ``package.module:recipe``.
        jobs: Trials at once; the number of cores where left out.
        engine: Where they run, as in `paperweight.weigh`.
        out: The folder in which trials and plan are kept.
        ledger: Where trials are kept in place of ``ledger.sqlite`` there: a path, or the URL of a database.
        progress: Called after every trial.
        worker: What ``paperweight.processes.start_worker`` returned before torch was imported; whoever started it
            closes it.
        started: When the time began, by ``time.monotonic``; now where left out.

    Returns:
        What came of it.

    Raises:
        InputError: If an argument, the data, the network or a recipe cannot be used, or no trial of the baseline
            finished.

    Example:
        >>> screen("digits", minutes=0)
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: minutes must be from 0.25 to 10080, got 0; 10 are usual
    """
    if not _SHORTEST <= minutes <= _LONGEST:
        raise InputError(f"minutes must be from {_SHORTEST:g} to {_LONGEST:g}, got {minutes:g}; 10 are usual")
    if not 0 < least < 1:
        raise InputError(f"least must be above 0 and below 1, got {least:g}; it is a gain in accuracy, 0.01 is usual")
    chosen = _chosen(fields, recipes)
    own = [] if network is None else [object_hash(network, "network")]
    named = sorted({name for name in recipes if ":" in name})
    own += [object_hash(name, "with") for name in named]
    is_table = target is not None or str(data).lower().endswith(".csv")
    if is_table and is_embedded(data):
        raise InputError(f"target must be left out for images, which {data} holds; it names the column of a table")
    shared = ScreenData(
        train=_TRAIN,
        used=_TRAIN,
        validation=_VALIDATION,
        test=_TEST,
        batch_size=_BATCH,
        target=(target or "") if is_table else None,
        recipes=" ".join(named),
        own=hashlib.sha256("".join(own).encode()).hexdigest()[:12] if own else "",
    )
    clock = Clock(60 * minutes - _RESERVE, started)
    runs = chosen_engine(engine, jobs=jobs, device="cpu", time_limit=max(20.0, 6 * minutes), worker=worker)
    folder = expanded(out)
    spec = TrialSpec(
        study="",
        arm="",
        seed=0,
        budget="desk",
        data=str(data),
        data_hash=source_hash(data),
        network=network,
    )
    kept = _Kept(folder / f"{_key(spec, shared, minutes, least, list(chosen), runs.jobs)}.plan.json")
    clock.seconds -= kept.spent
    with Ledger(str(ledger or folder / "ledger.sqlite")) as book, runs:
        bench = Bench(book, runs, spec, clock)
        course = Course(
            bench,
            shared,
            chosen,
            jobs=runs.jobs,
            planned=kept.planned,
            waves=kept.waves,
            least=least,
            tell=progress,
        )
        before = kept.spent

        def keep() -> None:
            kept.write(course.planned, course.waves, before + clock.spent)

        try:
            course.go(keep)
        finally:
            keep()
    return _outcome(
        course,
        data=Path(data).name,
        network=network or ("a perceptron with two hidden layers" if is_table else "a LeNet"),
        minutes=minutes,
        least=least,
        seconds=kept.spent,
        end="interrupted" if bench.interrupted else "decided" if course.decided else "time",
        command=_command(data, target, network, minutes, least, fields, recipes, jobs, engine, ledger, out),
    )


def _outcome(
    course: Course,
    *,
    data: str,
    network: str,
    minutes: float,
    least: float,
    seconds: float,
    end: Literal["decided", "time", "interrupted"],
    command: str,
) -> Screen:
    """Return what a course has found."""
    pairs, fates = course.confirmation, dict(course.fates)
    if pairs is not None:
        found = confirm(pairs.series.gains, pairs.series.share, pairs.series.verdicts)
        if TREES in found:
            words = "scikit-learn's HistGradientBoosting, as it comes, in place of the network"
            line = "HistGradientBoostingClassifier().fit(features, labels)"
            fates[TREES] = Fate(TREES, words, line, (), "waiting")
        for name, each in found.items():
            if each.gains:
                fates[name] = replace(
                    fates[name],
                    stage="confirmed",
                    confirmed=each,
                    cost=_cost(course, pairs, name),
                    reason=_failures(course, pairs, name),
                )
    return Screen(
        data=data,
        network=network,
        notes=() if course.baseline is None else tuple(dict.fromkeys(course.baseline.message.splitlines())),
        optimizer=course.optimizer,
        lr=course.lr,
        scores=course.scores,
        accuracies=() if pairs is None else tuple(each for each in pairs.baseline if each is not None),
        fates=tuple(sorted(fates.values(), key=_place)),
        controls=Controls((), ()) if pairs is None else pairs.controls,
        plan=None if course.planned is None else course.planned[1],
        minimal_effect=least,
        minutes=minutes,
        seconds=seconds,
        end=end,
        command=command,
        environment={} if course.baseline is None else course.baseline.environment,
    )


def _place(fate: Fate) -> tuple[int, float]:
    """Return what fates are ordered by: confirmed ones first, then by gain."""
    stages: tuple[Stage, ...] = ("confirmed", "raced", "tried", "waiting", "misfit")
    gains = [0.0]
    if fate.confirmed is not None and math.isfinite(fate.confirmed.gain):
        gains = [fate.confirmed.gain]
    elif fate.race:
        gains = [sum(fate.race) / len(fate.race)]
    return stages.index(fate.stage), -gains[0]


def _cost(course: Course, pairs: Confirmation, name: str) -> float | None:
    """Return the computing time of a recipe's full trainings in multiples of the baseline's, the median over pairs."""
    ratios: list[float] = []
    for seed in range(len(pairs.baseline)):
        one, other = (course.records.get((pairs.arms[each], seed)) for each in (BASELINE, name))
        if one is not None and other is not None and one.cpu_seconds > 0 and other.status in FINISHED:
            ratios.append(other.cpu_seconds / one.cpu_seconds)
    return median(ratios) if ratios else None


def _failures(course: Course, pairs: Confirmation, name: str) -> str:
    """Return how many of a recipe's full trainings failed, and why the first did; nothing where none did."""
    records = [course.records.get((pairs.arms[name], seed)) for seed in range(len(pairs.baseline))]
    failed = [record for record in records if record is not None and record.status not in FINISHED]
    counted = f"{len(failed)} of its {len(pairs.series.gains[name])} trainings failed"
    return f"{counted}, the first {failed[0].status}: {failure(failed[0])}" if failed else ""


def _chosen(fields: Sequence[str] | None, own: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipes by name, a person's own last."""
    for field in fields or ():
        if field not in FIELDS:
            raise InputError(f"field {field!r} does not exist; {nearest(field, list(FIELDS))}")
    stems = [entry.stem for entry in entries() if (fields is None or entry.field in fields) and entry.has_recipe]
    found = {name: find_recipe(name) for name in (*stems, *own)}
    if not found:
        raise InputError(f"no paper of {', '.join(fields or ())} has a recipe; leave field out, or name one by with")
    return found


def _key(spec: TrialSpec, shared: ScreenData, minutes: float, least: float, names: Sequence[str], jobs: int) -> str:
    """Return the name under which the plan of the same call, of the code as it is, is found again."""
    parts = [spec.data_hash, spec.network, shared.study(), minutes, least, list(names), jobs, here().state()]
    return f"screen-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def _command(
    data: str | Path,
    target: str | None,
    network: str | None,
    minutes: float,
    least: float,
    fields: Sequence[str] | None,
    recipes: Sequence[str],
    jobs: int | None,
    engine: str,
    ledger: str | Path | None,
    out: str | Path,
) -> str:
    words = ["paperweight", "screen", "--data", str(data)]
    for name, value in (("target", target), ("network", network)):
        words += [] if value is None else [f"--{name}", value]
    words += ["--minutes", f"{minutes:g}"]
    words += [] if least == ACCURACY.minimal_effect else ["--least", f"{least:g}"]
    for name, values in (("field", fields or ()), ("with", recipes)):
        for value in values:
            words += [f"--{name}", value]
    words += [] if jobs is None else ["--jobs", f"{jobs}"]
    words += [] if engine == "local" else ["--engine", engine]
    words += [] if ledger is None else ["--ledger", str(ledger)]
    return shlex.join(words if str(out) == "screens" else [*words, "--out", str(out)])


@final
@dataclass
class _Kept:
    """What a screen has decided by the time that it had, and that time, in a file, so that the same call goes on."""

    path: Path
    planned: tuple[Costs, Plan] | None = None
    waves: tuple[tuple[str, ...], ...] = ()
    spent: float = 0.0

    def __post_init__(self) -> None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            costs, plan, spent = Costs(**found["costs"]), Plan(**found["plan"]), float(found["spent"])
            waves = tuple(tuple(names) for names in found["waves"])
            if not all(isinstance(count, int) and count > 0 for count in asdict(plan).values()):
                return
            if not all(isinstance(name, str) for names in waves for name in names):
                return
            if all(0 <= seconds < math.inf for seconds in (costs.step, costs.fixed, spent)):
                self.planned, self.waves, self.spent = (costs, plan), waves, spent
        except (OSError, ValueError, TypeError, KeyError):
            return

    def write(self, planned: tuple[Costs, Plan] | None, waves: Sequence[Sequence[str]], spent: float) -> None:
        """Keep costs and plan, the recipes that are confirmed wave by wave, and the time that was spent."""
        self.spent = spent
        if planned is None:
            return
        costs, plan = planned
        text = json.dumps(
            {"costs": asdict(costs), "plan": asdict(plan), "waves": [list(names) for names in waves], "spent": spent}
        )
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({write_failure(error, self.path)}); choose another --out"
            ) from error
