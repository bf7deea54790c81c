"""Which test files a change reaches: ``make reach`` records what each file executes, ``make quick`` reads it.

A file is reached if it or a helper that it imports has changed, or a definition of the package that its tests executed.
Of tests that start processes it is not seen what these execute: they are reached by every change of the package but
those in files of papers that they do not name.
"""

import hashlib
import json
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from paperweight.catalogue import entries, package_root
from paperweight.provenance import Recording, changed, here, recording

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".reached"
STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec")


REACH: pytest.StashKey["Reach"] = pytest.StashKey()


class Reach:
    """Records what the tests of each file execute, or leaves out the files that a change does not reach."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.records: dict[Path, Recording] = {}
        self.started: set[Path] = set()
        self._now: Path | None = None
        sys.addaudithook(self._heard)

    def _heard(self, event: str, _: tuple[object, ...]) -> None:
        if self._now is not None and event in STARTS:
            self.started.add(self._now)

    @contextmanager
    def recorded(self, item: pytest.Item) -> Generator[None]:
        """Record a test; that a planted fault runs in a process of its own does not matter."""
        record = self.records.setdefault(item.path, Recording(package_root()))
        self._now = None if item.name.startswith("test_fault") else item.path
        try:
            with recording(record):
                yield
        finally:
            self._now = None

    def write(self) -> None:
        """Write what was recorded, a file each and process, since processes may share a file's tests."""
        FOLDER.mkdir(exist_ok=True)
        for path, record in self.records.items():
            notes = {
                "own": own(path),
                "units": here().used(record),
                "package": package(path) if path in self.started else "",
            }
            (FOLDER / f"{_name(path)}-{self.worker}.json").write_text(json.dumps(notes), encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Record each test."""
    with item.config.stash[REACH].recorded(item):
        return (yield)


def is_reached(path: Path) -> bool:
    """Return whether a change since they were recorded reaches a file of tests or examples."""
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob(f"{_name(path)}-*.json")]
    return not notes or any(
        note["own"] != own(path)
        or bool(changed(here(), note["units"]))
        or (note["package"] and note["package"] != package(path))
        for note in notes
    )


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)).replace("/", "-")


def own(path: Path) -> str:
    """Return a hash of a file, of the helpers of tests that it imports, and, of a paper, of its faults and result."""
    files, waiting = set[Path](), [path]
    stem = path.stem.removeprefix("test_")
    if path.is_relative_to(ROOT / "tests") and any(entry.stem == stem for entry in entries()):
        waiting += [ROOT / "tests/paper.py", ROOT / "tests/faults" / f"{stem}.py"]
        files |= {*(ROOT / "results").rglob(f"{stem}.json")}
    while waiting:
        file = waiting.pop()
        if file in files or not file.is_file():
            continue
        files.add(file)
        for module in re.findall(r"^\s*(?:from|import) (tests[\w.]*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            waiting.append(ROOT.joinpath(*module.split(".")).with_suffix(".py"))
    return _hash(files)


def package(path: Path) -> str:
    """Return a hash of the package without the files of papers that a file of tests does not name."""
    text = path.read_text(encoding="utf-8")
    others = {file for entry in entries() if entry.stem not in text for file in (entry.path, entry.study_path)}
    return _hash({*package_root().rglob("*.py")} - others)


def _hash(files: set[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT)} {_content(file)}".encode())
    return digest.hexdigest()


@cache
def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
