# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
"""Ledgers as a whole: what one holds put into another, and trials written as a table for other programs."""

import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from paperweight.bench.store import Store
from paperweight.errors import InputError
from paperweight.files import expanded, write_failure

__all__ = ["Merged", "export_trials", "merge_ledger", "stored_rows"]

_AT_ONCE = 500
_TABLES = ("trial", "verdict")
_PLAIN = ("id", "study", "arm", "seed", "budget", "device", "data", "network", "status", "message", "started_at")
_NUMBERS = ("wall_seconds", "cpu_seconds", "peak_bytes", "threads")


class Merged(NamedTuple):
    """How many rows went over, and how many of the source were there already."""

    trials: int
    verdicts: int
    there: int


def merge_ledger(into: str, source: str | Path) -> Merged:
    """Put the trials and verdicts of a ledger file into another ledger; rows that are there already are left out.

    The source is read from a copy, and stays as it is. All rows go over, or none.

    Args:
        into: The path of an SQLite file or the URL of a PostgreSQL database.
        source: The path of an SQLite file.

    Returns:
        How many rows went over.

    Raises:
        InputError: If a ledger cannot be opened or read, or both are the same.
    """
    place = expanded(source).resolve()
    if not place.is_file():
        raise InputError(f"ledger {source} is not there; name the file that a weighing wrote, such as ledger.sqlite")
    if "://" not in into and expanded(into).resolve() == place:
        raise InputError(f"ledger {source} cannot be merged into itself; name another with --ledger")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.sqlite")
        _copied(place, copy)
        with contextlib.closing(_Opened(str(copy), str(source))) as old, contextlib.closing(_Opened(into, into)) as new:
            with old.store.reading() as reading:
                given = {table: [*_rows(reading, getattr(old.store, table))] for table in _TABLES}
            there = 0
            counts: dict[str, int] = {}
            with new.store.writing() as writing:
                for table in _TABLES:
                    ours = getattr(new.store, table)
                    known = {_content(row) for row in _rows(writing, ours)}
                    before = len(known)
                    for row in given[table]:
                        if (content := _content(row)) in known:
                            there += 1
                            continue
                        known.add(content)
                        kept = {name: of for name, of in row.items() if name != "id" and of is not None}
                        writing.execute(ours.insert(), kept)
                    counts[table] = len(known) - before
            return Merged(counts["trial"], counts["verdict"], there)


def export_trials(ledger: str, path: str | Path) -> int:
    """Write all trials of a ledger as a Parquet file: a row a trial, a column for each metric and plain argument.

    Args:
        ledger: The path of an SQLite file or the URL of a PostgreSQL database.
        path: The file to write; one that is there is replaced once the new one is whole.

    Returns:
        The number of trials.

    Raises:
        InputError: If the ledger is not there, cannot be read, or the file cannot be written.
    """
    _check_there(ledger)
    target = expanded(path).resolve()
    if target.is_dir() or _is_database(target):
        what = "a folder" if target.is_dir() else "a database, maybe the ledger itself"
        raise InputError(f"{path} is {what}; name a new file, such as trials.parquet")
    with contextlib.closing(_Opened(ledger, ledger)) as opened, opened.store.reading() as connection:
        rows = [_told(row) for row in _rows(connection, opened.store.trial)]
    found = list(dict.fromkeys(name for row in rows for name in row if name not in (*_PLAIN, *_NUMBERS)))
    names = [*_PLAIN, *_NUMBERS, *sorted(found, key=lambda name: (name.partition(".")[0] != "metric", name))]
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part)
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(
            f"{path} cannot be written: {write_failure(error, target)}; free space, or name another"
        ) from None
    return len(rows)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(15) == b"SQLite format 3"
    except OSError:
        return False


def stored_rows(ledger: str) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, dict[str, Any]]]]:
    """Return all trials and all verdicts of a ledger, oldest first, each with a hash of what it says.

    Args:
        ledger: The path of an SQLite file or the URL of a PostgreSQL database.

    Raises:
        InputError: If it is not there, or cannot be read.
    """
    _check_there(ledger)
    with contextlib.closing(_Opened(ledger, ledger)) as opened, opened.store.reading() as connection:
        trials, verdicts = (
            [(_content(row), row) for row in _rows(connection, table)]
            for table in (opened.store.trial, opened.store.verdict)
        )
    return trials, verdicts


def _check_there(ledger: str) -> None:
    if "://" not in ledger and not expanded(ledger).is_file():
        raise InputError(f"ledger {ledger} is not there; name the file that a weighing wrote, such as ledger.sqlite")


class _Opened:
    """A store, named in words as a person named it."""

    def __init__(self, url: str, name: str) -> None:
        try:
            self.store = Store(url)
        except InputError as error:
            raise InputError(str(error).replace(url, name)) from None
        self.store.name = f"ledger {name.partition('://')[0] + '://...' if '://' in name else name}"

    def close(self) -> None:
        self.store.close()


def _copied(source: Path, copy: Path) -> None:
    """Copy a file of SQLite, with what its log holds beside it."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as given,
            contextlib.closing(sqlite3.connect(copy)) as made,
        ):
            given.backup(made)
            names = {name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not names >= {*_TABLES, "alembic_version"}:
                raise InputError(f"ledger {source} holds no trials; name the file that a weighing wrote")
    except sqlite3.Error as error:
        reason = f"{error}; give the path of a file that paperweight wrote"
        raise InputError(f"ledger {source} cannot be opened: {reason}") from None


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
    query = sa.select(table).order_by(table.c.id).execution_options(yield_per=_AT_ONCE)
    for row in connection.execute(query).mappings():
        yield {str(name): value for name, value in row.items()}


def _content(row: Mapping[str, Any]) -> str:
    """Give a hash of what a row says, whichever database holds it."""
    plain = {name: _parsed(value) for name, value in row.items() if name != "id"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _parsed(value: Any) -> Any:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns of a trial: what it was, what it took, and each metric and argument by name."""
    told = {name: row[name] for name in (*_PLAIN, *_NUMBERS)}
    told |= {f"metric.{name}": float(value) for name, value in (row["metrics"] or {}).items()}  # JSON has NaN as a word
    told |= {f"argument.{name}": value for name, value in (row["arguments"] or {}).items()}
    told |= {f"environment.{name}": value for name, value in (row["environment"] or {}).items()}
    return told


def _column(values: list[Any]) -> Any:
    """Give a column of numbers, truth values or texts; of a mixed one all as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    large = int in kinds and any(abs(value) >= 2**63 for value in values if isinstance(value, int))
    if large or len(kinds) > 1 or not kinds <= {int, bool, str}:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values, pa.string() if not kinds else None)
