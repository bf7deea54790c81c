"""What lies below a folder, without hidden files and those that systems leave there."""

from collections.abc import Iterator
from pathlib import Path

from paperweight.errors import InputError

__all__ = ["files_below", "is_left_by_a_system", "listed"]

LEFT = frozenset(
    {
        "thumbs.db",
        "desktop.ini",
        "__macosx",
        "__pycache__",
        "@eadir",
        "lost+found",
        "$recycle.bin",
        "system volume information",
    }
)


def is_left_by_a_system(path: Path) -> bool:
    """Say whether a file or folder is one that a system or a program leaves beside a person's files.

    Example:
        >>> is_left_by_a_system(Path("photos/@eaDir"))
        True
    """
    return path.name.lower() in LEFT


def listed(folder: Path) -> list[Path]:
    """Return what a folder holds, in order of name, without hidden files and what systems leave.

    Raises:
        InputError: If something there is neither a file nor a folder.
    """
    entries = sorted(p for p in folder.iterdir() if p.name[0] != "." and not is_left_by_a_system(p))
    for path in entries:
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{path} is neither a file nor a folder, maybe a broken link; restore or remove it")
    return entries


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield every file below a folder, following links.

    Args:
        folder: Where to begin.
        above: The folders on the way to it, resolved.

    Raises:
        InputError: If a link leads back to a folder above it.
    """
    real = folder.resolve()
    if real in above:
        raise InputError(f"{folder} leads back to {real}, which contains it; remove the link")
    for path in listed(folder):
        if path.is_dir():
            yield from files_below(path, (*above, real))
        else:
            yield path
