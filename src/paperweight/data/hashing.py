"""The hash of a source's bytes, by which a trial is filed: wherever the data lies, what it holds counts."""

import hashlib
import os
from pathlib import Path

from paperweight.data.embedded import is_embedded
from paperweight.data.named import find
from paperweight.errors import InputError

__all__ = ["source_hash"]


def source_hash(source: str | Path) -> str:
    """Return the SHA-256 of the files of a source and of their names inside it; for an embedded set, its name.

    Hidden files do not count, as no loader reads them.

    Args:
        source: The name of a known set, a file or a folder.

    Raises:
        InputError: If there is no such name or path, or a file cannot be read.

    Example:
        >>> source_hash("digits")
        'digits'
    """
    if is_embedded(source):
        return str(source)
    path = find(source)
    digest = hashlib.sha256()
    try:
        for name, file in _files(path):
            with file.open("rb") as stream:
                digest.update(os.fsencode(f"{name}={hashlib.file_digest(stream, 'sha256').hexdigest()};"))
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read ({error.strerror or error}); give a file or folder that can"
        ) from error
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [("", path)]
    found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names if name[0] != "."]
    return sorted((file.relative_to(path).as_posix(), file) for file in found)
