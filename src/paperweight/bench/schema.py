"""The schema of a ledger: made, and brought to the newest version, as a whole or not at all."""

import threading
from pathlib import Path

import sqlalchemy as sa

from paperweight.errors import InputError

__all__ = ["VERSIONS", "is_newest", "upgrade"]

VERSIONS = ("0001", "0002", "0003")
"""The versions of the schema, the newest last; each has its file in ``migrations``."""

_TABLES = ("trial", "verdict", "lease")
_ALEMBIC = threading.Lock()


def is_newest(connection: sa.Connection) -> bool:
    """Return whether the schema is the newest one.

    Raises:
        InputError: If a newer paperweight made it.
    """
    version = _version(connection)
    if version is not None and version not in VERSIONS:
        raise InputError(
            f"its schema has version {version}, and this paperweight knows none after {VERSIONS[-1]}; "
            "update paperweight, or name another ledger"
        )
    return version == VERSIONS[-1]


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema to the newest version, in the transaction of a writer.

    Raises:
        InputError: If tables of these names are there that belong to something else.
    """
    from alembic import command
    from alembic.config import Config

    if is_newest(connection):
        return
    if _version(connection) is None:
        _drop_half_made(connection)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _ALEMBIC:  # its state belongs to the process
        command.upgrade(config, VERSIONS[-1])


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _drop_half_made(connection: sa.Connection) -> None:
    """Drop the tables that an earlier version left without a version when it was killed; they hold no row."""
    present = set(sa.inspect(connection).get_table_names())
    for table in present.intersection(_TABLES):
        rows = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
        if rows or "alembic_version" not in present:
            raise InputError(f"its table {table} is not of paperweight's making; name another ledger")
        connection.exec_driver_sql(f"DROP TABLE {table}")
