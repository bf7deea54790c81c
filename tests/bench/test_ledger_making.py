"""Making a ledger: as a whole or not at all, whoever is killed and however many start at once."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import paperweight.bench
from paperweight.bench.ledger import Ledger
from paperweight.bench.schema import VERSIONS
from paperweight.bench.store import Store
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.provenance import here

MIGRATIONS = Path(paperweight.bench.__file__).parent / "migrations"


def record(seed: int = 0) -> TrialRecord:
    spec = TrialSpec(study="example", arm="base", seed=seed, budget="smoke")
    return TrialRecord(spec=spec, status="finished", metrics={"score": 1.0}, state=here().state())


def use(place: str) -> int:
    """Open a ledger, file a record, and return how many trials are in it."""
    with Ledger(place) as ledger:
        filed = record()
        ledger.add(filed)
        assert ledger.find([filed.spec]) == {filed.spec.key(): filed}
        return ledger.newest()


def at_once(work: Callable[[], int], times: int) -> list[int]:
    gate = threading.Barrier(times)

    def start(_: int) -> int:
        gate.wait()
        return work()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(start, range(times)))


def downgrade(place: str, version: str) -> None:
    store = Store(place)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, version)
    store.close()


def script(path: Path, *statements: str) -> str:
    file = sqlite3.connect(path)
    file.executescript(";".join(statements))
    file.close()
    return str(path)


def test_the_versions_are_those_of_the_migrations() -> None:
    revisions = [each.revision for each in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert tuple(reversed(revisions)) == VERSIONS


def test_six_starters_on_a_fresh_ledger_all_succeed(place: str) -> None:
    assert sorted(at_once(lambda: use(place), 6))[-1] == 6


def test_six_starters_on_an_old_ledger_all_succeed_and_lose_no_row(place: str) -> None:
    use(place)
    downgrade(place, "0002")
    assert sorted(at_once(lambda: use(place), 6))[-1] == 7


def test_an_upgrade_that_fails_changes_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(place)
    downgrade(place, "0001")

    def fail(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("DROP COLUMN", {}, Exception("the disk is full"))

    monkeypatch.setattr("alembic.op.drop_column", fail)
    with pytest.raises(
        InputError, match=r"cannot be opened: the disk is full(, [\d,]+ bytes are free there)?; free some space"
    ):
        Ledger(place)
    monkeypatch.undo()
    engine = sa.create_engine(f"sqlite:///{place}" if "://" not in place else place.replace(":", "+psycopg:", 1))
    columns = {column["name"] for column in sa.inspect(engine).get_columns("trial")}
    engine.dispose()
    assert "code" in columns
    assert "units" not in columns
    assert use(place) == 2


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import sqlalchemy as sa
    from tests.bench.test_ledger_making import downgrade, use

    def attempt(path, number):
        def kill(_):
            nonlocal number
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(sa.Engine, "connect", lambda connection, _: connection.set_trace_callback(kill))
        use(path)
        os._exit(0)

    for old in (0, 1):
        for number in range(1, 200, 7):
            path = str(Path(sys.argv[1]) / f"{old}-{number}.sqlite")
            if old:
                use(path)
                downgrade(path, "0001")
            child = os.fork()
            if child == 0:
                attempt(path, number)
            finished = os.waitpid(child, 0)[1] == 0
            print(old, number, finished, use(path))
            if finished:
                break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_ledger_whose_maker_is_killed_at_any_statement_is_whole_or_not_there(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-W", "ignore", "-c", textwrap.dedent(KILLED), str(tmp_path)]
    path = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[2])])
    answer = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    lines = [line.split() for line in answer.stdout.splitlines()]
    assert [finished for *_, finished, _ in lines].count("True") == 2, answer.stderr
    assert len(lines) > 16
    for old, number, finished, found in lines:
        rows = int(found) - int(old) - 1  # what the killed one filed, beside the old row and that of the last one
        assert rows in ((1,) if finished == "True" else (0, 1)), f"killed at statement {number}"


@pytest.mark.parametrize(
    "statements",
    [
        [],
        ["PRAGMA journal_mode=WAL"],
        ["CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"],
        ["CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)", "CREATE TABLE trial (id INTEGER)"],
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            "CREATE TABLE trial (id INTEGER, key TEXT)",
            "CREATE INDEX ix_trial_key ON trial (key)",
            "CREATE TABLE verdict (id INTEGER)",
            "CREATE TRIGGER trial_no_delete BEFORE DELETE ON trial BEGIN SELECT RAISE(ABORT, 'no'); END",
        ],
    ],
)
def test_what_an_earlier_version_left_half_made_is_made_whole(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "ledger.sqlite"
    path.touch()
    assert use(script(path, *statements)) == 1
    file = sqlite3.connect(path)
    assert file.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone() == (4,)
    file.close()


def test_what_an_earlier_version_left_half_upgraded_is_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    use(str(path))
    downgrade(str(path), "0001")
    script(path, "ALTER TABLE trial ADD COLUMN group_key VARCHAR(64)", "ALTER TABLE trial ADD COLUMN state VARCHAR(16)")
    assert use(str(path)) == 2


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE trial (id INTEGER)"],
        [
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            "CREATE TABLE trial (id INTEGER)",
            "INSERT INTO trial VALUES (1)",
        ],
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "other.sqlite"
    script(path, *statements)
    with pytest.raises(InputError, match=r"other\.sqlite cannot be opened: .* not of paperweight's making"):
        Ledger(str(path))
    file = sqlite3.connect(path)
    assert ("lease",) not in file.execute("SELECT name FROM sqlite_master").fetchall()
    file.close()


def test_a_ledger_of_a_newer_version_says_what_to_do(place: str) -> None:
    use(place)
    store = Store(place)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(InputError, match=r"version 9999.* update paperweight"):
        Ledger(place)


def test_other_databases_are_refused() -> None:
    with pytest.raises(InputError, match="mysql is neither sqlite nor postgresql"):
        Ledger("mysql://person:secret@host/name")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg.*the extra postgresql of paperweight-ml"):
        Ledger("postgresql://person@host/name")


def test_a_server_that_does_not_answer_is_named_without_a_password(database: str) -> None:
    with pytest.raises(InputError, match=r"ledger postgresql://\.\.\. cannot be opened: connection") as caught:
        Ledger(database.replace("host=", "host=/nowhere").replace("paper@", "paper:hunter2@"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("statement", ["UPDATE {} SET study = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("table", ["trial", "verdict"])
def test_rows_cannot_be_edited_in_postgresql_either(database: str, table: str, statement: str) -> None:
    use(database)
    store = Store(database)
    with pytest.raises(InputError, match="never edited; the one trial in it stays"), store.writing() as connection:
        connection.exec_driver_sql(statement.format(table))
    store.close()
    assert use(database) == 2
