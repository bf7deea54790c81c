"""All faults of this directory, by name, and in two halves, so that two workers share what takes longest."""

import importlib
from pathlib import Path

from tests.faults.planting import Fault, noticed

FAULTS: dict[str, tuple[str, Fault]] = {
    f"{path.stem}-{fault.what.replace(' ', '_')}": (path.stem, fault)
    for path in sorted(Path(__file__).parent.glob("[!_]*.py"))
    if path.stem not in ("collected", "planting") and not path.stem.startswith("test_")
    for fault in importlib.import_module(f"tests.faults.{path.stem}").FAULTS
}
HALVES = list(FAULTS)[::2], list(FAULTS)[1::2]
STEMS = sorted({stem for stem, _ in FAULTS.values()})


def check(name: str) -> None:
    """Plant a fault and see whether it is noticed, or survives as declared."""
    stem, fault = FAULTS[name]
    by = noticed(stem, fault)
    if fault.survives:
        assert by == "", f"noticed by {by}; delete the reason why it survives: {fault.survives}"
    else:
        assert by.startswith(("contract:", "test:", "import:")), by or "nothing notices this fault"
