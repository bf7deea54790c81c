"""Contracts and tests notice the faults of this directory, all when code last changed and a sample planted again."""

import random

import pytest
from tests.faults.planting import noticed, planted
from tests.faults.record import FAULTS, complaint, read, stale

from paperweight.catalogue import find, package_root

SAMPLE = 24


def drawn() -> list[str]:
    """Draw the faults to plant again: others after each change of the library."""
    code = b"".join(path.read_bytes() for path in sorted(package_root().rglob("*.py")))
    return sorted(random.Random(code).sample(sorted(FAULTS), SAMPLE))


@pytest.mark.parametrize("name", drawn())
def test_a_fault_planted_again_is_noticed_again(name: str):
    _, fault = FAULTS[name]
    assert complaint(fault, noticed(*FAULTS[name])) == ""


def test_all_were_planted_since_their_code_changed_and_noticed():
    record = read()
    assert not stale(record), "plant them again: make faults"
    wrong = {name: complaint(fault, record[name]["by"]) for name, (_, fault) in FAULTS.items()}
    assert not {name: what for name, what in wrong.items() if what}


def test_there_are_many_faults_and_few_survive():
    surviving = [name for name, (_, fault) in FAULTS.items() if fault.survives]
    assert len(FAULTS) >= 40
    assert len(surviving) <= 0.05 * len(FAULTS), surviving


def test_every_fault_fits_its_file_and_changes_it():
    for stem, fault in FAULTS.values():
        entry = find(stem)
        assert planted(entry, fault) != entry.path.read_text(encoding="utf-8")
