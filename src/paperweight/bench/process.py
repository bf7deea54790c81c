"""A worker process from the driver's side: it is asked for a trial and answers, or dies, and it is told why."""

import json
import secrets
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

from pydantic import ValidationError

from paperweight.bench.trial import LONGEST_RECORD, Status, TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.processes import WORKER_CODE, WORKER_ENVIRONMENT, GuardedProcess, Processes

__all__ = ["Answer", "LocalWorkers", "WorkerProcess"]

_START_LIMIT = 300.0
_LONGEST_LINE = LONGEST_RECORD + 65_536
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
        record: How the trial went; ``None`` where the worker is no more as it was, and has not begun.
        reusable: Whether the worker can take another one.
    """

    record: TrialRecord | None
    reusable: bool


@final
class WorkerProcess:
    """A worker process.

    Args:
        processes: What it is started by and ends with.
    """

    def __init__(self, processes: Processes) -> None:
        self._process = processes.start(WORKER_CODE, environment=WORKER_ENVIRONMENT)
        self._ready = False
        self._timed_out = False

    def run(
        self, spec: TrialSpec, *, recorded: bool, time_limit: float, progress: Callable[[str, int, int], None] | None
    ) -> Answer:
        """Have a trial run.

        A line of the worker that is not an answer to this very request is its death, and so is one without an end.

        Args:
            spec: The trial.
            recorded: Whether the definitions that it executes are recorded.
            time_limit: Seconds after which it is killed; every progress begins them anew.
            progress: Called with words and (done, total) while a trial prepares data.

        Raises:
            InputError: If the worker refuses what the user gave.
        """
        answer = self._ask({"spec": spec.model_dump(), "recorded": recorded}, time_limit, progress)
        if answer is None:
            return Answer(self._death(spec, time_limit), reusable=False)
        if "record" not in answer:
            return Answer(None, reusable=False)
        try:
            record = TrialRecord.model_validate(answer["record"])
        except ValidationError as error:
            return Answer(_crash(spec, f"the worker answered with what is no record: {error}"), reusable=False)
        if record.spec != spec:
            return Answer(_crash(spec, "the worker answered for another trial"), reusable=False)
        return Answer(record, reusable=not answer.get("changed"))

    def starting_weights(self, spec: TrialSpec, places: list[str], time_limit: float) -> dict[str, str]:
        """Return hashes of the weights that the user's network starts from; empty where it cannot be built.

        Args:
            spec: A trial with a network.
            places: What it is built for, as ``TrialRecord.starts`` has it.
            time_limit: Seconds after which the worker is killed.
        """
        answer = self._ask({"spec": spec.model_dump(), "starts": places}, time_limit, None)
        return {} if answer is None else answer["starts"]

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _ask(
        self, request: dict[str, Any], time_limit: float, progress: Callable[[str, int, int], None] | None
    ) -> dict[str, Any] | None:
        """Send a request and return the answer; ``None`` when the worker died or wrote something else."""
        if not self._ready:
            self._ready = self._line(_START_LIMIT) is not None
        self._process.forget_errors()
        number = secrets.token_hex(8)
        self._process.send(json.dumps({**request, "number": number}))
        while (answer := self._line(time_limit)) is not None:
            if answer.get("number") != number:
                break
            if "refused" in answer:
                raise InputError(answer["refused"])
            if "progress" not in answer:
                return answer
            if progress is not None:
                progress(*answer["progress"])
        self._process.kill()
        return None

    def _line(self, limit: float) -> dict[str, Any] | None:
        """Return the next line; ``None`` where it has no end or is no JSON object, or when the time limit passes."""
        timer = threading.Timer(limit, self._expire)
        timer.daemon = True
        timer.start()
        try:
            line = b"\n"
            while line == b"\n":
                line = self._process.readline(_LONGEST_LINE)
        finally:
            timer.cancel()
        try:
            answer = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        return cast(dict[str, Any], answer) if isinstance(answer, dict) else None

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _death(self, spec: TrialSpec, time_limit: float) -> TrialRecord:
        status, cause = self._cause(time_limit)
        return TrialRecord(spec=spec, status=status, message=f"{self._process.last_errors()}\n{cause}".strip())

    def _cause(self, time_limit: float) -> tuple[Status, str]:
        end = self._process.end()
        if self._timed_out:
            return "timed-out", f"killed after the time limit of {time_limit:g} s"
        if end.memory:
            return "out-of-memory", "killed by the system (signal 9) when memory ran out"
        if end.told:
            return "crashed", "the worker was ended, since it wrote what is no answer"
        if end.code is None:
            return "killed", "the worker and its guard were killed from outside"
        if -end.code in _FROM_OUTSIDE:
            name = signal.Signals(-end.code).name
            return "killed", f"the worker was killed from outside (signal {-end.code}, {name}); memory had not run out"
        cause = f"signal {-end.code}" if end.code < 0 else f"exit status {end.code}"
        return "crashed", f"the worker died with {cause}"


@final
class LocalWorkers:
    """Worker processes of this machine, which end together.

    Args:
        first: One that was started before.
    """

    def __init__(self, first: GuardedProcess | None = None) -> None:
        self._processes = Processes(first)

    @property
    def stopped(self) -> bool:
        """Whether no more can be had."""
        return self._processes.stopped

    @property
    def scarce(self) -> bool:
        """Whether one that waits takes the place of another that is to start."""
        return False

    def worker(self) -> WorkerProcess:
        """Start a worker, in any thread.

        Raises:
            StoppedError: If `stop` was called.
        """
        return WorkerProcess(self._processes)

    def stop(self) -> None:
        """End all, and start no more."""
        self._processes.stop()


def _crash(spec: TrialSpec, message: str) -> TrialRecord:
    return TrialRecord(spec=spec, status="crashed", message=message)
