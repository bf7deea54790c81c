"""The faults of all papers together: there are many, few survive, and each fits its file."""

from tests.faults.planting import planted
from tests.faults.record import faults_of

from paperweight.catalogue import entries

FAULTS = [(entry, fault) for entry in entries() for fault in faults_of(entry)]


def test_there_are_many_faults_and_few_survive():
    surviving = [fault for _, fault in FAULTS if fault.survives]
    assert len(FAULTS) >= 40
    assert len(surviving) <= 0.05 * len(FAULTS), surviving


def test_every_fault_fits_its_file_and_changes_it():
    for entry, fault in FAULTS:
        assert planted(entry, fault) != fault.path(entry).read_text(encoding="utf-8")


def test_faults_of_a_paper_have_names_of_their_own():
    assert len({(entry.stem, fault.what) for entry, fault in FAULTS}) == len(FAULTS)
