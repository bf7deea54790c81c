"""What noticed each fault when it was last planted: a file a paper, ``noticed/<stem>.json``."""

import hashlib
import importlib
import json
import random
import re
from pathlib import Path
from typing import TypedDict

from tests.faults.planting import EARLY, ROOT, Fault

from paperweight.catalogue import Entry, package_root
from paperweight.provenance import file_digest

FOLDER = Path(__file__).parent / "noticed"
SAMPLE = 1
UNSOUND = ("time limit", "crash", "tests that do not run", EARLY)


class Noticed(TypedDict):
    """What noticed a fault first, nothing being empty, and the hash of the code that this holds for."""

    by: str
    code: str


Record = dict[str, Noticed]


def faults_of(entry: Entry) -> tuple[Fault, ...]:
    """Return the faults of a paper; none before their file is written."""
    written = Path(__file__).with_name(f"{entry.stem}.py").is_file()
    return importlib.import_module(f"tests.faults.{entry.stem}").FAULTS if written else ()


def _code(entry: Entry, planted: Path) -> str:
    """Hash what decides beside a fault whether it is noticed: the method's file, that with the fault, test and checks."""
    testing = package_root() / "testing"
    kinds = {kind.replace("-", "_") for kind in entry.paper.provides.values()}
    shared = {"network": "layer", "regularizer": "loss"}
    checks = [testing / f"{shared.get(kind, kind)}.py" for kind in (*sorted(kinds), "public")]
    for path in checks:
        used = re.findall(r"^from paperweight\.testing\.(\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
        checks += [file for name in used if (file := testing / f"{name}.py") not in checks]
    method = dict.fromkeys((entry.path, planted))
    files = [*method, ROOT / "tests" / entry.field / f"test_{entry.stem}.py", *sorted(checks)]
    return "".join(map(file_digest, files))


def code(entry: Entry, fault: Fault) -> str:
    """Hash what decides whether a fault is noticed."""
    return hashlib.sha256("\0".join((fault.old, fault.new, _code(entry, fault.path(entry)))).encode()).hexdigest()[:12]


def drawn(entry: Entry) -> list[Fault]:
    """Draw the faults that the tests plant again: others after each change of the method."""
    faults = faults_of(entry)
    return random.Random(file_digest(entry.path)).sample(faults, min(SAMPLE, len(faults)))


def read(entry: Entry) -> Record:
    """Read the record of a paper."""
    path = FOLDER / f"{entry.stem}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(entry: Entry, record: Record) -> None:
    """Write the record of a paper, a line a fault, without the faults that are no longer there."""
    lines = [
        f" {json.dumps(fault.what)}: {json.dumps(record[fault.what])}"
        for fault in faults_of(entry)
        if fault.what in record
    ]
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{entry.stem}.json"
    partial = path.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def stale(entry: Entry, record: Record) -> list[Fault]:
    """Return the faults that were not planted since they, the method, its test or the checks changed."""
    return [
        fault
        for fault in faults_of(entry)
        if fault.what not in record or record[fault.what]["code"] != code(entry, fault)
    ]


def complaint(fault: Fault, by: str) -> str:
    """Say what is wrong with what noticed a fault; empty where it was noticed, or survives as declared."""
    if fault.survives:
        return f"noticed by {by}; delete the reason why it survives: {fault.survives}" if by else ""
    return (by if by in UNSOUND else "") if by else "nothing notices this fault"
