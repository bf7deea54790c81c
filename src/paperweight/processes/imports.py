"""What is imported from where: the current folder comes last, and only for what the user named.

Python puts the current folder, or an empty entry of ``PYTHONPATH``, before its own library: a ``random.py`` in a
downloaded folder would run. Here such entries are left out. In the user's folders are found only the names that the
user gave, and what files of these folders import themselves.
"""

import importlib.machinery
import os
import site
import sys
import sysconfig
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import final

__all__ = [
    "allow_folder",
    "allow_name",
    "belongs_to_the_user",
    "current_folder_last",
    "handed_over",
    "searched_folders",
]

_PACKAGE = Path(__file__).resolve().parents[1]


@final
class _UsersFolders:
    """Finds modules in the user's folders, after all other finders."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.names: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module is that the user named or that a file of the user's imports."""
        if path is not None or not (name in self.names or self._asked_by_the_user()):
            return None
        return importlib.machinery.PathFinder.find_spec(name, self.folders, target)

    def _asked_by_the_user(self) -> bool:
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        file = frame.f_globals.get("__file__")
        if not isinstance(file, str) or not belongs_to_the_user(file):
            return False
        return any(Path(file).resolve().is_relative_to(folder) for folder in self.folders)


_users = _UsersFolders()


def allow_folder(folder: str | Path) -> None:
    """Let modules of a folder be found, for names that `allow_name` allows and for files of such folders."""
    if (place := str(Path(folder).resolve())) not in _users.folders:
        _users.folders.append(place)
    if _users not in sys.meta_path:
        sys.meta_path.append(_users)


def allow_name(module: str) -> None:
    """Let a module that the user named be found in the user's folders.

    Args:
        module: Its dotted name.
    """
    _users.names.add(module.partition(".")[0])


@cache
def _installed_folders() -> tuple[Path, ...]:
    """Return where Python and installed packages lie, and this package."""
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [*libraries, *site.getsitepackages(), site.getusersitepackages(), str(_PACKAGE)]
    return tuple(Path(folder).resolve() for folder in folders)


@cache
def belongs_to_the_user(file: str | Path) -> bool:
    """Return whether a file belongs neither to Python, nor to an installed package, nor to this one.

    Args:
        file: Its path; one that is not absolute belongs to nobody.

    Example:
        >>> import json
        >>> belongs_to_the_user(json.__file__), belongs_to_the_user("/home/me/network.py")
        (False, True)
    """
    path = Path(file)
    return path.is_absolute() and _belongs_to_the_user(path.parent)


@cache
def _belongs_to_the_user(folder: Path) -> bool:
    place = folder.resolve()
    return not any(place.is_relative_to(installed) for installed in _installed_folders())


def _current_folder() -> Path | None:
    try:
        return Path.cwd().resolve()
    except OSError:
        return None


def searched_folders(path: Iterable[str]) -> list[str]:
    """Return a search path in its order, with absolute entries, without the current folder.

    Where Python or packages are installed stays, be it the current folder or not.

    Args:
        path: Entries as `sys.path` has them.

    Example:
        >>> searched_folders(["", ".", os.getcwd(), "/opt/mine"])
        ['/opt/mine']
    """
    here = _current_folder()
    found: list[str] = []
    for entry in path:
        if not entry or (here is None and not Path(entry).is_absolute()):
            continue
        if Path(entry).resolve() != here or here in _installed_folders():
            found.append(str(Path(entry).absolute()))
    return found


@contextmanager
def current_folder_last() -> Generator[None]:
    """Search the current folder last, and only for what the user named, while a command runs."""
    before = sys.path[:], _users.folders[:], set(_users.names)
    here = _current_folder()
    sys.path[:] = searched_folders(sys.path)
    if here is not None:
        allow_folder(here)
    try:
        yield
    finally:
        sys.path[:], _users.folders[:], _users.names = before
        if not _users.folders and _users in sys.meta_path:
            sys.meta_path.remove(_users)


def handed_over() -> tuple[list[str], list[str]]:
    """Return the search path of this process for one that it starts, and the user's folders."""
    here = _current_folder()
    return searched_folders(sys.path), list(dict.fromkeys([*_users.folders, *([] if here is None else [str(here)])]))


def handed_environment() -> dict[str, str]:
    """Return the environment of this process for one that it starts: no entry of PYTHONPATH is the current folder."""
    environment = dict(os.environ)
    if given := searched_folders(environment.pop("PYTHONPATH", "").split(os.pathsep)):
        environment["PYTHONPATH"] = os.pathsep.join(given)
    return environment
