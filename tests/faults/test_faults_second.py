"""The other half of the faults, and files without a fault."""

import pytest
from tests.faults.collected import HALVES, STEMS, check
from tests.faults.planting import Fault, noticed


@pytest.mark.parametrize("name", HALVES[1])
def test_fault(name: str):
    check(name)


@pytest.mark.parametrize("stem", STEMS)
def test_a_sound_file_raises_no_alarm(stem: str):
    assert noticed(stem, Fault("an empty line", "\nPAPER = ", "\n\nPAPER = ")) == ""
