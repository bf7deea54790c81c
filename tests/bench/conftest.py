"""Places for ledgers: a file of SQLite, or a database of a PostgreSQL server that the tests start."""

import itertools
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.bench.postgresql import Server, programs, server

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    folder = programs()
    if folder is None or find_spec("psycopg") is None:
        pytest.skip("there is no PostgreSQL here (initdb), or no driver for it (psycopg)")
    try:
        with server(folder) as made:
            yield made
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"PostgreSQL cannot be started here: {error}")


@pytest.fixture
def database(postgresql: Server) -> str:
    """Return the URL of a fresh database."""
    return postgresql.url(f"ledger{next(_NUMBERS)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a place for a ledger where there is none yet."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    return request.getfixturevalue("database")
