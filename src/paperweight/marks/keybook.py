"""The keybook: which keys were painted onto which record before a model was trained, and which keys never were.

Whoever plants keys keeps this file from the training; whoever audits reads it.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

from paperweight.errors import InputError
from paperweight.files import check_file

__all__ = ["Keybook", "assign_keys"]

_FORMAT = "paperweight keybook 1"
_MOST_BYTES = 8 << 20
_MOST_KEYS = 100_000
_MOST_LETTERS = 5_000
_REMEDY = "restore the file that `paperweight plant` wrote, or plant again"
_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "name": (str,),
    "fingerprint": (str,),
    "max_side": (int,),
    "mark": (dict,),
    "seed": (int,),
    "same_key": (bool,),
    "keys": (dict,),
    "held_out": (list,),
}


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
        values: dict[str, object] = {name: getattr(self, name) for name in _FIELDS if name != "format"}
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(json.dumps({"format": _FORMAT, **values}, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"keybook {path} cannot be written ({error.strerror or error}); choose another file"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> "Keybook":
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, no keybook, or breaks a rule of the keybook.
        """
        where = f"keybook {path}"
        values = _parsed(_text(path, where), where)
        keys = cast(dict[str, list[float]], values.pop("keys"))
        held_out = tuple(cast(list[str], values.pop("held_out")))
        del values["format"]
        try:
            return cls(
                keys={record: _listed(own) for record, own in keys.items()},
                held_out=held_out,
                **cast(dict[str, Any], values),
            )
        except InputError as error:
            raise InputError(f"{where}{str(error).removeprefix('keybook')}") from error


def _text(path: str | Path, where: str) -> str:
    """Return the text of a file, unless it holds more than a keybook may."""
    remedy = "name the keybook.json that `paperweight plant` wrote"
    check_file(path, "keybook", remedy, _MOST_BYTES)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror or error}); {remedy}") from error
    if content.count(b",") > 2 * _MOST_KEYS or content.count(b":") > _MOST_KEYS + len(_FIELDS) + _MOST_LETTERS:
        raise InputError(f"{where} must hold at most {_MOST_KEYS:,} keys, it holds more; plant fewer records or copies")
    if re.search(rb'[^,:"\[\]{}]{%d}' % _MOST_LETTERS, content):
        raise InputError(f"{where} must hold no text of {_MOST_LETTERS:,} letters; {_REMEDY}")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not JSON ({error.reason}); {_REMEDY}") from error


def _parsed(text: str, where: str) -> dict[str, object]:
    """Return the fields of a file, each of its type."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        named = dict(pairs)
        if len(named) < len(pairs):
            name, count = Counter(name for name, _ in pairs).most_common(1)[0]
            raise InputError(f"{where} names {name!r} {count} times; {_REMEDY}")
        return named

    try:
        values: object = json.loads(text, object_pairs_hook=once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_REMEDY}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold a JSON object, it holds {type(values).__name__}; {_REMEDY}")
    fields = cast(dict[str, object], values)
    if fields.get("format") != _FORMAT:
        raise InputError(
            f"{where}: format must be {_FORMAT!r}, got {fields.get('format')!r}; use the version of paperweight that "
            "wrote it, or plant again"
        )
    for name, types in _FIELDS.items():
        if name not in fields:
            raise InputError(f"{where} has no field {name!r}; {_REMEDY}")
        if not isinstance(fields[name], types) or isinstance(fields[name], bool) != (types == (bool,)):
            raise InputError(
                f"{where}: {name} must be of type {types[0].__name__}, got {type(fields[name]).__name__}; {_REMEDY}"
            )
    return {name: fields[name] for name in _FIELDS}


def _listed(keys: object) -> tuple[float, ...]:
    if not isinstance(keys, list):
        raise InputError(f"keybook: keys of each record must be a list, got {keys!r}; {_REMEDY}")
    return tuple(cast(list[float], keys))


def _check(book: Keybook) -> None:
    """Raise an error that names the field unless every rule holds."""
    total = sum(map(len, book.keys.values()))
    if total > _MOST_KEYS:
        raise InputError(f"keybook: keys must be at most {_MOST_KEYS:,}, got {total:,}; plant fewer records or copies")
    if not book.keys:
        raise InputError(f"keybook: keys must hold at least one record, got none; {_REMEDY}")
    for record, keys in book.keys.items():
        if not keys:
            raise InputError(f"keybook: keys of record {record!r} must hold at least one, got none; {_REMEDY}")
        for key in cast(tuple[object, ...], keys):
            if isinstance(key, bool) or not isinstance(key, int | float) or not 0 <= key <= 1:
                raise InputError(
                    f"keybook: keys of record {record!r} must be numbers from 0 to 1, got {key!r}; {_REMEDY}"
                )
        if book.same_key and len(set(keys)) > 1:
            raise InputError(f"keybook: same_key is true, but record {record!r} has different keys; {_REMEDY}")
    seen: set[object] = set()
    for record in cast(tuple[object, ...], book.held_out):
        if not isinstance(record, str) or record not in book.keys:
            raise InputError(f"keybook: held_out names record {record!r}, which has no keys; {_REMEDY}")
        if record in seen:
            raise InputError(f"keybook: held_out must name each record once, got {record!r} twice; {_REMEDY}")
        seen.add(record)
    if len(seen) == len(book.keys):
        raise InputError(f"keybook: held_out names every record, so that no key was shown; {_REMEDY}")
    if book.max_side < 1:
        raise InputError(f"keybook: max_side must be at least 1, got {book.max_side}; {_REMEDY}")
