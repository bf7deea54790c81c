# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
"""What a ledger holds, sent to a tracker of experiments: one run a trial, and one summary a study.

Sending again sends what is new; what was sent is known by a hash of its row.
"""

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from paperweight.bench.transfer import stored_rows
from paperweight.errors import InputError
from paperweight.files import expanded

__all__ = ["Sent", "send"]

_LONGEST = 500


class Sent(NamedTuple):
    """How many runs and summaries were sent, and how many the tracker had already."""

    trials: int
    summaries: int
    there: int


class _Run(NamedTuple):
    """One run of a tracker."""

    study: str
    name: str
    content: str
    numbers: Mapping[str, float]
    words: Mapping[str, str]


class _Tracker(Protocol):
    def has(self, run: _Run) -> bool: ...
    def add(self, run: _Run) -> None: ...


def send(ledger: str, to: str, *, study: str | None = None) -> Sent:
    """Send the trials of a ledger, and the last verdict on each study, to MLflow or TensorBoard.

    Args:
        ledger: The path of an SQLite file or the URL of a PostgreSQL database.
        to: ``mlflow:`` with the URI of a tracking server or database, such as ``mlflow:sqlite:///mlflow.db``, or
            ``tensorboard:`` with a folder.
        study: The only study whose trials are sent; all where left out.

    Returns:
        How many were sent.

    Raises:
        InputError: If the ledger is not there, the tracker is not installed, or it cannot be reached.
    """
    kind, _, place = to.partition(":")
    made: dict[str, Callable[[str], _Tracker]] = {"mlflow": _MLflow, "tensorboard": _TensorBoard}
    if kind not in made or not place:
        raise InputError(f"to must be mlflow:URI or tensorboard:FOLDER, got {to!r}")
    runs = list(_runs(ledger))
    known = sorted({run.study for run in runs})
    if study is not None and study not in known:
        raise InputError(f"study must be one of {', '.join(known) or 'none'}, which the ledger holds, got {study!r}")
    runs = [run for run in runs if study in (None, run.study)]
    try:
        tracker = made[kind](place)
        fresh = [run for run in runs if not tracker.has(run)]
        for run in fresh:
            tracker.add(run)
    except ImportError:
        raise InputError(f"{kind} is not installed; install it with: pip install 'paperweight-ml[{kind}]'") from None
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(
            ("mlflow", "sqlalchemy", "requests")
        ):
            raise
        reason = str(error).strip().splitlines()[0][:_LONGEST]
        raise InputError(f"{to} cannot be written: {reason}; see that it can be reached, and send again") from error
    summaries = sum(run.name == "summary" for run in fresh)
    return Sent(len(fresh) - summaries, summaries, len(runs) - len(fresh))


def _runs(ledger: str) -> Iterator[_Run]:
    trials, verdicts = stored_rows(ledger)
    for content, row in trials:
        told = {name: row[name] for name in ("status", "device", "data", "network", "message", "started_at")}
        words: dict[str, Any] = {
            **told,
            "arm": row["arm"],
            "seed": row["seed"],
            "budget": row["budget"],
            **(row["arguments"] or {}),
        }
        numbers = {**(row["metrics"] or {}), "wall_seconds": row["wall_seconds"], "cpu_seconds": row["cpu_seconds"]}
        yield _Run(row["study"], f"{row['arm']}-{row['seed']}", content, _finite(numbers), _texts(words))
    last = {row["study"]: (content, row) for content, row in verdicts}
    for content, row in last.values():
        concluded = row["record"]["concluded"]
        words = {name: concluded.get(name) for name in ("verdict", "words", "claim", "headline")}
        numbers: dict[str, Any] = {}
        for metric, of in concluded.get("metrics", {}).items():
            for found in of["comparisons"]:
                if found.get("gain") is not None:
                    low, high = found["interval"]
                    named = f"{metric}.{found['arm']}"
                    numbers |= {f"{named}.gain": found["gain"], f"{named}.low": low, f"{named}.high": high}
                    numbers[f"{named}.p"] = found["p"]
        yield _Run(row["study"], "summary", content, _finite(numbers), _texts({**words, "budget": row["budget"]}))


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    found = {name: float(value) for name, value in numbers.items() if value is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _texts(words: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:_LONGEST] for name, value in words.items() if value not in (None, "")}


class _MLflow:
    """Runs of an experiment a study, each with the hash of its row as a tag."""

    def __init__(self, uri: str) -> None:
        client = importlib.import_module("mlflow").MlflowClient
        self._client = client(uri)
        self._experiments: dict[str, str] = {}

    def _experiment(self, study: str) -> str:
        if study not in self._experiments:
            name = f"paperweight/{study}"
            known = self._client.get_experiment_by_name(name)
            self._experiments[study] = self._client.create_experiment(name) if known is None else known.experiment_id
        return self._experiments[study]

    def has(self, run: _Run) -> bool:
        wanted = f"tags.paperweight = '{run.content}' and attributes.status = 'FINISHED'"
        return bool(self._client.search_runs([self._experiment(run.study)], wanted, max_results=1))

    def add(self, run: _Run) -> None:
        entities = importlib.import_module("mlflow.entities")
        made = self._client.create_run(
            self._experiment(run.study), run_name=run.name, tags={"paperweight": run.content}
        ).info
        self._client.log_batch(
            made.run_id,
            metrics=[entities.Metric(_named(name), value, made.start_time, 0) for name, value in run.numbers.items()],
            params=[entities.Param(_named(name), value) for name, value in run.words.items()],
        )
        self._client.set_terminated(made.run_id)


def _named(name: str) -> str:
    """Give a name that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


class _TensorBoard:
    """A folder of events a run, under its study, with the hash of its row at the end of its name."""

    def __init__(self, folder: str) -> None:
        importlib.import_module("tensorboard")
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = expanded(folder)

    def _place(self, run: _Run) -> Path:
        return self._folder / Path(run.study).stem / f"{run.name}-{run.content[:12]}"

    def has(self, run: _Run) -> bool:
        return self._place(run).is_dir()

    def add(self, run: _Run) -> None:
        place = self._place(run)
        part = place.with_name(f".{place.name}.part")
        with contextlib.closing(self._writer(str(part))) as writer:
            for name, value in run.numbers.items():
                writer.add_scalar(name, value)
            writer.add_text("trial", "\n".join(f"    {name}: {value}" for name, value in sorted(run.words.items())))
        part.rename(place)
