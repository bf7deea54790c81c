"""The ledger: a database of trials and verdicts, in which rows are added and never edited."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError

__all__ = ["Ledger"]


@final
class Ledger:
    """An open ledger, brought to the newest schema. The process that runs the trials is its only writer.

    Args:
        url: A SQLAlchemy URL such as ``postgresql+psycopg://...``, or the path of an SQLite file.

    Raises:
        InputError: If the database cannot be opened, or is not a ledger.

    Example:
        >>> with Ledger("sqlite://") as ledger:
        ...     ledger.find([])
        {}
    """

    def __init__(self, url: str) -> None:
        place: str | sa.URL = url
        try:
            if "://" not in url:
                path = Path(url).expanduser().resolve()
                path.parent.mkdir(parents=True, exist_ok=True)
                place = sa.URL.create("sqlite", database=str(path))
            self._engine = sa.create_engine(place, poolclass=sa.StaticPool)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _use_wal)
            with self._engine.begin() as connection:
                config = Config()
                config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            tables = sa.MetaData()
            tables.reflect(self._engine, only=("trial", "verdict"))
        except (SQLAlchemyError, CommandError, ImportError, OSError, ValueError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            shown = url.partition("://")[0] + "://..." if "://" in url else url
            raise InputError(
                f"ledger {shown} cannot be opened: {reason}; give the path of an SQLite file that paperweight wrote, "
                "or the URL of a database whose driver is installed"
            ) from error
        self._trial = tables.tables["trial"]
        self._verdict = tables.tables["verdict"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def add(self, record: TrialRecord) -> None:
        """File the record of a trial."""
        spec = record.spec
        plain = json.loads(record.model_dump_json())
        row: dict[str, Any] = {
            "key": spec.key(),
            **{name: getattr(spec, name) for name in ("study", "arm", "seed", "budget", "device", "data", "network")},
            **{name: plain[name] for name in ("arguments", "environment", "status", "message", "metrics")},
            **{name: plain[name] for name in ("wall_seconds", "cpu_seconds", "peak_bytes", "started_at")},
            "code": spec.code,
            "threads": int(record.environment.get("threads", "1")),
            "record": plain,
        }
        with self._engine.begin() as connection:
            connection.execute(self._trial.insert(), row)

    def find(self, specs: list[TrialSpec]) -> dict[str, TrialRecord]:
        """Return the newest record of each trial that has one, by key."""
        keys = [spec.key() for spec in specs]
        query = sa.select(self._trial.c.key, self._trial.c.record).order_by(self._trial.c.id)
        found: dict[str, TrialRecord] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(keys), 500):
                for key, record in connection.execute(query.where(self._trial.c.key.in_(keys[start : start + 500]))):
                    found[key] = TrialRecord.model_validate(record)
        return found

    def add_verdict(
        self, *, study: str, budget: str, data: str | None, network: str | None, record: dict[str, Any]
    ) -> None:
        """File the verdict of a weighing with the record it rests on."""
        row = {
            "study": study,
            "budget": budget,
            "data": data,
            "network": network,
            "seeds": record["seeds"],
            "verdict": record["verdict"],
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "record": record,
        }
        with self._engine.begin() as connection:
            connection.execute(self._verdict.insert(), row)

    def verdicts(self, study: str) -> list[dict[str, Any]]:
        """Return the records of all verdicts on a study, oldest first."""
        query = sa.select(self._verdict.c.record).where(self._verdict.c.study == study).order_by(self._verdict.c.id)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())


def _use_wal(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()
