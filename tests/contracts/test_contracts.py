"""Every public object of every paper, crossed with the checks of its kind."""

import importlib
import json
from collections import Counter
from pathlib import Path

import pytest

from paperweight.catalogue import Entry, entries
from paperweight.testing import Subject, contract, run_check

FLOORS = json.loads(Path(__file__).with_name("floors.json").read_text(encoding="utf-8"))


def subjects(entry: Entry) -> dict[str, Subject]:
    module = f"tests.{entry.field}.test_{entry.stem}"
    declared = importlib.import_module(module).CONTRACT
    missing = [name for name in entry.paper.provides if name not in declared]
    if missing:
        raise ValueError(f"CONTRACT of {module} has no subject for {', '.join(missing)}, which the card provides")
    return declared


CASES = {
    f"{entry.stem}-{name}-{check}": (kind, check, run, subjects(entry)[name])
    for entry in entries()
    for name, kind in entry.paper.provides.items()
    for check, run in contract(
        kind, getattr(importlib.import_module(entry.module), name), subjects(entry)[name]
    ).items()
}


@pytest.mark.parametrize("case", CASES)
def test_contract(case):
    _, check, run, subject = CASES[case]
    result = run_check(check, run)
    reason = subject.expected_failures.get(check)
    if reason is None:
        assert result.passed, str(result)
    else:
        assert not result.passed, f"{check} passes; delete the expected failure: {reason}"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.stem)
def test_every_public_object_and_nothing_else_is_declared(entry):
    declared = subjects(entry)
    assert declared.keys() == entry.paper.provides.keys()
    for name, subject in declared.items():
        checks = {check for case, (_, check, _, _) in CASES.items() if case.startswith(f"{entry.stem}-{name}-")}
        assert subject.expected_failures.keys() <= checks
        assert all(subject.expected_failures.values())


@pytest.mark.parametrize("entry", [entry for entry in entries() if entry.paper.null], ids=lambda entry: entry.stem)
def test_a_card_with_a_null_setting_has_its_null_law_checked(entry):
    assert any(subject.null is not None for subject in subjects(entry).values())


def test_number_of_checks_is_that_of_the_floors():
    ran = dict(sorted(Counter(kind for kind, *_ in CASES.values()).items()))
    assert ran == FLOORS, f"where no check was lost, let tests/contracts/floors.json be {json.dumps(ran)}"
