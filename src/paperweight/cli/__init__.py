"""The command line: ``paperweight list``, ``show``, ``screen``, ``weigh``, ``embed``, ``board``, and so on.

Listing and help import no torch. A command returns 1 where its answer is an alarm or a broken law; every other exit
status is given here.
"""

# isort: off
import paperweight.cli.starting  # noqa: F401 (before all others)

# isort: on
import os
import platform
import signal
import sys
import tempfile
import traceback

from cyclopts import App, CycloptsError

from paperweight import __version__
from paperweight.cli.apart import run_apart
from paperweight.cli.audit import audit
from paperweight.cli.board import board
from paperweight.cli.checking import check
from paperweight.cli.embedding import embed
from paperweight.cli.interruption import Stopped, interruptible
from paperweight.cli.ledgers import ledger
from paperweight.cli.papers import list_papers, show
from paperweight.cli.planting import plant
from paperweight.cli.printing import open_streams, printed, say
from paperweight.cli.screening import screen
from paperweight.cli.weighing import weigh
from paperweight.errors import InputError, interruption
from paperweight.processes import current_folder_last
from paperweight.texts import brief

__all__ = ["main"]

_STATUSES = (
    "Exit status: 0 for an answer, 1 for one that is an alarm (audit) or a broken law (check), 2 after a mistake of "
    "yours, 3 after anything unexpected, whose details are then in a file that is named, 130 when interrupted."
)

_GO_ON = (["weigh"], ["screen"], ["board"])

_app = App(
    name="paperweight",
    help=f"Published deep-learning methods, and the bench that weighs them. {_STATUSES}",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
_app.command(list_papers, name="list")
for _command in (show, screen, weigh, embed, board, check, plant, audit, ledger):
    _app.command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    The status is 0 or 1 for an answer, 2 after a person's mistake, 3 after anything unexpected, 130 when interrupted.

    Args:
        arguments: The words after the program's name; those of the process where left out.
    """
    if arguments is None and sys.argv[1:2] == ["check"] and hasattr(os, "fork"):
        sys.exit(run_apart(lambda: _run(None), sys.argv[1:]))
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        open_streams()
        with current_folder_last(), interruptible(), printed() as console:
            answer = _app(arguments, exit_on_error=False, print_error=False, console=console)
        return 1 if answer == 1 else 0
    except (CycloptsError, InputError) as error:
        say(f"paperweight: {error}")
        return 2
    except BaseException as error:
        if (stop := interruption(error)) is not None:
            goes_on = (sys.argv[1:] if arguments is None else arguments)[:1] in _GO_ON
            say(f"\nStopped.{' Finished trials are kept; the same command goes on with the rest.' if goes_on else ''}")
            return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
        say(f"paperweight: {_reason(error)}; {_details(error)}")
        return 3


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {brief(lines[0], 300)}" if lines else type(error).__name__


def _details(error: BaseException) -> str:
    """Write what a report of the fault needs into a file of the person's own, and say where it is."""
    words = f"paperweight {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n"
    words += "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="paperweight-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(words)
    except OSError as failure:
        return f"this is unexpected, and its details cannot be written ({failure.strerror or failure})"
    return f"this is unexpected; the details are in {path}"
