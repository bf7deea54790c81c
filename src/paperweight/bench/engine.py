"""The engine: workers that are reused while they are as they were, watched, and replaced, here or on a cluster."""

import os
import queue
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Protocol, Self, final

from paperweight.bench.process import Answer, LocalWorkers
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.processes import GuardedProcess, StoppedError

__all__ = ["Engine", "Worker", "Workers", "check_jobs", "default_jobs", "local_engine"]

_LONGEST = 30 * 86_400.0
_RERUNS = 2


def default_jobs(device: str) -> int:
    """Return the number of workers: the cores this process may use, or one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_jobs(jobs: int) -> None:
    """Refuse a number of workers below 1.

    Raises:
        InputError: If it is.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")


class Worker(Protocol):
    """Runs trials one after another, wherever it is; see `paperweight.bench.process.WorkerProcess`."""

    def run(
        self, spec: TrialSpec, *, recorded: bool, time_limit: float, progress: Callable[[str, int, int], None] | None
    ) -> Answer:
        """Run a trial."""
        ...

    def starting_weights(self, spec: TrialSpec, places: list[str], time_limit: float) -> dict[str, str]:
        """Return hashes of the weights that the user's network starts from."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Workers(Protocol):
    """Where workers come from; they end together."""

    @property
    def stopped(self) -> bool:
        """Whether no more can be had."""
        ...

    @property
    def scarce(self) -> bool:
        """Whether one that waits takes the place of another that is to start."""
        ...

    def worker(self) -> Worker:
        """Start one, in any thread; raises ``StoppedError`` after `stop`."""
        ...

    def stop(self) -> None:
        """End all, and start no more."""
        ...


def local_engine(
    *,
    jobs: int,
    time_limit: float,
    progress: Callable[[str, int, int], None] | None = None,
    worker: GuardedProcess | None = None,
) -> "Engine":
    """Return an engine of worker processes on this machine.

    Args:
        jobs: As of `Engine`.
        time_limit: As of `Engine`.
        progress: As of `Engine`.
        worker: A worker that was started before, the first one to be used.

    Raises:
        InputError: If ``jobs`` is below 1 or ``time_limit`` is not positive.
    """
    prepared = [worker]

    def workers() -> LocalWorkers:
        return LocalWorkers(prepared.pop() if prepared else None)

    return Engine(workers, jobs=jobs, time_limit=time_limit, progress=progress)


@final
class Engine:
    """Runs trials in workers.

    In a ``with`` block the workers of one run wait for the next, and end with the block; otherwise they end with the
    run.

    Args:
        workers: Gives where workers come from.
        jobs: Number of workers, at least 1.
        time_limit: Seconds after which a trial is killed and recorded as timed out; preparing data does not count.
        progress: Called with words and (done, total) while a trial prepares data.

    Raises:
        InputError: If ``jobs`` is below 1 or ``time_limit`` is not positive.
    """

    def __init__(
        self,
        workers: Callable[[], Workers],
        *,
        jobs: int,
        time_limit: float,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        check_jobs(jobs)
        if not 0 < time_limit <= _LONGEST:
            raise InputError(f"time_limit must be above 0 and at most {_LONGEST:,.0f} seconds, got {time_limit}")
        self.jobs = jobs
        self._time_limit = time_limit
        self._progress = progress
        self._workers = workers
        self._held: Workers | None = None
        self._idle: list[Worker] = []
        self._asked: Worker | None = None

    def __enter__(self) -> Self:
        self._held = self._workers()
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.stop()
        self._held = self._asked = None
        self._idle.clear()

    def run(
        self,
        specs: Sequence[TrialSpec],
        *,
        recorded: Collection[str] = (),
        may_start: Callable[[TrialSpec], bool] | None = None,
    ) -> Generator[TrialRecord, None, None]:
        """Run trials and yield their records as they end.

        A trial whose worker was killed from outside is run again, up to twice.

        Whoever stops iterating, or is interrupted, leaves no process behind.

        Args:
            specs: The trials, in the order in which they are started.
            recorded: Keys of those whose executed definitions are recorded.
            may_start: Called in a thread right before a trial would start, and tells whether it may; all may where left
                out.

        Raises:
            InputError: If a worker refuses what the user gave.
        """
        waiting: queue.SimpleQueue[TrialSpec] = queue.SimpleQueue()
        for spec in specs:
            waiting.put(spec)
        done: queue.SimpleQueue[TrialRecord | BaseException | None] = queue.SimpleQueue()
        workers = self._held or self._workers()

        def serve(worker: Worker | None) -> None:
            try:
                while not workers.stopped:
                    try:
                        spec = waiting.get_nowait()
                    except queue.Empty:
                        if worker is not None and workers.scarce:
                            worker.close()
                        elif worker is not None:
                            self._idle.append(worker)
                        return
                    if may_start is not None and not may_start(spec):
                        done.put(None)
                        continue
                    record, worker = self._settled(worker, spec, spec.key() in recorded, workers)
                    done.put(record)
            except StoppedError:
                pass
            except BaseException as error:
                done.put(error)

        count = min(self.jobs, len(specs))
        idle, self._idle = self._idle[:count], self._idle[count:]
        first = [*idle, *[None] * (count - len(idle))]
        threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in first]
        for thread in threads:
            thread.start()
        ended = False
        try:
            for _ in specs:
                item = done.get()
                if isinstance(item, BaseException):
                    raise item
                if item is not None:
                    yield item
            ended = True
        finally:
            if self._held is None or not ended:
                workers.stop()
                self._held = None
            for thread in threads:
                thread.join()
            if self._held is None:
                self._idle.clear()

    def starting_weights(self, spec: TrialSpec, places: Sequence[str]) -> dict[str, str]:
        """Return hashes of the weights that the user's network starts from now; empty where it cannot be built.

        Args:
            spec: A trial with a network.
            places: What it is built for, as ``TrialRecord.starts`` has it.
        """
        if self._held is None or self._held.scarce:
            workers = self._workers()
            try:
                return workers.worker().starting_weights(spec, list(places), self._time_limit)
            finally:
                workers.stop()
        worker = self._asked or self._held.worker()
        found = worker.starting_weights(spec, list(places), self._time_limit)
        self._asked = worker if found else None
        if not found:
            worker.close()
        return found

    def _settled(
        self, worker: Worker | None, spec: TrialSpec, recorded: bool, workers: Workers
    ) -> tuple[TrialRecord, Worker | None]:
        """Run a trial, again where its worker was killed from outside, and return the worker if it can be used on."""
        kills = 0
        while True:
            if worker is None:
                worker = workers.worker()
            answer = worker.run(spec, recorded=recorded, time_limit=self._time_limit, progress=self._progress)
            if not answer.reusable:
                worker.close()
                worker = None
            if answer.record is None:
                continue
            if answer.record.status != "killed" or kills == _RERUNS or workers.stopped:
                return answer.record, worker
            kills += 1
