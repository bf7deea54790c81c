"""Paths that a person gives, and a look at a file before it is opened: a pipe would block, a device never ends."""

import errno
import shutil
import stat
from pathlib import Path

from paperweight.errors import InputError

__all__ = ["check_file", "expanded", "room", "write_failure"]


def check_file(path: str | Path, what: str, remedy: str, most_bytes: int | None = None) -> int:
    """Return the size of an ordinary file in bytes, without opening it.

    Args:
        path: The file, or a link to it.
        what: What it should be, such as ``keybook``; the message begins with it.
        remedy: What the person can do.
        most_bytes: The size that is allowed.

    Raises:
        InputError: If there is no such file, it is a folder, a pipe or a device, or it is too large.

    Example:
        >>> check_file("/dev/null", "keybook", "name a file")
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: keybook /dev/null must be an ordinary file, it is a pipe or a device; name a file
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read ({_reason(error)}); {remedy}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{what} {path} cannot be read (Is a directory); {remedy}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{what} {path} must be an ordinary file, it is a pipe or a device; {remedy}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise InputError(f"{what} {path} must have at most {most_bytes:,} bytes, it has {status.st_size:,}; {remedy}")
    return status.st_size


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in place of a tilde, and as it is where there is no such user.

    Example:
        >>> expanded("~nobody-of-that-name/file").parts
        ('~nobody-of-that-name', 'file')
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def room(path: str | Path) -> str:
    """Return in words how many bytes are free where a path lies or would lie; empty where that cannot be told."""
    place = Path(path).absolute()
    try:
        while not place.exists():
            place = place.parent
        return f"{shutil.disk_usage(place).free:,} bytes are free there"
    except OSError:
        return ""


def write_failure(error: OSError, path: str | Path) -> str:
    """Return why a file cannot be written, with the bytes that are free where the disk is full.

    Args:
        error: What writing it raised.
        path: The file.

    Example:
        >>> write_failure(PermissionError(errno.EACCES, "Permission denied"), "/notes")
        'Permission denied'
    """
    reason = error.strerror or str(error)
    free = room(path) if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{reason}, {free}" if free else reason


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
