"""Where a ledger is kept, an SQLite file or a PostgreSQL database: one writer at a time, and faults in words."""

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Generator
from typing import Any, final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from paperweight.bench.schema import is_newest, upgrade
from paperweight.errors import InputError
from paperweight.files import expanded, room

__all__ = ["Store"]

_PATIENCE = 120.0
"""Seconds without a commit of anybody after which a writer gives up."""
_WRITERS = 0x70617065
_FULL = ("full", "no space", "disk i/o error")
_REMEDIES = {
    "full": "free some space",
    "disk i/o error": "free some space, or see whether the disk is sound",
    "no space": "free some space",
    "readonly": "make the file and its folder writable, or name another ledger",
    "permission": "make the file and its folder writable, or name another ledger",
    "unable to open": "make the file and its folder readable and writable, or name another ledger",
    "locked": "end the other program that writes into it",
    "lock timeout": "end the other program that writes into it",
    "malformed": "restore a copy of it, or name another ledger",
    "connection": "see whether the server runs and can be reached",
}


@final
class Store:
    """The tables of an open ledger. Threads may share it: transactions take turns.

    Args:
        url: A PostgreSQL URL, or the path or URL of an SQLite file.

    Attributes:
        trial: The table of trials.
        verdict: The table of verdicts.
        lease: The table of leases.
        now: The seconds since 1970 by the clock of the database, as SQL.

    Raises:
        InputError: If it cannot be opened, or is no ledger.
    """

    def __init__(self, url: str) -> None:
        self._path = None if "://" in url else expanded(url)
        self.name = f"ledger {url.partition('://')[0] + '://...' if '://' in url else url}"
        self._lock = threading.Lock()
        try:
            self._engine = _engine(url)
            self._writer = self._engine.execution_options(writes=True)
            try:
                tables = self._tables()
            except BaseException:
                self._engine.dispose()
                raise
        except InputError as error:
            raise InputError(f"{self.name} cannot be opened: {error}") from error
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise InputError(f"{self.name} cannot be opened: {self._cause(error)}; {_opening_remedy(error)}") from error
        self.trial, self.verdict, self.lease = (tables.tables[name] for name in ("trial", "verdict", "lease"))
        self.now: sa.ColumnElement[float] = sa.literal_column(
            "(julianday('now') - 2440587.5) * 86400.0"
            if self._engine.dialect.name == "sqlite"
            else "CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
            sa.Float,
        )

    def _tables(self) -> sa.MetaData:
        with self._engine.begin() as connection:
            newest = is_newest(connection)
        if not newest:
            with self._writer.begin() as connection:
                upgrade(connection)
        tables = sa.MetaData()
        tables.reflect(self._engine, only=("trial", "verdict", "lease"))
        return tables

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Generator[sa.Connection]:
        """Give a transaction that reads.

        Raises:
            InputError: If the database fails.
        """
        with self._explained("read"), self._lock, self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Generator[sa.Connection]:
        """Give the transaction of the only writer: what it reads stays so until it ends.

        Raises:
            InputError: If the database fails; nothing of the transaction is kept then.
        """
        with self._explained("written"), self._lock, self._writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self, what: str) -> Generator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            kept = self._kept()
            remedy = _remedy(error) or "mend that"
            raise InputError(
                f"{self.name} cannot be {what}: {self._cause(error)}; {kept}; {remedy}, and give the same command again"
            ) from error

    def _cause(self, error: Exception) -> str:
        """Return why the database failed, with the bytes that are free where a file's disk may be full."""
        reason = _reason(error)
        if self._path is None or not any(sign in reason.lower() for sign in _FULL):
            return reason
        return ", ".join(filter(None, (reason, room(self._path))))

    def _kept(self) -> str:
        try:
            with self._lock, self._engine.begin() as connection:
                count = connection.execute(sa.select(sa.func.count()).select_from(self.trial)).scalar_one()
        except SQLAlchemyError:
            return "what was filed stays in it"
        return f"the {count} trials in it stay" if count != 1 else "the one trial in it stays"


def _engine(url: str) -> sa.Engine:
    if "://" not in url:
        path = expanded(url).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        place = sa.URL.create("sqlite", database=str(path))
    else:
        place = sa.make_url(url)
    if place.drivername == "postgresql":
        place = place.set(drivername="postgresql+psycopg")
    system = place.get_backend_name()
    if system not in ("sqlite", "postgresql"):
        raise ValueError(f"{system} is neither sqlite nor postgresql")
    options = {"check_same_thread": False, "timeout": _PATIENCE} if system == "sqlite" else {}
    engine = sa.create_engine(place, poolclass=sa.StaticPool, connect_args=options)
    event.listen(engine, "connect", _prepare_sqlite if system == "sqlite" else _prepare_postgresql)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Leave transactions to `_begin`, and let others read while one writes."""
    connection.isolation_level = None
    connection.text_factory = _text
    end = time.monotonic() + _PATIENCE
    while connection.execute("PRAGMA journal_mode").fetchone() == ("delete",):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = '{_PATIENCE:.0f}s'")
    cursor.close()
    connection.commit()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        if writes:
            _begin_immediate(connection)
        else:
            connection.exec_driver_sql("BEGIN")
    elif writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")


def _begin_immediate(connection: sa.Connection) -> None:
    """Take the lock of the only writer, in turn with others: patience is with who holds it and commits nothing."""
    commits, end = None, time.monotonic() + _PATIENCE
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(random.uniform(0.001, 0.02))
            with contextlib.suppress(OperationalError):
                now = connection.exec_driver_sql("PRAGMA data_version").scalar()
                if now != commits:
                    commits, end = now, time.monotonic() + _PATIENCE
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {_PATIENCE * 1000:.0f}")


def _reason(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _remedy(error: Exception) -> str:
    reason = _reason(error).lower()
    return next((remedy for sign, remedy in _REMEDIES.items() if sign in reason), "")


def _opening_remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "for PostgreSQL, install psycopg: the extra postgresql of paperweight-ml"
    return _remedy(error) or "give the path of a file that paperweight wrote, or the URL of a PostgreSQL database"
