"""What reading a file of the package has found, kept on disk, so that not every process parses it."""

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from paperweight.files import expanded

__all__ = ["keep", "recall"]

_PACKAGE = Path(__file__).resolve().parents[1]
_READERS = ("kept.py", "normal.py", "units.py")


def recall(path: Path, content: bytes) -> dict[str, Any] | None:
    """Return what was kept of a file with this content, read by the code as it is; ``None`` where nothing was.

    Args:
        path: The file.
        content: Its bytes.
    """
    if not path.is_relative_to(_PACKAGE):
        return None
    try:
        kept = json.loads(_place(path).read_bytes())
        return kept["found"] if kept["key"] == _key(content, kept["found"]) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def keep(path: Path, content: bytes, found: dict[str, Any]) -> None:
    """Keep what a file of the package holds, in place of what was kept of it before, where that can be written.

    Args:
        path: The file.
        content: Its bytes.
        found: What was found, as values of JSON.
    """
    if not path.is_relative_to(_PACKAGE):
        return
    with suppress(OSError, RuntimeError):
        place = _place(path)
        partial = place.with_name(f"{place.name}.{os.getpid()}")
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"key": _key(content, found), "found": found}), encoding="utf-8")
        partial.replace(place)


def _place(path: Path) -> Path:
    """Return one place for each path, in the folder that `paperweight.data.cache_root` names."""
    chosen, base = os.environ.get("PAPERWEIGHT_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")
    root = expanded(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "paperweight"
    return root.absolute() / "units" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _key(content: bytes, found: object) -> str:
    """Return a hash of a file's content, of the code that reads it, and of what was found."""
    return hashlib.sha256(b"\0".join((_reading(), content, json.dumps(found).encode()))).hexdigest()


@cache
def _reading() -> bytes:
    return b"\0".join(Path(__file__).with_name(name).read_bytes() for name in _READERS)
