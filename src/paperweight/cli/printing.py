"""What commands write: results to standard output, everything else to the error stream."""

import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, final

from paperweight.errors import InputError
from paperweight.texts import brief, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["open_streams", "print_json", "print_whole", "printed", "say", "shown", "write"]

_NARROW = 20  # the first column of a table is at least so wide, if its words are
_WIDEST = 1_000


def open_streams() -> None:
    """Let both streams write out what their encoding lacks; a closed error stream goes nowhere.

    Raises:
        InputError: If standard output is closed.
    """
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (it stays open to the end)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError("standard output must be open, it is closed; send it to a file or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # what a notebook or a test puts in place of a stream
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def write(text: str) -> None:
    """Write a text to standard output at once, control characters written out; where nobody reads on, it goes nowhere.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        sys.stdout.write(visible(text))
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if error.errno != errno.EPIPE:
            raise InputError(
                f"standard output cannot be written ({error.strerror or error}); send it to where there is room"
            ) from error


def say(text: str) -> None:
    """Write a message to the error stream, cut where it is longer than anybody reads."""
    try:
        sys.stderr.write(f"{visible(brief(text))}\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def print_json(value: object) -> None:
    """Write a value as JSON."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    write(json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n")


@final
class _Held(io.StringIO):
    """A text that is kept, and seems to a console what standard output is."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stdout.encoding or "utf-8"

    def isatty(self) -> bool:
        return sys.stdout.isatty()


@contextmanager
def printed() -> Iterator["Console"]:
    """Give a console, and write what was printed on it to standard output at the end."""
    from rich.console import Console

    held = _Held()
    yield Console(file=held)
    write(held.getvalue())


def print_whole(console: "Console", table: "Table") -> None:
    """Print a table whose first column folds and whose others do not, wider than the console if it must be.

    Where a table does not fit, rich cuts the last digits of numbers without a sign.
    """
    from rich.measure import Measurement

    first = table.columns[0]
    first.max_width = _NARROW
    needed = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    first.max_width = None
    console.print(table, width=max(console.width, needed), crop=False)


def shown(text: object) -> str:
    """Return a stranger's text for a console: without markup, its control characters written out."""
    from rich.markup import escape

    return escape(visible(str(text)))


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream, and what follows, nowhere, so that nothing fails at the end of the program."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
