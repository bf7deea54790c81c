"""Leases: weighings that share a ledger run each trial once. Who dies or falls silent loses what it took."""

import contextlib
import os
import platform
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, final

import sqlalchemy as sa

from paperweight.bench.store import Store
from paperweight.errors import InputError

__all__ = ["Leases"]


@final
class Leases:
    """The leases of one weighing on the trials that it runs: a thread renews them, and at the end they are given back.

    Args:
        store: Where the ledger is kept.
        seconds: How long a lease lasts unless it is renewed; it is renewed three times as often.
    """

    def __init__(self, store: Store, seconds: float = 30.0) -> None:
        self._owner = uuid.uuid4().hex
        self._store = store
        self._seconds = seconds
        self._end = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._renewing.join()
        lease = self._store.lease
        with contextlib.suppress(InputError), self._store.writing() as connection:
            connection.execute(lease.delete().where(lease.c.owner == self._owner))

    def free(self, keys: Iterable[str]) -> set[str]:
        """Return the keys of trials that no other weighing runs."""
        with self._store.reading() as connection:
            return set(keys) - self._held(connection)

    def take(self, key: str, after: int) -> bool:
        """Take the lease on a trial and tell whether it was to be had.

        Args:
            key: The trial's key.
            after: The number of the newest row that was looked at: a trial whose row is newer need not run.

        Raises:
            InputError: If the ledger cannot be written.
        """
        trial, lease = self._store.trial, self._store.lease
        newer = sa.select(trial.c.id).where(trial.c.key == key, trial.c.id > after)
        with self._store.writing() as connection:
            if key in self._held(connection) or connection.execute(newer).first() is not None:
                return False
            connection.execute(lease.delete().where(lease.c.key == key))
            mine = {"owner": self._owner, "machine": _machine(), "process": _process(os.getpid())}
            connection.execute(lease.insert(), {"key": key, **mine, "expires_at": self._expiry(connection)})
        return True

    def give_back(self, connection: sa.Connection, key: str) -> bool:
        """End a lease, in the transaction that files what came of it, and tell whether it still was this weighing's."""
        lease = self._store.lease
        mine = lease.delete().where(lease.c.key == key, lease.c.owner == self._owner)
        return connection.execute(mine).rowcount == 1

    def _held(self, connection: sa.Connection) -> set[str]:
        """Return the keys on which other living weighings hold leases."""
        lease = self._store.lease.c
        query = sa.select(lease.key, lease.machine, lease.process).where(
            lease.owner != self._owner, lease.expires_at > self._store.now
        )
        return {
            key
            for key, machine, process in connection.execute(query)
            if machine != _machine() or process == _process(int(process.partition(" ")[0]))
        }

    def _expiry(self, connection: sa.Connection) -> float:
        return connection.execute(sa.select(self._store.now)).scalar_one() + self._seconds

    def _renew(self) -> None:
        lease = self._store.lease
        while not self._end.wait(self._seconds / 3):
            with contextlib.suppress(InputError), self._store.writing() as connection:
                mine = lease.update().where(lease.c.owner == self._owner)
                connection.execute(mine.values(expires_at=self._expiry(connection)))


def _machine() -> str:
    """Return what tells this machine, and on it this space of process numbers, from any other since it was started."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process(number: int) -> str:
    """Return the number of a process and, where the system tells, its start; empty where there is none that runs."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() or not _answers(number) else str(number)
    return "" if fields[0] in "ZX" else f"{number} {fields[19]}"


def _answers(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
