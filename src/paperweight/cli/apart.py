"""A command in a forked process: what a stranger's code does to its own process is told in a line.

The process is forked before torch is imported, which takes a few milliseconds.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from paperweight.cli.printing import say
from paperweight.processes import End
from paperweight.processes.guard import fork, wake_on, watch
from paperweight.texts import brief

__all__ = ["run_apart"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_PATIENCE = 5.0


def run_apart(run: Callable[[], int], words: Sequence[str]) -> int:
    """Run a command in a process of its own and return its exit status, 3 if the process ended before it had one.

    A signal to stop is passed on; after five seconds the process is killed. Whatever was started below it ends with it.

    Args:
        run: The command.
        words: The command line, for the message.
    """
    told: list[tuple[float, int]] = []
    children: list[int] = []

    def pass_on(number: int) -> None:
        told.append((time.monotonic(), number))
        with suppress(ProcessLookupError):
            for child in children:
                os.kill(child, number)

    numbers = [number for name in _SIGNALS if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in numbers}
    read, write = os.pipe()
    os.set_blocking(read, False)
    wake = wake_on(numbers, pass_on)
    child = fork(wake)
    if child == 0:
        for number, handler in before.items():
            signal.signal(number, handler)
        status = run()
        os.write(write, bytes([status]))
        return status
    children.append(child)
    end = End(**watch(child, wake[0], lambda: not told or time.monotonic() < told[0][0] + _PATIENCE))
    try:
        return os.read(read, 1)[0]
    except BlockingIOError:
        say(f"paperweight: {brief(' '.join(words), 300)}: {_reason(end)}")
        return 128 + told[0][1] if told else 3


def _reason(end: End) -> str:
    if end.told:
        return f"it was killed, since it did not end within {_PATIENCE:g} s of being told to; there is no answer"
    if end.memory:
        return "it was killed by the system when memory ran out; check it with less, or where there is more"
    if end.code is None or end.code >= 0:
        return f"its process was ended with exit status {end.code} before there was an answer; mend what ends it"
    name = signal.Signals(-end.code).name
    return f"its process was ended by signal {-end.code} ({name}) before there was an answer; mend what does so"
