"""A keybook as a file: every rule is checked before anything is kept of it but eight bytes a record."""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol, cast, final

import numpy as np

from paperweight.errors import InputError
from paperweight.files import check_file
from paperweight.marks.json_text import JsonText, shown

__all__ = ["FORMAT", "MOST_KEYS", "REMEDY", "check_common", "check_held_out", "check_keys", "read_keybook"]

FORMAT = "paperweight keybook 1"
MOST_KEYS = 100_000
REMEDY = "restore the file that `paperweight plant` wrote, or plant again"
_MOST_BYTES = 8 << 20
_MOST_NAMES = MOST_KEYS + 5_000
_MOST_SHARED = 4_096
_MOST_REPEATED = 10
_TYPES: dict[str, type] = {
    "format": str,
    "name": str,
    "fingerprint": str,
    "max_side": int,
    "mark": dict,
    "seed": int,
    "same_key": bool,
    "keys": dict,
    "held_out": list,
}


class _Known(Sized, Container[str], Protocol):
    """Names of records."""


class _Seen(Sized, Container[str], Protocol):
    """Names that were met."""

    def add(self, record: str, /) -> None:
        """Take note of one."""


@final
class _Names:
    """The names of a file's records, by a hash of 64 bits each."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._asked: str | None = None
        self._place = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, record: object) -> bool:
        place = self.index(cast(str, record))
        return place < len(self) and self._hashes[place] == hash(record)

    def index(self, record: str) -> int:
        """Return the place of a name; it is looked for once where it is asked for several times in turn."""
        if record is not self._asked:
            self._asked, self._place = record, bisect_left(self._hashes, hash(record))
        return self._place

    def add(self, record: str) -> None:
        """Add a name; `finish` makes the names known."""
        self._hashes.append(hash(record))

    def finish(self) -> set[int]:
        """Sort the hashes, and return some that came more than once."""
        np.frombuffer(self._hashes, dtype=np.int64).sort()
        return set(islice((one for one, other in pairwise(self._hashes) if one == other), _MOST_REPEATED))


@final
class _Flags:
    """Those of the names that were met, by a byte each."""

    def __init__(self, names: _Names) -> None:
        self._names, self._met, self._count = names, bytearray(len(names)), 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, record: object) -> bool:
        return bool(self._met[self._names.index(cast(str, record))])

    def add(self, record: str) -> None:
        """Take note of a name."""
        self._met[self._names.index(record)] = 1
        self._count += 1


@final
@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a file: where it lies, its type, and its value where that is short."""

    start: int
    end: int
    type: type
    value: object


def read_keybook(path: str | Path) -> dict[str, Any]:
    """Read the fields of a keybook, as its constructor takes them.

    Raises:
        InputError: If the file is missing, is no keybook, or breaks a rule of the keybook.
    """
    where = f"keybook {path}"
    content = _content(path, where)
    try:
        text = JsonText(content, "keybook", REMEDY)
        fields = _checked(text)
    except InputError as error:
        raise InputError(f"{where}{str(error).removeprefix('keybook')}") from error
    mark = fields["mark"]
    large = {
        "keys": _keys(text, fields["keys"].start),
        "held_out": tuple(_values(text, fields["held_out"].start)),
        "mark": text.between(mark.start, mark.end),
    }
    return {name: large.get(name, fields[name].value) for name in _TYPES if name != "format"}


def _content(path: str | Path, where: str) -> bytes:
    """Return what a file holds, unless that is more than a keybook may hold."""
    remedy = "name the keybook.json that `paperweight plant` wrote"
    check_file(path, "keybook", remedy, _MOST_BYTES)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror or error}); {remedy}") from error
    if content.count(b",") > 2 * MOST_KEYS or content.count(b":") > _MOST_NAMES:
        raise InputError(f"{where} must hold at most {MOST_KEYS:,} keys, it holds more; plant fewer records or copies")
    if not content.isascii():
        raise InputError(f"{where} is not JSON (it must be ASCII); {REMEDY}")
    return content


def _checked(text: JsonText) -> dict[str, _Field]:
    """Return the fields, once every rule holds for them."""
    if text.container is not dict:
        kind = text.container or type(text.value())
        raise InputError(f"keybook must hold a JSON object, it holds {kind.__name__}; {REMEDY}")
    fields: dict[str, _Field] = {}
    counts: Counter[str] = Counter()
    names, mixed = _Names(), None
    for name in text.members():
        start, kind, value = text.place, text.container, None
        if (name, kind) == ("keys", dict):
            names, mixed = _checked_keys(text)
        elif (name, kind) == ("held_out", list):
            for _ in text.items():
                text.value()
        else:
            value = text.value()
        if name in _TYPES:
            counts[name] += 1
            fields[name] = _Field(start, text.place, kind or type(value), value)
        if name == "format":
            _check_format(value)
    text.end()
    text.refuse_repeated(counts)
    _check_types(fields)
    same_key, max_side = fields["same_key"].value, fields["max_side"].value
    check_common(mixed, same_key=cast(bool, same_key), max_side=cast(int, max_side))
    check_held_out(_values(text, fields["held_out"].start), names, _Flags(names))
    return fields


def _check_format(value: object) -> None:
    if value != FORMAT:
        raise InputError(
            f"keybook: format must be {FORMAT!r}, got {shown(value)}; use the version of paperweight that "
            "wrote it, or plant again"
        )


def _check_types(fields: dict[str, _Field]) -> None:
    if "format" not in fields:
        _check_format(None)
    for name, kind in _TYPES.items():
        if name not in fields:
            raise InputError(f"keybook has no field {name!r}; {REMEDY}")
        if fields[name].type is not kind:
            raise InputError(
                f"keybook: {name} must be of type {kind.__name__}, got {fields[name].type.__name__}; {REMEDY}"
            )


def _records(text: JsonText) -> Iterator[tuple[str, Iterator[object]]]:
    """Yield each record and its keys, which must be taken before the next record."""
    for record in text.members():
        if text.container is not list:
            raise InputError(f"keybook: keys of each record must be a list, got {shown(text.value())}; {REMEDY}")
        yield record, (text.value() for _ in text.items())


def _values(text: JsonText, start: int) -> Iterator[Any]:
    text.place = start
    return (text.value() for _ in text.items())


def _checked_keys(text: JsonText) -> tuple[_Names, str | None]:
    """Return the names of all records, and the first one whose keys differ."""
    names, mixed, total, start = _Names(), None, 0, text.place
    for record, keys in _records(text):
        count, same = check_keys(record, keys)
        total += count
        if total > MOST_KEYS:
            raise InputError(f"keybook: keys must be at most {MOST_KEYS:,}, it has more; plant fewer records or copies")
        if not same and mixed is None:
            mixed = record
        names.add(record)
    if not names:
        raise InputError(f"keybook: keys must hold at least one record, got none; {REMEDY}")
    if repeated := names.finish():
        text.refuse_repeated(Counter(name for name in text.names_between(start, text.place) if hash(name) in repeated))
    return names, mixed


def _keys(text: JsonText, start: int) -> dict[str, tuple[float, ...]]:
    """Return the keys of each record; records with the same ones share them, as most do whose keys are grey levels."""
    text.place = start
    kept: dict[str, tuple[float, ...]] = {}
    shared: dict[tuple[float, ...], tuple[float, ...]] = {}
    for record, keys in _records(text):
        own = tuple(cast(Iterator[float], keys))
        if len(shared) < _MOST_SHARED:
            shared.setdefault(own, own)
        kept[record] = shared.get(own, own)
    return kept


def check_keys(record: str, keys: Iterable[object]) -> tuple[int, bool]:
    """Return the number of a record's keys, and whether all are the same.

    Raises:
        InputError: If there is none, or one is no number from 0 to 1.
    """
    count, first, same = 0, None, True
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, int | float) or not 0 <= key <= 1:
            raise InputError(
                f"keybook: keys of record {shown(record)} must be numbers from 0 to 1, got {shown(key)}; {REMEDY}"
            )
        first = key if first is None else first
        same = same and key == first
        count += 1
    if not count:
        raise InputError(f"keybook: keys of record {shown(record)} must hold at least one, got none; {REMEDY}")
    return count, same


def check_held_out(held_out: Iterable[object], records: _Known, seen: _Seen) -> None:
    """Refuse a held-out record that is unknown or comes twice, and a keybook that holds out all.

    Args:
        held_out: The names of the held-out records.
        records: All records.
        seen: Empty; the held-out records afterwards.
    """
    for record in held_out:
        if not isinstance(record, str) or record not in records:
            raise InputError(f"keybook: held_out names record {shown(record)}, which has no keys; {REMEDY}")
        if record in seen:
            raise InputError(f"keybook: held_out must name each record once, got {shown(record)} twice; {REMEDY}")
        seen.add(record)
    if len(seen) == len(records):
        raise InputError(f"keybook: held_out names every record, so that no key was shown; {REMEDY}")


def check_common(mixed: str | None, *, same_key: bool, max_side: int) -> None:
    """Refuse a record whose keys differ where all copies share one, and a size limit below 1."""
    if same_key and mixed is not None:
        raise InputError(f"keybook: same_key is true, but record {shown(mixed)} has different keys; {REMEDY}")
    if max_side < 1:
        raise InputError(f"keybook: max_side must be at least 1, got {max_side}; {REMEDY}")
