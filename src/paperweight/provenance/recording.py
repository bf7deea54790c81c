"""Recording which functions run: by `sys.monitoring` on Python 3.12 and later, by a trace of calls on 3.11."""

import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, final

__all__ = ["Line", "Recording", "recording", "running"]

Line = tuple[str, int]
"""A file and a line of it, where the code of a function begins."""


@final
class Recording:
    """What ran while it was on.

    Args:
        folder: Only functions of files below it count.

    Attributes:
        units: What ran at another time and counts as well, such as when what is read from a cache was built: name and
            hash of definitions.

    Example:
        >>> here = Recording(Path(__file__).parent)
        >>> with recording(here):
        ...     _ = Recording(Path())
        >>> {Path(file).name for file, _ in here.lines}
        {'recording.py'}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.units: dict[str, str] = {}
        self._codes: dict[int, CodeType] = {}
        self._more: set[Line] = set()

    def see(self, code: CodeType) -> None:
        """Take note of a function's code."""
        self._codes[id(code)] = code

    def add(self, lines: Iterable[Line]) -> None:
        """Take note of where functions begin that ran in another process."""
        self._more.update(lines)

    @property
    def lines(self) -> set[Line]:
        """Where the functions begin that ran: file and line."""
        found = self._more | {(code.co_filename, code.co_firstlineno) for code in self._codes.values()}
        return {line for line in found if self._counts(Path(line[0]))}

    def _counts(self, path: Path) -> bool:
        return path.suffix == ".py" and path.resolve().is_relative_to(self.folder)


_running: list[Recording] = []


def running() -> list[Recording]:
    """Return the recordings that are on, the innermost last."""
    return list(_running)


@contextmanager
def recording(record: Recording) -> Generator[Recording]:
    """Record what runs inside, in every thread that begins there, too.

    Recordings may be nested; each notes all that runs inside it. On Python 3.11 other tracing of calls, as by a
    debugger or a replay, goes on meanwhile.

    Args:
        record: Takes the notes.
    """
    _running.append(record)
    stop = _start()
    try:
        yield record
    finally:
        stop()
        _running.remove(record)


def _note(code: CodeType) -> None:
    for record in _running:
        record.see(code)


if sys.version_info >= (3, 12):
    _monitoring = sys.monitoring

    def _start() -> Any:
        if len(_running) > 1:
            _monitoring.restart_events()
            return lambda: None
        tool = next(number for number in (4, 3, 2, 1, 0, 5) if _monitoring.get_tool(number) is None)
        events = _monitoring.events.PY_START
        _monitoring.use_tool_id(tool, "paperweight")

        def entered(code: CodeType, _: int) -> object:
            _note(code)
            return _monitoring.DISABLE

        def stop() -> None:
            _monitoring.set_events(tool, 0)
            _monitoring.register_callback(tool, events, None)
            _monitoring.free_tool_id(tool)

        _monitoring.register_callback(tool, events, entered)
        _monitoring.set_events(tool, events)
        _monitoring.restart_events()
        return stop

else:

    def _start() -> Any:
        before, before_in_threads = sys.gettrace(), threading.gettrace()

        def entered(frame: FrameType, event: Any, argument: object) -> Any:
            _note(frame.f_code)
            return None if before is None else before(frame, event, argument)

        sys.settrace(entered)
        threading.settrace(entered)

        def stop() -> None:
            sys.settrace(before)
            threading.settrace(before_in_threads)  # type: ignore[arg-type]

        return stop
