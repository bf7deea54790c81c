# pyright: basic
"""A program that runs Python code in a process of its own, ends it with whoever started it, and says how it ended.

It is the parent of what it runs and waits. Whatever was started below it is killed when it is told to end (SIGTERM),
when the code has ended, and when the process that started it is gone. On Linux this holds for processes that moved
into sessions of their own, too, since those come back to it, and the code ends if the guard itself is killed; on other
systems it holds for the process group of the code.

Its one argument is JSON: ``parent``, ``code``, ``package``, ``path``, ``folders``. Standard input and output are those
of the code. The last line of the output is the guard's: an empty line, then ``{"ended": {...}}`` in JSON.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["descendants", "fork", "wake_on", "watch"]

_LOOK = 0.25
_END_LIMIT = 5.0
_NEAR = 0.9
_LINUX = sys.platform == "linux"
_DEATH_SIGNAL, _SUBREAPER = 1, 36


def main() -> None:
    """Run the code, watch over it, and end."""
    given = json.loads(sys.argv[1])
    told: list[int] = []
    wake = wake_on((signal.SIGTERM,), told.append)
    worker = fork(wake)
    if worker == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _run(given)
    else:
        answers = os.dup(1)
        for number in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        end = watch(worker, wake[0], lambda: not told and os.getppid() == given["parent"])
        with contextlib.suppress(OSError):
            os.write(answers, b"\n" + json.dumps({"ended": end}).encode() + b"\n")
        os._exit(0)


def wake_on(numbers: Iterable[int], note: Callable[[int], object]) -> tuple[int, int]:
    """Return the ends of a pipe that tells of every signal; a child that ended gives one, too.

    Args:
        numbers: Signals that are no end of this process.
        note: Called with each.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for each in numbers:
        signal.signal(each, lambda number, _: note(number))
    return read, write


def fork(wake: tuple[int, int]) -> int:
    """Return 0 in a new process in a session of its own, which ends with this one, and here its number.

    Args:
        wake: What `wake_on` returned.
    """
    guard = os.getpid()
    if _LINUX:
        _prctl(_SUBREAPER, 1)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for end in wake:
            os.close(end)
        if _LINUX:
            _prctl(_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
    return worker


def _run(given: dict) -> None:
    sys.path[:] = given["path"]
    sys.argv[:] = [sys.argv[0]]
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("paperweight", [given["package"]])
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no package in {given['package']}")
    package = sys.modules["paperweight"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    exec(given["code"], {"__name__": "__main__", "folders": given["folders"]})


def _prctl(option: int, value: int) -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def watch(worker: int, wake: int, going_on: Callable[[], bool]) -> dict:
    """Wait until the worker has ended or must, end all that is below, and say how it ended.

    Args:
        worker: What `fork` returned.
        wake: The first that `wake_on` returned.
        going_on: Says whether it may run on.

    Returns:
        The attributes of `End`.
    """
    ended = None
    kills = now = _memory_kills()
    while ended is None and going_on():
        kills, now = now, _memory_kills()
        if select.select([wake], [], [], _LOOK)[0]:
            os.read(wake, 512)
        ended = _reaped(worker)
    told = ended is None
    last = time.monotonic() + _END_LIMIT
    while (alive := _below(worker)) and time.monotonic() < last:
        for process in alive:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
        ended = ended or _reaped(worker)
    code, peak = ended or _reaped(worker) or (None, 0)
    memory = not told and code == -signal.SIGKILL
    memory = memory and (_memory_kills() > kills or peak > _NEAR * _memory_limit())
    return {"code": code, "told": told, "memory": memory}


def _reaped(worker: int) -> tuple[int, int] | None:
    """Take note of children that ended; return exit code, or signal below zero, and peak memory of the worker."""
    found = None
    while True:
        try:
            process, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if process == 0:
            return found
        if process == worker:
            found = os.waitstatus_to_exitcode(status), usage.ru_maxrss * (1024 if _LINUX else 1)


def _below(worker: int) -> list[int]:
    if _LINUX:
        return descendants(os.getpid())
    try:
        os.killpg(worker, 0)
    except OSError:
        return []
    os.killpg(worker, signal.SIGKILL)
    return [worker]


def descendants(process: int) -> list[int]:
    """Return the living processes below one, by what the system tells of parents; none where it does not tell.

    Args:
        process: The number of the process.
    """
    children: dict[int, list[int]] = {}
    for folder in os.scandir("/proc") if Path("/proc").is_dir() else ():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, ValueError), Path(folder.path, "stat").open("rb", 0) as told:
                state, parent = told.read().rpartition(b")")[2].split(None, 2)[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(folder.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _control_groups() -> list[Path]:
    """Return the folders that tell of the memory of this process and of others with it, whatever the version."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    found = []
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds in ("", "memory"):
            base = root / "memory" if kinds else root
            found += [base / place.lstrip("/"), base]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _memory_kills() -> int:
    """Return how many processes were killed for memory so far, here or on the whole machine."""
    files = [folder / name for folder in _control_groups() for name in ("memory.events", "memory.oom_control")]
    counts = [0]
    for file in [*files, Path("/proc/vmstat")]:
        with contextlib.suppress(OSError, ValueError):
            counts += [int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill ")]
    return sum(counts)


def _memory_limit() -> float:
    """Return the memory in bytes that this process may have at most."""
    limits = [float("inf")]
    for folder in _control_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/proc/meminfo").read_text().split()[1]) * 1024)
    return min(limits)


if __name__ == "__main__":
    main()
