"""The local engine: worker processes that are reused, watched, and replaced when they die."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from typing import final

from paperweight.bench.trial import Status, TrialRecord, TrialSpec
from paperweight.errors import InputError

__all__ = ["LocalEngine", "default_jobs"]

_START_LIMIT = 300.0
_LONGEST = 30 * 86_400.0
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


def default_jobs(device: str) -> int:
    """Return the number of workers: the cores this process may use, or one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class _Worker:
    """A worker process, its pipes and its error stream."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paperweight.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ | _THREADS | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        self.ready = False
        self.timed_out = False

    def readline(self, limit: float | None = None) -> str:
        """Return the next line, empty when the worker died; it is killed when the time limit passes."""
        timer = None
        if limit is not None:
            timer = threading.Timer(limit, self._expire)
            timer.daemon = True
            timer.start()
        try:
            return self.process.stdout.readline() if self.process.stdout else ""
        finally:
            if timer is not None:
                timer.cancel()

    def send(self, line: str) -> None:
        """Send a line; a worker that is already dead is noticed at the next read."""
        try:
            if self.process.stdin:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
        except (BrokenPipeError, ValueError, OSError):
            self.kill()

    def last_errors(self) -> str:
        """Return the end of what the worker wrote to its error stream."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")[-2000:].strip()

    def forget_errors(self) -> None:
        self.errors.seek(0)
        self.errors.truncate()

    def kill(self) -> None:
        """End the process and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the process and close its pipes."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _expire(self) -> None:
        self.timed_out = True
        self.kill()


@final
class LocalEngine:
    """Runs trials in worker processes on this machine.

    Args:
        jobs: Number of workers, at least 1.
        time_limit: Seconds after which a trial is killed and recorded as timed out; preparing data does not count.
        progress: Called with words and (done, total) while a trial prepares data.

    Raises:
        InputError: If ``jobs`` is below 1 or ``time_limit`` is not positive.
    """

    def __init__(
        self, *, jobs: int, time_limit: float, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        if jobs < 1:
            raise InputError(f"jobs must be at least 1, got {jobs}")
        if not 0 < time_limit <= _LONGEST:
            raise InputError(f"time_limit must be above 0 and at most {_LONGEST:,.0f} seconds, got {time_limit}")
        self._jobs = jobs
        self._time_limit = time_limit
        self._progress = progress

    def run(self, specs: Sequence[TrialSpec]) -> Generator[TrialRecord, None, None]:
        """Run trials and yield their records as they end.

        Whoever stops iterating, or is interrupted, leaves no process behind.

        Args:
            specs: The trials, in the order in which they are started.

        Raises:
            InputError: If a worker refuses what the user gave.
        """
        waiting: queue.SimpleQueue[TrialSpec] = queue.SimpleQueue()
        for spec in specs:
            waiting.put(spec)
        done: queue.SimpleQueue[TrialRecord | BaseException] = queue.SimpleQueue()
        workers: list[_Worker] = []
        stop = threading.Event()
        lock = threading.Lock()

        def start() -> _Worker:
            with lock:
                if stop.is_set():
                    raise _StoppedError
                workers.append(_Worker())
                return workers[-1]

        def serve() -> None:
            try:
                worker = start()
                while not stop.is_set():
                    try:
                        spec = waiting.get_nowait()
                    except queue.Empty:
                        return
                    record = self._run_one(worker, spec)
                    done.put(record)
                    if worker.process.poll() is not None:
                        worker = start()
            except _StoppedError:
                pass
            except BaseException as error:
                done.put(error)

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(self._jobs, len(specs)))]
        for thread in threads:
            thread.start()
        try:
            for _ in specs:
                item = done.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            with lock:
                stop.set()
            for worker in workers:
                worker.kill()
            for thread in threads:
                thread.join()
            for worker in workers:
                worker.close()

    def _run_one(self, worker: _Worker, spec: TrialSpec) -> TrialRecord:
        if not worker.ready:
            worker.ready = worker.readline(_START_LIMIT) != ""
        worker.forget_errors()
        worker.send(spec.model_dump_json())
        while line := worker.readline(self._time_limit):
            answer = json.loads(line)
            if "refused" in answer:
                raise InputError(answer["refused"])
            if "progress" in answer and self._progress is not None:
                self._progress(*answer["progress"])
            if "spec" in answer:
                return TrialRecord.model_validate(answer)
        status, message = self._death(worker)
        return TrialRecord(spec=spec, status=status, message=message)

    def _death(self, worker: _Worker) -> tuple[Status, str]:
        code = worker.process.wait()
        if worker.timed_out:
            return "timed-out", f"killed after the time limit of {self._time_limit:g} s"
        if code == -signal.SIGKILL:
            return "out-of-memory", "killed by the system (signal 9), as it does when memory runs out"
        cause = f"signal {-code}" if code < 0 else f"exit status {code}"
        return "crashed", f"the worker died with {cause}\n{worker.last_errors()}".strip()


class _StoppedError(Exception):
    """The engine was stopped while a worker was about to start."""
