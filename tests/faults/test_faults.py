"""Of the faults in this directory, planted one at a time, contracts and tests notice all but the declared survivors."""

import importlib
from pathlib import Path

import pytest
from tests.faults.planting import Fault, noticed, planted

from paperweight.catalogue import find

HERE = Path(__file__).parent
FAULTS: dict[str, tuple[str, Fault]] = {
    f"{path.stem}-{fault.what.replace(' ', '_')}": (path.stem, fault)
    for path in sorted(HERE.glob("[!_]*.py"))
    if path.stem not in ("planting", "test_faults")
    for fault in importlib.import_module(f"tests.faults.{path.stem}").FAULTS
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str):
    stem, fault = FAULTS[name]
    by = noticed(stem, fault)
    if fault.survives:
        assert by == "", f"noticed by {by}; delete the reason why it survives: {fault.survives}"
    else:
        assert by.startswith(("contract:", "test:", "import:")), by or "nothing notices this fault"


@pytest.mark.parametrize("stem", sorted({stem for stem, _ in FAULTS.values()}))
def test_a_sound_file_raises_no_alarm(stem: str):
    assert noticed(stem, Fault("an empty line", "\nPAPER = ", "\n\nPAPER = ")) == ""


def test_there_are_many_faults_and_few_survive():
    surviving = [name for name, (_, fault) in FAULTS.items() if fault.survives]
    assert len(FAULTS) >= 40
    assert len(surviving) <= 0.05 * len(FAULTS), surviving


def test_every_fault_fits_its_file_and_changes_it():
    for stem, fault in FAULTS.values():
        entry = find(stem)
        assert planted(entry, fault) != entry.path.read_text(encoding="utf-8")
