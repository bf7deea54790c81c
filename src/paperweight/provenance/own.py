"""Files under the user's control that a run executed: own studies, networks, and whatever these import."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, ModuleType
from weakref import WeakKeyDictionary

from paperweight.processes import belongs_to_the_user
from paperweight.provenance.units import file_digest

__all__ = ["note_own_files", "own_files", "unchanged_files"]

_imported: WeakKeyDictionary[ModuleType, tuple[str, str]] = WeakKeyDictionary()
_executed: dict[str, str] = {}


def note_own_files() -> None:
    """Take note, from now on, of each of the user's files that is executed, whatever way it is imported.

    Without it, `own_files` knows those that are modules at the time when it is asked.
    """

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        if event == "exec" and isinstance(code := arguments[0], CodeType) and code.co_name == "<module>":
            path = Path(code.co_filename)
            if path.suffix == ".py" and path.is_file() and belongs_to_the_user(path):
                _executed[str(path.resolve())] = _digest(path)

    sys.addaudithook(heard)


def own_files() -> dict[str, str]:
    """Return the executed files that belong neither to Python, nor to an installed package, nor to this one.

    Returns:
        Path to the hash of its definitions when it was first seen; comments, layout and documentation do not count.
    """
    found = dict(_executed)
    modules: list[object] = list(sys.modules.values())  # which may hold anything
    for module in modules:
        file = getattr(module, "__file__", None)
        if not isinstance(module, ModuleType) or not isinstance(file, str) or not belongs_to_the_user(file):
            continue
        if module not in _imported and Path(file).is_file():
            path = Path(file).resolve()
            _imported[module] = str(path), _digest(path)
        if module in _imported:
            found.setdefault(*_imported[module])
    return dict(sorted(found.items()))


def unchanged_files(files: Mapping[str, str]) -> bool:
    """Return whether files are still there with the content that they had.

    Args:
        files: Path to hash, as `own_files` returned them.

    Example:
        >>> unchanged_files({}), unchanged_files({"/nowhere/network.py": "0"})
        (True, False)
    """
    return all(Path(file).is_file() and _digest(Path(file)) == hashed for file, hashed in files.items())


def _digest(path: Path) -> str:
    if path.suffix == ".py":
        return file_digest(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
