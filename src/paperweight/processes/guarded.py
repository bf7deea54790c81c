"""Processes that run Python code under a guard, from the side of whoever starts them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from paperweight.processes.imports import handed_environment, handed_over

__all__ = ["End", "GuardedProcess", "Processes", "StoppedError"]

_GUARD = Path(__file__).with_name("guard.py")
_PACKAGE = Path(__file__).resolve().parents[1]
_END_LIMIT = 8.0
_CHUNK = 65_536


@final
@dataclass(frozen=True, slots=True)
class End:
    """How a process ended.

    Attributes:
        code: Its exit status, or a signal below zero; ``None`` where that is unknown, as when its guard was killed.
        told: Whether it was ended because `GuardedProcess.kill` said so, or whoever started it had gone.
        memory: Whether it was killed when memory ran out, by what the system counts or by its size.
    """

    code: int | None
    told: bool = False
    memory: bool = False


@final
class GuardedProcess:
    """Python code in a process that imports what this process would, and never outlives it.

    The code is executed after this package was imported; ``folders`` is a list of the user's folders there. It reads
    lines from its standard input and writes lines to its standard output. What it writes to its error stream is read
    on and on, and the last of it is kept.

    Args:
        code: What to run.
        package: The folder of the package that it imports; this one where left out.
        environment: Variables beside those of this process.
        last: Bytes of the error stream that are kept.
    """

    def __init__(
        self, code: str, *, package: Path = _PACKAGE, environment: Mapping[str, str] | None = None, last: int = 2_000
    ) -> None:
        self.code = code
        path, folders = handed_over()
        given = {
            "parent": os.getpid(),
            "code": code,
            "package": str(package.parent),
            "path": path,
            "folders": folders,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_GUARD), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=handed_environment() | dict(environment or {}),
            start_new_session=True,
        )
        self._last = last
        self._errors = bytearray()
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self._end: End | None = None
        self._last_resort = threading.Timer(_END_LIMIT, self._process.kill)
        self._last_resort.daemon = True

    def send(self, line: str) -> None:
        """Send a line; a process that has ended already is noticed at the next read."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()

    def readline(self, longest: int = -1) -> bytes:
        """Return the next line, without an end where it is longer than so many bytes; empty once the process ended."""
        if self._end is not None or self._process.stdout is None:
            return b""
        try:
            line = self._process.stdout.readline(longest)
        except (OSError, ValueError):
            return b""
        return b"" if self._is_end(line) else line

    def kill(self) -> None:
        """Begin to end the process and all that it started."""
        if self._process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
            with contextlib.suppress(RuntimeError):  # it was told before
                self._last_resort.start()

    def end(self) -> End:
        """Wait until the process and all that it started have ended, and say how it did."""
        while self._end is None and self._process.stdout is not None:
            try:
                line = self._process.stdout.readline(_CHUNK)
            except (OSError, ValueError):
                break
            if self._is_end(line) or not line:
                break
        self._process.wait()
        self._last_resort.cancel()
        self._reader.join(1.0)
        self._end = self._end or End(None)
        return self._end

    def last_errors(self) -> str:
        """Return the end of what was written to the error stream since `forget_errors`."""
        return bytes(self._errors[-self._last :]).decode(errors="replace").strip()

    def forget_errors(self) -> None:
        """Forget what was written to the error stream so far."""
        self._errors.clear()

    def close(self) -> None:
        """End the process and close its pipes."""
        self.kill()
        self.end()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _is_end(self, line: bytes) -> bool:
        if not line.startswith(b'{"ended": '):
            return False
        try:
            self._end = End(**json.loads(line)["ended"])
        except (ValueError, TypeError):
            return False
        return True

    def _read_errors(self) -> None:
        while self._process.stderr is not None:
            try:
                got = os.read(self._process.stderr.fileno(), _CHUNK)
            except (OSError, ValueError):
                return
            if not got:
                return
            self._errors += got
            del self._errors[: -self._last]


class StoppedError(Exception):
    """Processes were stopped while another one was about to start."""


@final
class Processes:
    """Processes that end together, at the latest when the ``with`` block does.

    Args:
        prepared: One that was started before: the first one that is to run its code.
    """

    def __init__(self, prepared: GuardedProcess | None = None) -> None:
        self._prepared = prepared
        self._lock = threading.Lock()
        self._started: list[GuardedProcess] = []
        self.stopped = False

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, code: str, *, package: Path = _PACKAGE, environment: Mapping[str, str]) -> GuardedProcess:
        """Start a `GuardedProcess`, in any thread.

        Raises:
            StoppedError: If `stop` was called.
        """
        with self._lock:
            if self.stopped:
                raise StoppedError
            process, self._prepared = self._prepared, None
            if process is None or process.code != code:
                process = GuardedProcess(code, package=package, environment=environment)
            self._started.append(process)
            return process

    def stop(self) -> None:
        """End all, and start no more."""
        with self._lock:
            self.stopped = True
        for process in self._started:
            process.kill()
        for process in self._started:
            process.close()
