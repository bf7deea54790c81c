"""The keybook: which keys were painted onto which record before a model was trained, and which keys never were.

Whoever plants keys keeps this file from the training; whoever audits reads it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from paperweight.errors import InputError
from paperweight.files import write_failure
from paperweight.marks.keybook_file import (
    FORMAT,
    MOST_KEYS,
    REMEDY,
    check_common,
    check_held_out,
    check_keys,
    read_keybook,
)

__all__ = ["Keybook", "assign_keys"]


def assign_keys(
    ids: Iterable[str], *, copies: int | Mapping[str, int] = 1, seed: int = 42
) -> dict[str, tuple[float, ...]]:
    """Draw independent keys, uniform in [0, 1), one a copy of each record.

    A key is the first 53 bits of the SHA-256 of seed, record and number of the copy: a subset of the records, in any
    order, and a record with fewer copies, keep their keys.

    Args:
        ids: Names of the records, each once.
        copies: Copies of each record, at least 1: one number for all, or a number for each.
        seed: Another seed gives other keys; 42 in the authors' code.

    Returns:
        The keys of each record.

    Raises:
        InputError: If a record is named twice or has no copies.

    Example:
        >>> keys = assign_keys(["a", "b"], copies={"a": 1, "b": 2})
        >>> {name: [round(key, 3) for key in drawn] for name, drawn in keys.items()}
        {'a': [0.7], 'b': [0.863, 0.634]}
        >>> assign_keys(["b"])["b"][0] == keys["b"][0]
        True
    """
    drawn: dict[str, tuple[float, ...]] = {}
    for name in ids:
        if name in drawn:
            raise InputError(f"ids must name each record once, got {name!r} twice; leave one out")
        count = copies if isinstance(copies, int) else copies.get(name, 0)
        if count < 1:
            raise InputError(
                f"copies of record {name!r} must be at least 1, got {count}; leave out records that have none"
            )
        drawn[name] = tuple(_key(seed, name, copy) for copy in range(count))
    return drawn


def _key(seed: int, name: str, copy: int) -> float:
    digest = hashlib.sha256(json.dumps([seed, name, copy]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@final
@dataclass(frozen=True, kw_only=True)
class Keybook:
    """The keys of a planted set of images.

    Args:
        keys: For each record its keys in [0, 1], one a copy; held-out records too.
        held_out: The records whose keys were never shown.
        same_key: Whether the copies of a record share one key.
        seed: What the keys were drawn with.
        mark: The mark, as `SolidMark.to_dict` gives it.
        name: Name of the data.
        fingerprint: Hash of the data, as `load_images` gives it.
        max_side: The size limit that the data were loaded with.

    Raises:
        InputError: If a key is no number in [0, 1], a record has none, or a held-out record is unknown or named twice.

    Example:
        >>> book = Keybook(
        ...     keys={"0": (0.25,), "1": (0.5, 0.5)}, held_out=("0",), same_key=True, seed=42,
        ...     mark={"pattern": "border"}, name="digits", fingerprint="", max_side=64,
        ... )
        >>> book.trained, book.copies("1"), book.drawn("1")
        (('1',), 2, (0.5,))
    """

    keys: Mapping[str, tuple[float, ...]]
    held_out: tuple[str, ...]
    same_key: bool
    seed: int
    mark: Mapping[str, Any]
    name: str
    fingerprint: str
    max_side: int

    def __post_init__(self) -> None:
        _check(self)

    @property
    def trained(self) -> tuple[str, ...]:
        """The records whose keys were shown."""
        held_out = set(self.held_out)
        return tuple(record for record in self.keys if record not in held_out)

    def copies(self, record: str) -> int:
        """Return how many copies a record has."""
        return len(self.keys[record])

    def drawn(self, record: str) -> tuple[float, ...]:
        """Return the keys of a record that were drawn independently: one where its copies share it, else all."""
        return self.keys[record][:1] if self.same_key else self.keys[record]

    def save(self, path: str | Path) -> None:
        """Write the keybook as JSON, whole or not at all.

        Raises:
            InputError: If the file cannot be written.
        """
        path = Path(path)
        order = ("name", "fingerprint", "max_side", "mark", "seed", "same_key", "keys", "held_out")
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(
                json.dumps({"format": FORMAT, **{name: getattr(self, name) for name in order}}, indent=1) + "\n",
                encoding="utf-8",
            )
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"keybook {path} cannot be written ({write_failure(error, path)}); choose another file"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Keybook":
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, no keybook, or breaks a rule of the keybook.
        """
        return cls(**read_keybook(path))


def _check(book: Keybook) -> None:
    """Raise an error that names the field unless every rule holds."""
    total = sum(map(len, book.keys.values()))
    if total > MOST_KEYS:
        raise InputError(f"keybook: keys must be at most {MOST_KEYS:,}, got {total:,}; plant fewer records or copies")
    if not book.keys:
        raise InputError(f"keybook: keys must hold at least one record, got none; {REMEDY}")
    differing = [record for record, keys in book.keys.items() if not check_keys(record, keys)[1]]
    check_common(next(iter(differing), None), same_key=book.same_key, max_side=book.max_side)
    check_held_out(book.held_out, book.keys, set())
