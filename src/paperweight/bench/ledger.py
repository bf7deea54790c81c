"""The ledger: trials and verdicts, in which rows are added and never edited."""

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, final

import sqlalchemy as sa
from pydantic import BaseModel, TypeAdapter, ValidationError

from paperweight.bench.leases import Leases
from paperweight.bench.store import Store
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.provenance import changed, here, unchanged_files

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)
_HASHES = TypeAdapter(dict[str, str])
_OBJECT = TypeAdapter(dict[str, Any])


@final
class Ledger:
    """An open ledger, brought to the newest schema. Workers never write into it, their drivers do.

    Args:
        url: A SQLAlchemy URL such as ``postgresql+psycopg://...``, or the path of an SQLite file.

    Raises:
        InputError: If the database cannot be opened or is not a ledger; later, from every method, if it fails.

    Example:
        >>> with Ledger("sqlite://") as ledger:
        ...     ledger.find([])
        {}
    """

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._trial, self._verdict = self._store.trial, self._store.verdict
        self._told: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def leases(self) -> Leases:
        """Return the leases of a weighing on trials of this ledger."""
        return Leases(self._store)

    def add(self, record: TrialRecord, leases: Leases | None = None) -> bool:
        """File the record of a trial.

        Args:
            record: The record.
            leases: Of the weighing that ran it. A record whose lease has gone to another weighing is not filed.

        Returns:
            Whether it was filed.
        """
        spec = record.spec
        plain = json.loads(record.model_dump_json())
        row: dict[str, Any] = {
            "key": spec.key(),
            **{name: getattr(spec, name) for name in ("study", "arm", "seed", "budget", "device", "data", "network")},
            **{name: plain[name] for name in ("arguments", "environment", "status", "message", "metrics")},
            **{name: plain[name] for name in ("wall_seconds", "cpu_seconds", "peak_bytes", "started_at")},
            "group_key": spec.group(),
            "state": record.state,
            "units": record.units or sa.null(),
            "threads": int(record.environment.get("threads", "1")),
            "record": plain,
        }
        with self._store.writing() as connection:
            if leases is not None and not leases.give_back(connection, spec.key()):
                return False
            connection.execute(self._trial.insert(), row)
        return True

    def newest(self) -> int:
        """Return the number of the newest row of a trial, 0 where there is none."""
        with self._store.reading() as connection:
            return connection.execute(sa.select(sa.func.max(self._trial.c.id))).scalar() or 0

    def find(self, specs: list[TrialSpec], *, after: int = 0) -> dict[str, TrialRecord]:
        """Return by key the newest record of each trial that has one whose code is as it was.

        That is so if no file of the package has changed, or none of the definitions that a trial of its group was
        recorded to execute, in the same state of the code; and none of the user's own files that it imported. A row
        that cannot be read is passed over, and that is logged.

        Args:
            specs: The trials.
            after: Only rows with a greater number count.
        """
        keys = [spec.key() for spec in specs]
        now = here()
        present = now.state()
        units = self._units(specs)
        trial = self._trial.c
        query = sa.select(trial.id, trial.key, trial.group_key, trial.state, sa.cast(trial.record, sa.Text))
        query = query.where(trial.state.is_not(None), trial.id > after).order_by(trial.id)
        found: dict[str, TrialRecord] = {}
        for number, key, group, state, text in self._rows(query, trial.key, keys):
            executed = units.get((group, state))
            if state != present and (executed is None or changed(now, executed)):
                continue
            record = self._record(number, key, text)
            if record is not None and unchanged_files(record.own):
                found[key] = record
        return found

    def unrecorded(self, specs: list[TrialSpec]) -> list[TrialSpec]:
        """Return the first trial of each group in which no execution is recorded in the present state of the code."""
        known, now = self._units(specs), here().state()
        first: dict[str, TrialSpec] = {}
        for spec in specs:
            first.setdefault(spec.group(), spec)
        return [spec for group, spec in first.items() if (group, now) not in known]

    def executed(self, specs: list[TrialSpec], records: Iterable[TrialRecord]) -> dict[str, str]:
        """Return the definitions that the trials of some records executed, as far as it was recorded, with hashes."""
        known = self._units(specs)
        found: dict[str, str] = {}
        for record in records:
            found |= known.get((record.spec.group(), record.state), {})
        return dict(sorted(found.items()))

    def _units(self, specs: list[TrialSpec]) -> dict[tuple[str, str], dict[str, str]]:
        """Return what was recorded of the groups of some trials, by group and state of the code."""
        groups = list({spec.group() for spec in specs})
        trial = self._trial.c
        query = sa.select(trial.id, trial.group_key, trial.state, sa.cast(trial.units, sa.Text))
        query = query.where(trial.units.is_not(None)).order_by(trial.id)
        found: dict[tuple[str, str], dict[str, str]] = {}
        for number, group, state, text in self._rows(query, trial.group_key, groups):
            try:
                found[group, state] = _HASHES.validate_json(text)
            except ValidationError as error:
                self._tell(number, error)
        return found

    def _record(self, number: int, key: str, text: str) -> TrialRecord | None:
        """Return the record of a row; of a newer version's, what this version knows."""
        try:
            plain = _OBJECT.validate_json(text)
            plain["spec"] = _known(_OBJECT.validate_python(plain.get("spec")), TrialSpec)
            record = TrialRecord.model_validate(_known(plain, TrialRecord))
            if record.spec.key() != key:
                raise ValueError("it is the record of another trial")
        except ValueError as error:
            self._tell(number, error)
            return None
        return record

    def _tell(self, number: int, error: Exception) -> None:
        if number not in self._told:
            self._told.add(number)
            reason = "; ".join(str(error).splitlines()[:3])
            _log.warning(
                "%s: row %d of its trials cannot be read and is passed over (%s); it stays, and its trial runs again "
                "where it is needed",
                self._store.name,
                number,
                reason,
            )

    def _rows(
        self, query: sa.Select[*tuple[Any, ...]], column: sa.ColumnElement[Any], values: list[str]
    ) -> list[sa.Row[*tuple[Any, ...]]]:
        with self._store.reading() as connection:
            return [
                row
                for start in range(0, len(values), 500)
                for row in connection.execute(query.where(column.in_(values[start : start + 500])))
            ]

    def add_verdict(
        self, *, study: str, budget: str, data: str | None, network: str | None, record: dict[str, Any]
    ) -> None:
        """File the verdict of a weighing with the record it rests on."""
        row = {
            "study": study,
            "budget": budget,
            "data": data,
            "network": network,
            "seeds": len(record["measured"]["seeds"]),
            "verdict": record["concluded"]["verdict"],
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "record": record,
        }
        with self._store.writing() as connection:
            connection.execute(self._verdict.insert(), row)

    def verdicts(self, study: str) -> list[dict[str, Any]]:
        """Return the records of all verdicts on a study, oldest first."""
        query = sa.select(self._verdict.c.record).where(self._verdict.c.study == study).order_by(self._verdict.c.id)
        with self._store.reading() as connection:
            return list(connection.execute(query).scalars())


def _known(plain: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name in model.model_fields}
