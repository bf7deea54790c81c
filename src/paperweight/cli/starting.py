"""Imported before all else of the command: what it imports itself never comes from the current folder.

``python -m`` and empty entries of ``PYTHONPATH`` put that folder before Python's own library. Here no module is used
but those that Python has loaded before it looks there. Whoever imports the package keeps the path that they have.
"""

import os
import sys

__all__ = ["leave_out_current_folder"]


def leave_out_current_folder(path: list[str]) -> list[str]:
    """Return a search path without the current folder.

    Example:
        >>> leave_out_current_folder(["", os.getcwd(), "/opt/mine"])
        ['/opt/mine']
    """
    try:
        here = os.path.realpath(os.getcwd())  # noqa: PTH109 (pathlib is not loaded yet)
    except OSError:
        return [entry for entry in path if os.path.isabs(entry)]  # noqa: PTH117
    return [entry for entry in path if entry and os.path.realpath(entry) != here]


if os.path.basename(sys.argv[0]) in ("-m", "paperweight"):  # noqa: PTH119
    sys.path[:] = leave_out_current_folder(sys.path)
