"""What fails after a ledger was opened: a message with path, what stays and a remedy, and nothing is lost."""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.bench.test_sharing import ALL, PLAN, Engine, change_leases, rows, run

from paperweight.bench.ledger import Ledger
from paperweight.bench.store import Store
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.provenance import here


def record(seed: int = 0, **changes: Any) -> TrialRecord:
    spec = TrialSpec(study="example", arm="base", seed=seed, budget="smoke")
    return TrialRecord(spec=spec, status="finished", metrics={"score": 1.0}, state=here().state(), **changes)


@pytest.fixture
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Return the connections that are opened, so that a test can make one fail."""
    opened: list[sqlite3.Connection] = []

    def note(connection: sqlite3.Connection, _: object) -> None:
        opened.append(connection)

    sa.event.listen(sa.Engine, "connect", note)
    yield opened
    sa.event.remove(sa.Engine, "connect", note)


FAULTS = {
    "full": (
        "max_page_count=1",
        "max_page_count=1000000",
        r"disk is full, [\d,]+ bytes are free there; .*free some space",
    ),
    "readonly": ("query_only=ON", "query_only=OFF", "readonly database.*make the file and its folder writable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_mid_run_is_told_with_what_stays_and_the_same_plan_goes_on(
    tmp_path: Path, connections: list[sqlite3.Connection], fault: str
) -> None:
    path = str(tmp_path / "ledger.sqlite")
    broken, _, says = FAULTS[fault]
    engine = Engine()

    def fail(spec: TrialSpec) -> None:
        if spec == PLAN[5]:
            connections[-1].execute(f"PRAGMA {broken}")

    engine.meanwhile = fail
    with pytest.raises(InputError, match=rf"ledger\.sqlite cannot be written: .*{says}") as caught:
        run(path, engine)
    kept = len(rows(path))
    assert kept >= 5
    assert f"the {kept} trials in it stay" in str(caught.value)
    assert "give the same command again" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    change_leases(path, expires_at=0.0)  # a driver that ended could not give them back, and this process lives on
    rest = Engine()
    assert len(run(path, rest)) == 12
    assert len(rest.ran) == 12 - kept
    assert rows(path) == ALL


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_nothing(
    tmp_path: Path, connections: list[sqlite3.Connection], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "ledger.sqlite")
    broken, mended, _ = FAULTS[fault]
    engine = Engine()

    def fail(spec: TrialSpec) -> None:
        if spec == PLAN[5]:
            connections[-1].execute(f"PRAGMA {broken}")

    engine.meanwhile = fail
    monkeypatch.setattr(
        "paperweight.bench.sharing.time.sleep", lambda _: connections[-1].execute(f"PRAGMA {mended}") and None
    )
    assert len(run(path, engine)) == 12
    assert sorted(engine.ran) == rows(path) == ALL


def test_a_ledger_that_another_program_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.bench.store._PATIENCE", 0.1)
    path = str(tmp_path / "ledger.sqlite")
    with Ledger(path) as ledger:
        ledger.add(record())
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match=r"locked; the one trial in it stays; end the other program"):
            ledger.add(record(1))
        holder.close()
        assert ledger.add(record(1))
    assert len(rows(path)) == 2


def test_a_writer_waits_as_long_as_others_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.bench.store._PATIENCE", 0.3)
    path = str(tmp_path / "ledger.sqlite")
    Ledger(path).close()
    held = threading.Event()

    def hold() -> None:
        holder = sqlite3.connect(path, isolation_level=None)
        for number in range(6):
            holder.execute("BEGIN IMMEDIATE")
            held.set()
            holder.execute(
                f"INSERT INTO lease (key, owner, machine, process, expires_at) VALUES ({number}, 1, 1, 1, 0)"
            )
            time.sleep(0.15)
            holder.execute("COMMIT")
        holder.close()

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(20)
    with Ledger(path) as ledger:
        assert ledger.add(record())
    other.join()
    assert len(rows(path)) == 1


def test_a_row_that_a_newer_version_filed_is_read_as_far_as_it_is_known(place: str) -> None:
    filed = record()
    plain = json.loads(filed.model_dump_json()) | {"heat": 3.0}
    plain["spec"]["colour"] = "red"
    with Ledger(place) as ledger:
        ledger.add(filed)
    edit(place, json.dumps(plain))
    with Ledger(place) as ledger:
        assert ledger.find([filed.spec]) == {filed.spec.key(): filed}
    with pytest.raises(ValueError, match="heat"):
        TrialRecord.model_validate(plain)


def edit(place: str, text: str, column: str = "record", number: int = 1) -> None:
    """Write into a row what no version of ours would: the triggers that forbid it are taken away."""
    store = Store(place)
    with store.writing() as connection:
        if "://" in place:
            connection.exec_driver_sql("ALTER TABLE trial DISABLE TRIGGER USER")
        else:
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS trial_no_update")
        cast = "CAST(:text AS json)" if "://" in place else ":text"
        connection.execute(sa.text(f"UPDATE trial SET {column} = {cast} WHERE id = :id"), {"text": text, "id": number})
    store.close()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "1e999",
        '{"spec": 3}',
        '{"spec": {}}',
        '{"spec": {"study": "example", "arm": "base", "seed": 0, "budget": "smoke"}}',
        record(7).model_dump_json(),
        record().model_dump_json().replace('"finished"', '"vanished"'),
    ],
)
def test_a_row_that_cannot_be_read_is_passed_over_in_words_and_its_trial_runs_again(
    place: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(place, Engine(0.0), PLAN[:2])
    edit(place, text)
    engine = Engine(0.0)
    with caplog.at_level(logging.WARNING):
        found = run(place, engine, PLAN[:2])
    assert len(found) == 2
    assert engine.ran == [("base", 0)]
    assert len(rows(place)) == 3
    (told,) = caplog.messages
    assert "row 1 of its trials cannot be read and is passed over" in told
    assert "runs again" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "\xff" * 9, "[" * 100_000, '{"spec": '])
def test_a_row_that_is_no_json_is_passed_over(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "ledger.sqlite")
    run(path, Engine(0.0), PLAN[:1])
    edit(path, text)
    edit(path, text, "units")
    with caplog.at_level(logging.WARNING):
        assert len(run(path, Engine(0.0), PLAN[:1])) == 1
    assert len(rows(path)) == 2
    assert len(caplog.messages) == 1


def test_a_row_that_is_not_even_text_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.sqlite"
    run(str(path), Engine(0.0), PLAN[:1])
    file = sqlite3.connect(path)
    file.executescript("DROP TRIGGER trial_no_update; UPDATE trial SET record = x'ff00fe', units = CAST(x'ff' AS TEXT)")
    file.close()
    assert len(run(str(path), Engine(0.0), PLAN[:1])) == 1
    assert len(rows(str(path))) == 2
    assert "row 1" in caplog.text


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_out_that_cannot_be_written_is_noticed_before_the_first_trial(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from paperweight.cli import main

    def fail(*_: object, **__: object) -> None:
        pytest.fail("a weighing began")

    monkeypatch.setattr("paperweight.bench.weigh", fail)
    out = tmp_path / "out"
    if kind == "file":
        out.touch()
    else:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(SystemExit) as ended:
        main(["weigh", "laplacian_smoothing", "--out", str(out)])
    assert ended.value.code == 2
    assert f"folder {out} cannot be written" in " ".join(capsys.readouterr().err.split())
