"""The ledger: what is filed stays, the newest counts, the schema migrates, and what is no ledger is refused."""

import json
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import paperweight.bench
from paperweight.bench.ledger import Ledger
from paperweight.bench.schema import VERSIONS
from paperweight.bench.trial import TrialRecord, TrialSpec, pack_bits, unpack_bits
from paperweight.errors import InputError
from paperweight.provenance import file_digest, here


def spec(arm: str = "base", seed: int = 0, **changes: Any) -> TrialSpec:
    return TrialSpec(study="example", arm=arm, seed=seed, budget="smoke", **changes)


def record(arm: str = "base", seed: int = 0, **changes: Any) -> TrialRecord:
    plain: dict[str, Any] = {"status": "finished", "metrics": {"score": 1.5}, "state": here().state()}
    return TrialRecord(spec=spec(arm, seed), **(plain | changes))


def test_a_fresh_file_is_in_wal_mode_and_at_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ledger.sqlite"
    Ledger(str(path)).close()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file.execute("SELECT version_num FROM alembic_version").fetchall() == [(VERSIONS[-1],)]
    file.close()


def test_a_record_comes_back_as_it_was_filed(tmp_path: Path) -> None:
    filed = record(
        status="diverged",
        message="notes\nand $x$ <b>",
        metrics={"score": math.inf, "loss": -math.inf, "finite": 0.1},
        arguments={"rate": 0.1, "steps": 3, "name": "é"},
        curves={"loss, by step": [(0.0, 1.0), (1.0, math.inf)]},
        images={"sample": ["AAAA"]},
        correct="3:oA==",
        cpu_seconds=1.25,
        peak_bytes=1 << 40,
        environment={"threads": "1"},
        started_at="2026-01-01T00:00:00+00:00",
    )
    path = str(tmp_path / "ledger.sqlite")
    with Ledger(path) as ledger:
        ledger.add(filed)
    with Ledger(path) as ledger:
        assert ledger.find([filed.spec, spec("other")]) == {filed.spec.key(): filed}


def test_what_is_stored_is_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(str(path)) as ledger:
        ledger.add(record(metrics={"score": math.nan, "loss": math.inf}))
    with sqlite3.connect(path) as file:
        stored = file.execute("SELECT metrics, record FROM trial").fetchone()
    file.close()
    for text in stored:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_newest_record_of_a_trial_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(str(path)) as ledger:
        for score in (1.0, 3.0, 2.0):
            ledger.add(record(metrics={"score": score}))
        ledger.add(record("method", metrics={"score": 9.0}))
        found = ledger.find([spec()])
        assert [r.metrics for r in found.values()] == [{"score": 2.0}]
        many = [spec(seed=seed) for seed in range(1200)]
        assert ledger.find(many).keys() == {spec().key()}
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM trial").fetchone() == (4,)
    file.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trial SET status = 'finished'",
        "DELETE FROM trial",
        "UPDATE verdict SET verdict = 'helps'",
        "DELETE FROM verdict",
    ],
)
def test_rows_cannot_be_edited_or_deleted(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(str(path)) as ledger:
        ledger.add(record(status="crashed", metrics={}))
        outcome = {"measured": {"seeds": [0, 1]}, "concluded": {"verdict": "hurts"}}
        ledger.add_verdict(study="example", budget="smoke", data=None, network=None, record=outcome)
        file = sqlite3.connect(path)
        with pytest.raises(sqlite3.IntegrityError, match="never edited"):
            file.execute(statement)
        file.close()
        assert [r.status for r in ledger.find([spec()]).values()] == ["crashed"]
        assert ledger.verdicts("example") == [outcome]
        assert ledger.verdicts("other") == []


def schema(path: Path) -> dict[str, list[tuple[str, str, bool]]]:
    engine = sa.create_engine(f"sqlite:///{path}")
    inspector = sa.inspect(engine)
    found = {
        table: [(c["name"], str(c["type"]), bool(c["nullable"])) for c in columns]
        for table in inspector.get_table_names()
        for columns in [inspector.get_columns(table)]
    }
    found["triggers"] = sorted(
        (name, "", False) for (name,) in _select(path, "SELECT name FROM sqlite_master WHERE type = 'trigger'")
    )
    engine.dispose()
    return found


def _select(path: Path, query: str) -> list[Any]:
    file = sqlite3.connect(path)
    rows = file.execute(query).fetchall()
    file.close()
    return rows


def test_schema_is_the_declared_one_and_migrates_down_and_up(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(str(path)) as ledger:
        ledger.add(record())
    before = schema(path)
    columns = {table: {name: kind for name, kind, *_ in before[table]} for table in ("trial", "verdict")}
    assert columns["trial"] == {
        **dict.fromkeys(("id", "seed", "threads"), "INTEGER"),
        **dict.fromkeys(("study", "arm", "budget", "device", "data", "network"), "TEXT"),
        **dict.fromkeys(("status", "message", "started_at"), "TEXT"),
        **dict.fromkeys(("arguments", "environment", "metrics", "record", "units"), "JSON"),
        **dict.fromkeys(("wall_seconds", "cpu_seconds"), "FLOAT"),
        **dict.fromkeys(("key", "group_key"), "VARCHAR(64)"),
        "state": "VARCHAR(16)",
        "peak_bytes": "BIGINT",
    }
    assert columns["verdict"] == {
        **dict.fromkeys(("id", "seeds"), "INTEGER"),
        **dict.fromkeys(("study", "budget", "data", "network", "verdict", "made_at"), "TEXT"),
        "record": "JSON",
    }
    assert [name for name, *_ in before["triggers"]] == [
        "trial_no_delete",
        "trial_no_update",
        "verdict_no_delete",
        "verdict_no_update",
    ]
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(paperweight.bench.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    engine.dispose()
    assert schema(path).keys() == {"alembic_version", "triggers"}
    with Ledger(str(path)) as ledger:
        assert ledger.find([spec()]) == {}
        ledger.add(record())
    assert schema(path) == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk and bread\n" * 100)
    with pytest.raises(InputError, match=r"notes\.txt cannot be opened: file is not a database"):
        Ledger(str(path))
    assert path.read_text() == "milk and bread\n" * 100


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(str(path)).close()
    file = sqlite3.connect(path)
    with file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")
    file.close()
    with pytest.raises(InputError, match=r"ledger\.sqlite"):
        Ledger(str(path))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://person:hunter2@host/name",
        "postgresql+nonsense://person:hunter2@host/name",
        "postgresql://person:hunter2@host:port/name",
        "postgresql://person:hunter2/@127.0.0.1:1/name",
        "://hunter2",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InputError, match="ledger") as caught:
        Ledger(url)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        Ledger(str(tmp_path / "file" / "ledger.sqlite"))


@pytest.mark.parametrize("name", ["a b.sqlite", "50%.sqlite", "what?.sqlite", "number#1.sqlite", "é.sqlite"])
def test_any_file_name_is_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    with Ledger(str(tmp_path / name)) as ledger:
        ledger.add(record())
    assert (tmp_path / name).is_file()


def test_others_read_while_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    code = (
        "import sqlite3, sys\n"
        "file = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "print(file.execute('SELECT count(*) FROM trial').fetchone()[0])\n"
    )
    with Ledger(str(path)) as ledger, Ledger(str(path)) as other:
        ledger.add(record())
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO verdict VALUES (1, 's', 'smoke', NULL, NULL, 8, 'helps', '', '{}')")
        reader = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert other.find([spec()]).keys() == {spec().key()}
        assert reader.communicate()[0] == "1\n"
        assert other.verdicts("s") == []
        writer.execute("COMMIT")
        writer.close()
        assert len(other.verdicts("s")) == 1


def test_the_key_holds_what_a_number_depends_on_and_nothing_else() -> None:
    plain = spec()
    changes: list[dict[str, Any]] = [
        {"arm": "method"},
        {"seed": 1},
        {"study": "other"},
        {"budget": "desk"},
        {"device": "cuda"},
        {"network": "m:f"},
        {"data": "folder", "data_hash": "1"},
        {"data": "folder", "data_hash": "2"},
    ]
    keys = {plain.model_copy(update=change).key() for change in changes} | {plain.key()}
    assert len(keys) == len(changes) + 1
    assert plain.model_copy(update={"device": "cuda:1"}).key() == plain.model_copy(update={"device": "cuda"}).key()
    moved = [plain.model_copy(update={"data": folder, "data_hash": "1"}).key() for folder in ("here", "there")]
    assert moved[0] == moved[1]
    assert TrialSpec.model_validate_json(plain.model_dump_json()).key() == plain.key()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
def test_bits_come_back(length: int) -> None:
    bits = np.random.default_rng(length).random(length) < 0.5
    np.testing.assert_array_equal(unpack_bits(pack_bits(bits)), bits)


UNIT = "studies._setting:_stream"
NOW = {UNIT: here().digest(UNIT)}
OLD = {UNIT: "0" * 12}


@pytest.mark.parametrize(
    ("state", "units", "current"),
    [
        ("now", {}, True),
        ("now", OLD, True),
        ("older", NOW, True),
        ("older", OLD, False),
        ("older", {}, False),
        ("", {}, False),
    ],
)
def test_a_trial_counts_while_what_it_executed_is_as_it_was(state: str, units: dict[str, str], current: bool) -> None:
    state = here().state() if state == "now" else state
    with Ledger("sqlite://") as ledger:
        ledger.add(record(seed=0, state=state, units=units))
        ledger.add(record(seed=1, state=state))
        found = ledger.find([spec(seed=0), spec(seed=1)])
        assert len(found) == (2 if current else 0)


def test_a_recording_speaks_for_its_own_group_and_state_alone() -> None:
    with Ledger("sqlite://") as ledger:
        ledger.add(record("base", 0, state="older", units=NOW))
        ledger.add(record("base", 1, state="oldest"))
        ledger.add(record("method", 0, state="older"))
        wanted = [spec("base", 0), spec("base", 1), spec("method", 0)]
        assert [each.spec for each in ledger.find(wanted).values()] == [spec("base", 0)]
        assert ledger.executed(wanted, [record("base", 5, state="older")]) == NOW
        assert ledger.executed(wanted, [record("base", 5, state="oldest")]) == {}


def test_the_first_trial_of_each_group_is_recorded_unless_one_was_in_this_state() -> None:
    specs = [spec(arm, seed) for seed in range(3) for arm in ("base", "method")]
    with Ledger("sqlite://") as ledger:
        assert ledger.unrecorded(specs[2:]) == [spec("base", 1), spec("method", 1)]
        ledger.add(record("base", 0, units=NOW))
        ledger.add(record("method", 0, state="older", units=NOW))
        assert ledger.unrecorded(specs) == [spec("method", 0)]


def test_a_changed_file_of_the_users_own_makes_a_trial_run_again(tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text("RATE = 1\n")
    hashes = {str(helper): file_digest(helper)}
    with Ledger("sqlite://") as ledger:
        ledger.add(record(own=hashes))
        assert len(ledger.find([spec()])) == 1
        helper.write_text("RATE = 2\n")
        assert ledger.find([spec()]) == {}


def test_rows_of_the_first_schema_stay_and_are_not_used_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(str(path)).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(paperweight.bench.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        row = {"key": spec().key(), "study": "example", "arm": "base", "seed": 0, "budget": "smoke", "device": "cpu"}
        row |= dict.fromkeys(("code", "arguments", "environment", "metrics", "record"), "{}")
        row |= {"status": "finished", "message": "", "wall_seconds": 1.0, "cpu_seconds": 1.0, "started_at": ""}
        names = ", ".join(row)
        connection.execute(sa.text(f"INSERT INTO trial ({names}) VALUES ({', '.join(':' + n for n in row)})"), row)
    engine.dispose()
    with Ledger(str(path)) as ledger:
        assert ledger.find([spec()]) == {}
    assert _select(path, "SELECT count(*) FROM trial") == [(1,)]
