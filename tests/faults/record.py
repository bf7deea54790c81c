"""All faults of this directory, and the record of what noticed each when it was last planted."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import TypedDict

from tests.faults.planting import ROOT, Fault

from paperweight.catalogue import find
from paperweight.catalogue.fingerprint import file_hash

HERE = Path(__file__).parent
RECORD = HERE / "noticed.json"


class Noticed(TypedDict):
    """What noticed a fault, nothing being empty, and the hash of the code that this holds for."""

    by: str
    code: str


FAULTS: dict[str, tuple[str, Fault]] = {
    f"{path.stem}-{fault.what.replace(' ', '_')}": (path.stem, fault)
    for path in sorted(HERE.glob("*.py"))
    if path.stem not in ("planting", "record") and not path.stem.startswith(("_", "test_"))
    for fault in importlib.import_module(f"tests.faults.{path.stem}").FAULTS
}


def code(name: str) -> str:
    """Hash what decides first whether a fault is noticed: the fault, the method's file and its test."""
    stem, fault = FAULTS[name]
    entry = find(stem)
    method, test = file_hash(entry.path), file_hash(ROOT / "tests" / entry.field / f"test_{stem}.py")
    return hashlib.sha256("\0".join((fault.old, fault.new, method, test)).encode()).hexdigest()[:12]


def read() -> dict[str, Noticed]:
    """Read the record."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def write(record: dict[str, Noticed]) -> None:
    """Write the record, without the faults that are no longer there."""
    kept = {name: record[name] for name in sorted(FAULTS) if name in record}
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def stale(record: dict[str, Noticed]) -> list[str]:
    """Name the faults that were not planted since they, their method or its test changed."""
    return [name for name in FAULTS if name not in record or record[name]["code"] != code(name)]


def complaint(fault: Fault, by: str) -> str:
    """Say what is wrong with what noticed a fault; empty where it was noticed, or survives as declared."""
    if fault.survives:
        return f"noticed by {by}; delete the reason why it survives: {fault.survives}" if by else ""
    return "" if by.startswith(("contract:", "test:", "import:")) else by or "nothing notices this fault"
