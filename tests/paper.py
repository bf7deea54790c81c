"""The tests that every paper has: its contract, its study at the smoke budget, and faults planted in its method.

They are added to ``tests/<field>/test_<stem>.py``, which holds ``CONTRACT`` and the tests that are the paper's own.
"""

import gc
import importlib
from functools import cache
from pathlib import Path

from tests.faults.planting import Fault, noticed_by
from tests.faults.record import complaint, drawn, faults_of, read, stale
from tests.subjects import checks, subjects

from paperweight.bench.loading import load_study
from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.catalogue import Entry, entries
from paperweight.studies import Study
from paperweight.testing import KIND_LAWS, always, run_check

TESTS = Path(__file__).parent
PAPERS = {TESTS / entry.field / f"test_{entry.stem}.py": entry for entry in entries()}


def study(entry: Entry) -> Study:
    return load_study(entry.stem).declaration


@cache
def _load_for_trials() -> None:
    """Load what training loads, and spare the collector of garbage these objects: each trial has it look at all."""
    importlib.import_module("torch._dynamo")
    importlib.import_module("sklearn.datasets")
    gc.collect()
    gc.freeze()


def trial(entry: Entry, arm: str) -> TrialRecord:
    _load_for_trials()
    return run_trial(TrialSpec(study=entry.stem, arm=arm, seed=0, budget="smoke"))


def cases(entry: Entry, argument: str) -> dict[str, object]:
    """Return what an argument of the tests below takes for a paper, by the name that the case has."""
    if argument == "law":
        return {f"{name}-{check}": (name, check) for name, check in checks(entry)}
    if argument == "arm":
        return {arm: arm for arm in study(entry).arms} if entry.study_path.is_file() else {}
    return {fault.what.replace(" ", "_"): fault for fault in drawn(entry)}


def test_contract(paper: Entry, law: tuple[str, str]) -> None:
    name, check = law
    result = run_check(check, checks(paper)[law])
    reason = subjects(paper)[name].expected_failures.get(check)
    if reason is None:
        assert result.passed, str(result)
    else:
        assert not result.passed, f"{check} passes; delete the expected failure: {reason}"


def test_contract_is_declared(paper: Entry) -> None:
    declared = subjects(paper)
    assert declared.keys() == paper.paper.provides.keys()
    for name, kind in paper.paper.provides.items():
        ran = {check for public, check in checks(paper) if public == name}
        assert ran >= {check.__name__ for check, applies in KIND_LAWS[kind].items() if applies is always}
        assert declared[name].expected_failures.keys() <= ran
        assert all(declared[name].expected_failures.values())
    assert not paper.paper.null or any(check == "check_null" for _, check in checks(paper))


def test_study(paper: Entry, arm: str) -> None:
    record = trial(paper, arm)
    assert record.status in FINISHED, record.message
    assert record.metrics.keys() == study(paper).metrics.keys()
    if arm == study(paper).method:
        again = trial(paper, arm)
        repeated = [name for name, metric in study(paper).metrics.items() if metric.unit != "ms"]
        assert [again.metrics[name] for name in repeated] == [record.metrics[name] for name in repeated]
        assert again.curves == record.curves


def test_fault(paper: Entry, fault: Fault) -> None:
    assert fault.what in read(paper), "it was never planted: make faults"
    by = read(paper)[fault.what]["by"]
    assert fault.survives or noticed_by(paper, fault, by) == by, "make faults"


def test_faults_are_recorded(paper: Entry) -> None:
    record = read(paper)
    assert not stale(paper, record), "plant them again: make faults"
    wrong = {fault.what: complaint(fault, record[fault.what]["by"]) for fault in faults_of(paper)}
    assert not {what: words for what, words in wrong.items() if words}
