"""Ledgers merged: each row once, all or none, the source untouched; and trials as a table."""

import contextlib
import math
import sqlite3
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from paperweight.bench.ledger import Ledger
from paperweight.bench.transfer import Merged, export_trials, merge_ledger
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.cli import main
from paperweight.errors import InputError
from paperweight.provenance import here


def record(seed: int, arm: str = "base", **given: object) -> TrialRecord:
    spec = TrialSpec(study="lookahead", arm=arm, seed=seed, budget="smoke")
    fields = {
        "status": "finished",
        "metrics": {"accuracy": 0.5 + seed / 3},
        "arguments": {"lr": 0.1, "steps": 5, "nesterov": True},
        "environment": {"threads": "1"},
        "started_at": "2026-01-01T00:00:00+00:00",
        "wall_seconds": 1 / 3,
        "state": here().state(),
    }
    return TrialRecord.model_validate({"spec": spec, **fields, **given})


def filled(path: Path | str, *records: TrialRecord) -> str:
    with Ledger(str(path)) as ledger:
        for each in records:
            ledger.add(each)
        ledger.add_verdict(
            study="lookahead",
            budget="smoke",
            data=None,
            network=None,
            record={"measured": {"seeds": [0]}, "concluded": {"verdict": "helps"}, "of": str(path)},
        )
    return str(path)


def test_rows_go_over_once_and_are_found_there(tmp_path: Path, place: str) -> None:
    into = filled(place, record(0), record(1))
    source = filled(tmp_path / "theirs.sqlite", record(1), record(2), record(3, status="crashed", metrics={}))
    before = Path(source).read_bytes()
    assert merge_ledger(into, source) == Merged(trials=2, verdicts=1, there=1)
    assert merge_ledger(into, source) == Merged(trials=0, verdicts=0, there=4)
    assert Path(source).read_bytes() == before
    with Ledger(into) as ledger:
        specs = [record(seed).spec for seed in range(4)]
        found = ledger.find(specs)
        assert [found[spec.key()] for spec in specs[:3]] == [record(seed) for seed in range(3)]
        assert found[specs[3].key()].status == "crashed"
        assert len(ledger.verdicts("lookahead")) == 2


def test_two_ledgers_that_are_merged_into_each_other_hold_the_same(tmp_path: Path) -> None:
    first = filled(tmp_path / "first.sqlite", record(0), record(1))
    second = filled(tmp_path / "second.sqlite", record(2))
    merge_ledger(first, second)
    merge_ledger(second, first)
    for each in (first, second):
        assert export_trials(each, tmp_path / f"{Path(each).stem}.parquet") == 3
    tables = [pq.read_table(tmp_path / f"{name}.parquet").drop(["id"]).to_pylist() for name in ("first", "second")]
    assert sorted(map(str, tables[0])) == sorted(map(str, tables[1]))


def test_a_merge_that_fails_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = filled(tmp_path / "into.sqlite", record(0))
    source = filled(tmp_path / "source.sqlite", record(1), record(2))
    from paperweight.bench import transfer

    def rows(connection, table):
        if table.name == "verdict":
            raise KeyboardInterrupt
        yield from real(connection, table)

    real = transfer._rows
    monkeypatch.setattr(transfer, "_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        merge_ledger(into, source)
    monkeypatch.undo()
    assert export_trials(into, tmp_path / "t.parquet") == 1


def test_a_table_has_a_row_a_trial_and_a_column_a_metric(tmp_path: Path) -> None:
    ledger = filled(
        tmp_path / "l.sqlite",
        record(0),
        record(
            1,
            "method",
            metrics={"accuracy": math.nan, "loss": 2.0},
            status="diverged",
            arguments={"lr": "auto", "of": "NaN", "key": 2**70},
        ),
        record(2, status="crashed", metrics={}, message="lost"),
    )
    target = tmp_path / "new" / "trials.parquet"
    assert export_trials(ledger, target) == 3
    rows = pq.read_table(target).to_pylist()
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert [row["arm"] for row in rows] == ["base", "method", "base"]
    assert rows[0]["metric.accuracy"] == 0.5
    assert math.isnan(rows[1]["metric.accuracy"])
    assert [row["metric.loss"] for row in rows] == [None, 2.0, None]
    assert [row["argument.lr"] for row in rows] == ["0.1", "auto", "0.1"]
    assert rows[0]["argument.nesterov"] is True
    assert rows[1]["argument.of"] == "NaN"
    assert [row["argument.key"] for row in rows] == [None, str(2**70), None]
    assert rows[2]["message"] == "lost"
    assert [path.name for path in target.parent.iterdir()] == ["trials.parquet"]


def test_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into, source = filled(tmp_path / "a.sqlite", record(0)), filled(tmp_path / "b.sqlite", record(1))
    for words in (["merge", source], ["export", str(tmp_path / "t.parquet")]):
        with pytest.raises(SystemExit) as end:
            main(["ledger", *words, "--ledger", into])
        assert end.value.code == 0
    told = capsys.readouterr().out
    assert f"1 trials and 1 verdicts went into {into}; 0 rows were there already" in told
    assert f"2 trials are in {tmp_path}" in told


def test_what_is_no_ledger_is_told(tmp_path: Path) -> None:
    into = filled(tmp_path / "a.sqlite", record(0))
    with pytest.raises(InputError, match=r"none\.sqlite is not there; name the file"):
        merge_ledger(into, tmp_path / "none.sqlite")
    with pytest.raises(InputError, match=r"none\.sqlite is not there; name the file"):
        export_trials(str(tmp_path / "none.sqlite"), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="cannot be merged into itself"):
        merge_ledger(into, into)
    (tmp_path / "text.sqlite").write_text("no database")
    with pytest.raises(InputError, match=r"ledger .*text\.sqlite cannot be opened: file is not a database"):
        merge_ledger(into, tmp_path / "text.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder is a folder; name a new file"):
        export_trials(into, tmp_path / "folder")
    before = Path(into).read_bytes()
    with pytest.raises(InputError, match="is a database, maybe the ledger itself; name a new file"):
        export_trials(into, into)
    assert Path(into).read_bytes() == before
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE mine (number)")
    with pytest.raises(InputError, match=r"other\.sqlite holds no trials"):
        merge_ledger(into, tmp_path / "other.sqlite")


def test_names_of_files_may_hold_anything(tmp_path: Path) -> None:
    into = filled(tmp_path / "a.sqlite", record(0))
    for number, name in enumerate(("p#1", "q?x=1", "50%41", "ä b")):
        (tmp_path / name).mkdir()
        source = filled(tmp_path / name / "l.sqlite", record(number + 1))
        assert merge_ledger(into, source).trials == 1
        assert [path.name for path in (tmp_path / name).iterdir() if path.suffix == ".sqlite"] == ["l.sqlite"]


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paperweight.bench.trackers import send

    ledger = filled(tmp_path / "a.sqlite", record(0))
    for kind in ("mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(InputError, match=rf"{kind} is not installed; install it with: .*\[{kind}\]"):
            send(ledger, f"{kind}:{tmp_path / 'runs'}")
    with pytest.raises(InputError, match="to must be mlflow:URI or tensorboard:FOLDER, got 'wandb:x'"):
        send(ledger, "wandb:x")
