"""Decoded data sets on disk, addressed by what they were decoded from, written atomically, verified when read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperweight.errors import InputError
from paperweight.files import expanded, write_failure

__all__ = ["Entry", "cache_root", "entry_key", "fingerprint", "read_entry", "write_entry"]

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Entry:
    """A decoded set: its arrays by name, its class names, what was done to it, and the hash of arrays and classes."""

    arrays: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


def cache_root() -> Path:
    """Return the folder of all cached data: ``PAPERWEIGHT_CACHE``, or ``paperweight`` in the user's cache folder.

    Example:
        >>> cache_root().is_absolute()
        True
    """
    chosen = os.environ.get("PAPERWEIGHT_CACHE", "")
    if chosen:
        return expanded(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "paperweight"


def entry_key(files: Mapping[str, Path], max_side: int) -> str:
    """Return the address of a decoded source: a hash of its files' bytes and names and of how they are decoded.

    Args:
        files: The files that the content depends on, by their names inside the source.
        max_side: The size limit that they are decoded with.
    """
    digest = hashlib.sha256(f"{FORMAT_VERSION} {max_side}".encode())
    for name, path in sorted(files.items()):
        with path.open("rb") as stream:
            digest.update(json.dumps([name, hashlib.file_digest(stream, "sha256").hexdigest()]).encode())
    return digest.hexdigest()


def fingerprint(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    """Return the SHA-256, in hexadecimal, of arrays (name, type, shape, values) and class names.

    Example:
        >>> fingerprint({"x": np.zeros(2)}, ("a",)) == fingerprint({"x": np.zeros((2, 1))}, ("a",))
        False
    """
    digest = hashlib.sha256(json.dumps(classes).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_entry(key: str) -> Entry | None:
    """Return the entry under a key with its arrays memory-mapped, or None if it is missing or damaged."""
    folder = cache_root() / "images" / key
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        classes, notes = tuple(meta["classes"]), tuple(meta["notes"])
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in meta["arrays"]}
        intact = fingerprint(arrays, classes) == meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Entry(arrays, classes, notes, meta["fingerprint"]) if intact else None


def write_entry(key: str, entry: Entry) -> Entry:
    """Store an entry under its key and return it as stored, with its arrays memory-mapped.

    Where another process was faster, its entry stays; a damaged one is replaced.

    Raises:
        InputError: If the cache folder cannot be written.
    """
    parent = cache_root() / "images"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".writing-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch) / "entry"
            folder.mkdir()
            for name, array in entry.arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            meta = {
                "arrays": sorted(entry.arrays),
                "classes": entry.classes,
                "notes": entry.notes,
                "fingerprint": entry.fingerprint,
            }
            (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            _move_into_place(folder, parent / key)
    except OSError as error:
        raise InputError(
            f"decoded images cannot be stored under {parent} ({write_failure(error, parent)}); "
            "set PAPERWEIGHT_CACHE to a folder with room"
        ) from error
    return read_entry(key) or entry


def _move_into_place(folder: Path, final: Path) -> None:
    try:
        folder.rename(final)
    except OSError:
        if read_entry(final.name) is None:
            with suppress(OSError):  # another process may be replacing the same entry
                final.rename(folder.parent / "damaged")
                folder.rename(final)
