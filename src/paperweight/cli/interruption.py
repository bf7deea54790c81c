"""Being told to stop: SIGTERM and SIGHUP end a command as Ctrl-C does, with 128 and their number as exit status."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "interruptible"]

_SIGNALS = ("SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal told this process to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def interruptible() -> Generator[None]:
    """Raise `Stopped` at a signal to stop that would end the process otherwise; under ``nohup`` none does."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
