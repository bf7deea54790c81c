"""The board: what is missing or stale is weighed and written, what holds is left alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from paperweight.bench import Weighing, board
from paperweight.bench.loading import load_study
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.catalogue import entries, find, official_result, results
from paperweight.errors import InputError
from paperweight.provenance import here

STEM = "laplacian_smoothing"
SOME = [entry for entry in entries() if entry.field in ("optim", "gan")]


def made_up_weighing(stem: str, count: int | None = None) -> Weighing:
    """Return a weighing of a real study with made-up values, in which every arm gains far over the one before."""
    study = load_study(stem)
    arms = list(study.declaration.arms)
    seeds = range(count or study.declaration.seeds)
    records = [
        TrialRecord(
            spec=TrialSpec(study=stem, arm=arm, seed=seed, budget="desk"),
            status="finished",
            metrics={
                name: (index if metric.better == "higher" else -index) * 10 * metric.minimal_effect + 0.1 * seed
                for name, metric in study.declaration.metrics.items()
            },
            curves={"loss, by step": [(1.0, index + seed / 3), (2.0, math.inf)]},
        )
        for seed in seeds
        for index, arm in enumerate(arms)
    ]
    units = {"studies._setting:_stream": here().digest("studies._setting:_stream")}
    return Weighing(study, arms, seeds, records, f"paperweight weigh {stem}", units=units)


@pytest.fixture
def weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the board write below a temporary folder, of some papers alone; return what it weighs."""
    done: list[str] = []

    def weigh(stem: str, seeds: int | None = None, **_: Any) -> Weighing:
        done.append(stem)
        return made_up_weighing(stem, seeds)

    monkeypatch.setattr(results, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(board, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(board, "weigh", weigh)
    monkeypatch.setattr(board, "entries", lambda: SOME)
    return done


def test_what_is_missing_is_weighed_once_and_written(weighed: list[str], tmp_path: Path):
    with_study = [entry.stem for entry in SOME if entry.study_path.is_file()]
    assert STEM in with_study
    rows = board.board()
    assert sorted(weighed) == sorted(row.stem for row in rows) == sorted(with_study)
    assert all(row.done == "weighed" and row.verdict == "helps" for row in rows)
    record = json.loads((tmp_path / "results" / "optim" / f"{STEM}.json").read_text(encoding="utf-8"))
    assert record["concluded"]["verdict"] == "helps"
    assert record["measured"]["seeds"] == list(range(load_study(STEM).declaration.seeds))
    assert record["renewed"] == []
    again = board.board()
    assert sorted(weighed) == sorted(with_study)
    assert not any(row.done for row in again)


def test_a_result_keeps_the_median_and_the_range_of_its_curves(weighed: list[str], tmp_path: Path):
    board.board([STEM])
    measured = json.loads((tmp_path / "results" / "optim" / f"{STEM}.json").read_text(encoding="utf-8"))["measured"]
    last = len(measured["seeds"]) - 1
    assert list(measured["curves"]) == ["loss, by step"]
    assert list(measured["curves"]["loss, by step"]) == measured["arms"]
    for index, kept in enumerate(measured["curves"]["loss, by step"].values()):
        assert (kept["at"], kept["lowest"]) == ([1.0], [index])
        assert kept["median"] == [pytest.approx(index + last / 6, rel=1e-4)]
        assert kept["highest"] == [pytest.approx(index + last / 3, rel=1e-4)]


def test_curves_are_added_to_a_result_that_keeps_none_and_nothing_else_of_it_changes(
    weighed: list[str], tmp_path: Path
):
    board.board([STEM])
    path = tmp_path / "results" / "optim" / f"{STEM}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(InputError, match="keeps curves of all its seeds already"):
        board.draw_curves([STEM])
    del record["measured"]["curves"]
    path.write_text(json.dumps(record), encoding="utf-8")
    rows = board.draw_curves([STEM])
    assert [row.done for row in rows if row.stem == STEM] == ["curves drawn"]
    found = json.loads(path.read_text(encoding="utf-8"))
    later = found.pop("later_curves")
    assert (found, weighed) == (record, [STEM, STEM])
    assert (later["seeds"], later["difference"]) == ([0, 1], 0.0)
    assert later["curves"]["loss, by step"]["permuted"]["highest"] != later["curves"]["loss, by step"]["sgd"]["highest"]


def test_curves_of_trials_that_measure_something_else_are_not_added(weighed: list[str], tmp_path: Path):
    with pytest.raises(InputError, match="has no desk result that holds"):
        board.draw_curves([STEM])
    board.board([STEM])
    path = tmp_path / "results" / "optim" / f"{STEM}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["measured"]["curves"]
    headline = load_study(STEM).declaration.headline
    arm = record["measured"]["arms"][0]
    record["measured"]["values"][headline][arm] = [
        value + 100.0 for value in record["measured"]["values"][headline][arm]
    ]
    path.write_text(json.dumps(record), encoding="utf-8")
    board.board(["lookahead"])
    other = tmp_path / "results" / "optim" / "lookahead.json"
    bare = json.loads(other.read_text(encoding="utf-8"))
    del bare["measured"]["curves"]
    other.write_text(json.dumps(bare), encoding="utf-8")
    with pytest.raises(InputError, match=f"outside what was measured by the minimal effect or more, of {arm};"):
        board.draw_curves([STEM, "lookahead"])
    assert json.loads(path.read_text(encoding="utf-8")) == record
    assert "later_curves" in json.loads(other.read_text(encoding="utf-8")), "one that is refused keeps it from no other"


def test_what_is_stale_is_due_and_says_what_changed(weighed: list[str], monkeypatch: pytest.MonkeyPatch):
    board.board([STEM])
    monkeypatch.setattr(results, "stale_units", lambda record: ["nets.lenet.LeNet"] if record["study"] == STEM else [])
    official = official_result(find(STEM))
    assert official is not None
    assert (official.stale, official.changed) == (True, ("nets.lenet.LeNet",))
    assert STEM in [entry.stem for entry in board.due()]


def test_each_weighing_is_handed_on_when_its_result_is_written(weighed: list[str], tmp_path: Path):
    seen: list[str] = []

    def hand_on(weighing: Weighing) -> None:
        assert (tmp_path / "results" / "optim" / f"{STEM}.json").is_file()
        seen.append(weighing.loaded.stem)

    board.board([STEM], weighed=hand_on)
    assert seen == [STEM]


def test_conclusions_are_drawn_again_from_what_was_measured_and_nothing_is_run(weighed: list[str], tmp_path: Path):
    board.board([STEM])
    path = tmp_path / "results" / "optim" / f"{STEM}.json"
    text = path.read_text(encoding="utf-8")
    record = json.loads(text)
    path.write_text(json.dumps(record | {"concluded": record["concluded"] | {"words": "old"}}), encoding="utf-8")
    (row,) = board.conclude_again()
    assert (row.stem, row.done, weighed) == (STEM, "concluded", [STEM])
    assert path.read_text(encoding="utf-8") == text
    assert not any(row.done for row in board.conclude_again([STEM]))


def test_a_result_without_an_arm_that_the_study_declares_no_longer_is_not_concluded(weighed: list[str], tmp_path: Path):
    board.board([STEM])
    path = tmp_path / "results" / "optim" / f"{STEM}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["measured"]["arms"][1] = "gone"
    path.write_text(json.dumps(record), encoding="utf-8")
    board.board(["lookahead"])
    other = tmp_path / "results" / "optim" / "lookahead.json"
    text = other.read_text(encoding="utf-8")
    record = json.loads(text)
    other.write_text(json.dumps(record | {"concluded": record["concluded"] | {"words": "old"}}), encoding="utf-8")
    with pytest.raises(InputError, match="no longer declares the arm gone; weigh it again"):
        board.conclude_again()
    assert other.read_text(encoding="utf-8") == text, "one that cannot be concluded keeps no other from it"


def test_p_values_are_adjusted_over_all_studies(weighed: list[str], tmp_path: Path):
    rows = board.board()
    largest = max(row.p for row in rows)
    assert all(row.p <= row.p_adjusted <= largest for row in rows)
    assert [row.p_adjusted for row in rows] == sorted(row.p_adjusted for row in rows)


def test_an_installed_package_is_not_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(board, "results_root", lambda: tmp_path / "_results")
    with pytest.raises(InputError, match="an installed package has none to write to"):
        board.board([STEM])
