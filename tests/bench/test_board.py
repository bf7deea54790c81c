"""The board: what is missing or stale is weighed and written, what holds is left alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from paperweight.bench import Weighing, board
from paperweight.bench.loading import load_study
from paperweight.bench.statistics import pairs_needed
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.catalogue import entries, find, official_result, results
from paperweight.errors import InputError
from paperweight.studies import DEFAULT_SEEDS

STEM = "laplacian_smoothing"


def made_up_weighing(stem: str) -> Weighing:
    """Return a weighing of a real study with made-up values, in which every arm gains far over the one before."""
    study = load_study(stem)
    arms = list(study.declaration.arms)
    seeds = max(DEFAULT_SEEDS, pairs_needed(len(arms) - 1))
    code = study.code()
    records = [
        TrialRecord(
            spec=TrialSpec(study=stem, arm=arm, seed=seed, budget="desk", code=code),
            status="finished",
            metrics={
                name: (index if metric.better == "higher" else -index) * 10 * metric.minimal_effect + 0.1 * seed
                for name, metric in study.declaration.metrics.items()
            },
        )
        for seed in range(seeds)
        for index, arm in enumerate(arms)
    ]
    return Weighing(study, arms, seeds, records, f"paperweight weigh {stem}")


@pytest.fixture
def weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the board write below a temporary folder; return what it weighs."""
    done: list[str] = []

    def weigh(stem: str, **_: Any) -> Weighing:
        done.append(stem)
        return made_up_weighing(stem)

    monkeypatch.setattr(results, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(board, "results_root", lambda: tmp_path / "results")
    monkeypatch.setattr(board, "weigh", weigh)
    return done


def test_what_is_missing_is_weighed_once_and_written(weighed: list[str], tmp_path: Path):
    with_study = [entry.stem for entry in entries() if entry.study_path.is_file()]
    rows = board.board(out=tmp_path)
    assert sorted(weighed) == sorted(row.stem for row in rows) == sorted(with_study)
    assert all(row.written and row.verdict == "helps" for row in rows)
    record = json.loads((tmp_path / "results" / "optim" / f"{STEM}.json").read_text(encoding="utf-8"))
    assert record["verdict"] == "helps"
    assert record["seeds"] == 8
    again = board.board(out=tmp_path)
    assert sorted(weighed) == sorted(with_study)
    assert not any(row.written for row in again)


def test_what_is_stale_is_due_and_says_which_code_changed(weighed: list[str], tmp_path: Path):
    board.board([STEM], out=tmp_path)
    path = tmp_path / "results" / "optim" / f"{STEM}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["code"]["shared"] = "another"
    path.write_text(json.dumps(record), encoding="utf-8")
    official = official_result(find(STEM))
    assert official is not None
    assert official.changed == ("shared",)
    assert STEM in [entry.stem for entry in board.due()]


def test_p_values_are_adjusted_over_all_studies(weighed: list[str], tmp_path: Path):
    rows = board.board(out=tmp_path)
    largest = max(row.p for row in rows)
    assert all(row.p <= row.p_adjusted <= largest for row in rows)
    assert [row.p_adjusted for row in rows] == sorted(row.p_adjusted for row in rows)


def test_an_installed_package_is_not_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(board, "results_root", lambda: tmp_path / "_results")
    with pytest.raises(InputError, match="an installed package has none to write to"):
        board.board([STEM], out=tmp_path)
