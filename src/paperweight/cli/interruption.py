"""Being told to stop: SIGTERM and SIGHUP end a command as Ctrl-C does, with 128 and their number as exit status.

A command can be told while it still loads, except by way of torch: that imports numpy from compiled code where nobody
did before, and takes an interruption of this import for a missing numpy. Hence numpy is imported first.
"""

import importlib
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import final

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


@final
class _NumpyFirst:
    """Finds no module, but imports numpy when torch is looked for."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Import numpy before torch; whatever ends that import ends torch's."""
        if name == "torch":
            importlib.import_module("numpy")


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
    numpy_first = _NumpyFirst()
    sys.meta_path.insert(0, numpy_first)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(numpy_first)
        for number, handler in before.items():
            signal.signal(number, handler)
