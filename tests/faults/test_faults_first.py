"""Of the faults in this directory, planted one at a time, contracts and tests notice all but the declared survivors."""

import pytest
from tests.faults.collected import FAULTS, HALVES, check
from tests.faults.planting import planted

from paperweight.catalogue import find


@pytest.mark.parametrize("name", HALVES[0])
def test_fault(name: str):
    check(name)


def test_there_are_many_faults_and_few_survive():
    surviving = [name for name, (_, fault) in FAULTS.items() if fault.survives]
    assert len(FAULTS) >= 40
    assert len(surviving) <= 0.05 * len(FAULTS), surviving
    assert sorted(HALVES[0] + HALVES[1]) == sorted(FAULTS)


def test_every_fault_fits_its_file_and_changes_it():
    for stem, fault in FAULTS.values():
        entry = find(stem)
        assert planted(entry, fault) != entry.path.read_text(encoding="utf-8")
