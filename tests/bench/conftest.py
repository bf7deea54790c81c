"""Places for ledgers, SQLite files or databases of a PostgreSQL server that the tests start, and trials at hand."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.bench.postgresql import Server, programs, server

from paperweight.bench.starts import starting_weights
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial

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


@contextmanager
def trials_here() -> Iterator[list[TrialSpec]]:
    """Run trials in this process, which starts no worker, and give what was run."""
    specs: list[TrialSpec] = []

    class Engine:
        def __init__(self, **_: object) -> None:
            pass

        starting_weights = staticmethod(starting_weights)

        def run(
            self, missing: list[TrialSpec], *, recorded: set[str], may_start: Callable[[TrialSpec], bool]
        ) -> Iterator[TrialRecord]:
            for spec in filter(may_start, missing):
                specs.append(spec)
                yield run_trial(spec, recorded=spec.key() in recorded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paperweight.bench.engines.local_engine", Engine)
        yield specs


@pytest.fixture
def ran() -> Iterator[list[TrialSpec]]:
    """Run trials in this process, and return what was run."""
    with trials_here() as specs:
        yield specs
