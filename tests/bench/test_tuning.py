"""Weighings that give every arm the same number of tries, which Optuna suggests."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bench.conftest import trials_here
from tests.bench.test_weighing import trial, write

from paperweight import Weighing, weigh
from paperweight.bench.confirmation import comparable
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.catalogue import entries, result_path
from paperweight.errors import InputError
from paperweight.reports import render_report

WORDS = "tuned equally, 4 tries of each arm, by Optuna between the smallest and the largest value of its grid"

# the optimum of each seed lies between two values of the grid; that of the control below all of them
TUNED = """
    from math import log
    from paperweight.loops import tune

    GRIDS = {"base": (0.01, 0.1, 1.0), "method": (0.001, 0.01, 0.1, 1.0, 10.0), "control": (0.5, 1.0)}
    OPTIMUM = 0.03

    def run(arm: Arm, setting: Setting) -> Outcome:
        noise = torch.rand(1, generator=setting.generator("method")).item()
        optimum = OPTIMUM * (1 + noise)
        tuned = tune(GRIDS[arm.name], lambda lr: log(lr / optimum) ** 2, lambda loss: loss, better="lower")
        return Outcome(metrics={"score": -tuned.best, "loss": tuned.best}, tuned={"lr": tuned})
"""
ARMS = ("base", "method", "control")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Give a study, and how all tests weigh it."""
    folder = tmp_path_factory.mktemp("tuned")
    study = write(folder / "tuned.py", TUNED, ARMS)
    return study, {"budget": "smoke", "seeds": 4, "ledger": folder / "ledger.sqlite"}


@pytest.fixture(scope="module")
def found(place: tuple[str, dict[str, Any]]) -> Weighing:
    with trials_here() as ran:
        weighing = weigh(place[0], tune=4, **place[1])
    assert {spec.tune for spec in ran} == {4}
    return weighing


@pytest.fixture(scope="module")
def plain(place: tuple[str, dict[str, Any]], found: Weighing) -> Weighing:
    """The same by the grids, from the same ledger."""
    with trials_here() as ran:
        weighing = weigh(place[0], **place[1])
    assert [spec.tune for spec in ran] == [None] * 12
    return weighing


def test_every_arm_has_the_same_number_of_tries_and_words_record_and_report_say_so(
    place: tuple[str, dict[str, Any]], found: Weighing, plain: Weighing, ran: list[TrialSpec]
) -> None:
    study, options = place
    assert {len(record.grids["lr"]) for record in found.records} == {4}
    for record in found.records:
        points = record.curves["score on validation data, by log10 lr"]
        assert [10**x for x, _ in points] == pytest.approx(record.grids["lr"])
        assert record.arguments["lr"] in record.grids["lr"]
        assert record.environment["optuna"]
        assert record.spec.tune == 4
    whole = found.record()
    assert whole["measured"]["tune"] == 4
    assert whole["measured"]["grids"]["base"]["lr"] == [record.grids["lr"] for record in found.records[::3]]
    assert WORDS in found.words()
    assert f"tuned {whole['concluded']['tuned']}" == WORDS
    assert f"Tuned: {WORDS.removeprefix('tuned ')}." in render_report(found)
    assert found.command == f"paperweight weigh {study} --budget smoke --seeds 4 --tune 4"
    assert (weigh(study, tune=4, **options).words(), ran) == (found.words(), [])

    assert "tune" not in plain.record()["measured"]
    assert "Optuna" not in plain.words()
    assert plain.record()["concluded"]["tuned"] == "nothing"
    assert [len(record.grids["lr"]) for record in plain.records[:3]] == [3, 5, 2]
    for arm in ("base", "method"):  # the search comes nearer than the grid, at each seed
        assert all(found.trial(arm, seed).metrics["loss"] < plain.trial(arm, seed).metrics["loss"] for seed in range(4))


def test_a_choice_at_an_end_of_the_range_is_told_and_one_near_it_is_not(found: Weighing) -> None:
    (edge,) = found.conclusion.edges
    assert (edge.arm, edge.value, edge.side, edge.count) == ("control", 0.5, "lowest", 4)
    assert "control chose the lowest lr that was tried, 0.5, in 4 of 4 seeds" in render_report(found)


def test_a_trial_is_repeated_by_its_spec_and_draws_what_it_draws_without(tmp_path: Path) -> None:
    study = write(tmp_path / "repeated.py", TUNED)
    first, again = (run_trial(trial(study, "method", tune=4)) for _ in range(2))
    assert (first.metrics, first.grids) == (again.metrics, again.grids)
    assert first.metrics != run_trial(trial(study, "method")).metrics


def test_trials_in_workers_leave_nothing_changed(tmp_path: Path) -> None:
    study = write(tmp_path / "workers.py", TUNED)
    found = weigh(study, tune=4, budget="smoke", seeds=1, jobs=1, ledger=None)
    assert [(record.status, record.message) for record in found.records] == [("finished", "")] * 2
    assert {len(record.grids["lr"]) for record in found.records} == {4}


@pytest.mark.parametrize("body", ["Outcome(metrics=metrics)", "Outcome(metrics=metrics, tuned={'lr': one})"])
def test_an_arm_that_tunes_nothing_is_refused(tmp_path: Path, body: str, ran: list[TrialSpec]) -> None:
    study = write(
        tmp_path / "untuned.py",
        f"""
        from paperweight.loops import tune

        def run(arm: Arm, setting: Setting) -> Outcome:
            metrics = {{"score": 1.0, "loss": 1.0}}
            one = tune((0.1,), lambda lr: lr, lambda loss: loss, better="lower")
            return {body}
        """,
    )
    says = "arm 'base' of study untuned tunes nothing; weigh it without --tune, or other arms by --arms"
    with pytest.raises(InputError, match=says):
        weigh(study, tune=4, budget="smoke", seeds=1, ledger=None)
    assert len(ran) == 1


def test_a_study_that_tunes_one_value_within_another_is_refused() -> None:
    with pytest.raises(InputError, match="tunes one value for each try of another"):
        run_trial(TrialSpec(study="wgan_gp", arm="wgan_gp", seed=0, budget="smoke", tune=3))


def test_what_cannot_be_searched_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.bench.process.WorkerProcess", lambda _: pytest.fail("a worker was started"))
    with pytest.raises(InputError, match="tune must be at least 3 tries, got 2"):
        weigh("adabelief", tune=2, ledger=None)
    monkeypatch.setattr("paperweight.loops.searching.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'paperweight-ml\[tune\]'"):
        weigh("adabelief", tune=8, ledger=None)


def test_keys_of_trials_that_are_not_tuned_so_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    stored = (
        '{"study":"adabelief","arm":"sgd","seed":0,"budget":"smoke","device":"cpu","data":null,"data_hash":"",'
        '"network":null}'
    )
    spec = TrialSpec.model_validate_json(stored)
    assert spec.key() == "027b1834083172cad21e842a07ad6beb9265ad8e75a8c79bdf04ea2a4dd72ec0"
    assert spec.group() == "a4bf63a810ad24a0391b31948a8c60b2c6d20438a7000765c06a39b5f769dc74"
    tuned = [spec.model_copy(update={"tune": tries}) for tries in (None, 4, 8)]
    assert tuned[0].key() == spec.key()
    assert len({each.key() for each in tuned}) == len({each.group() for each in tuned}) == 3
    record = TrialRecord(spec=tuned[1], status="finished")
    assert TrialRecord.model_validate_json(record.model_dump_json()).spec.key() == tuned[1].key()


def test_a_tuned_weighing_confirms_no_official_result_and_none_is_tuned_so(
    place: tuple[str, dict[str, Any]], plain: Weighing, ran: list[TrialSpec]
) -> None:
    options: dict[str, Any] = {"budget": "smoke", "seeds": 1, "first_seed": 1000, "ledger": None}
    official = json.loads(json.dumps(plain.record()))
    assert comparable(official, weigh(place[0], **options).conclusion)
    assert not comparable(official, weigh(place[0], tune=3, **options).conclusion)
    files = [result_path(entry) for entry in entries() if result_path(entry).is_file()]
    assert files
    assert [file for file in files if "tune" in json.loads(file.read_text(encoding="utf-8"))["measured"]] == []
    assert {spec.tune for spec in ran} == {None, 3}
