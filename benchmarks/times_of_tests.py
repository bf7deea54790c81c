"""How much computing time the tests take, by paper and part, and how long they would take with ten times the papers.

python benchmarks/times_of_tests.py [PATH ...]

Runs the tests of the given paths, by default all, one after another in this process. Counted is the computing time of
this process and of all processes below it, so that other work on the machine matters little. Of a paper are the tests
of its file, the examples in its fields' files, and the tests elsewhere that are run once a paper. All else is taken to
stay as it is, but collecting tests, which each worker does for all of them, and which grows with their number.
"""

import os
import sys
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paperweight.catalogue import entries  # noqa: E402

PARTS = ("study", "faults", "contract", "own tests", "elsewhere")
MANY, CORES, SHOWN = 332, 2, 12
_TICKS = os.sysconf("SC_CLK_TCK")
_STARTED_BY = {"test_study": "study", "test_fault": "faults", "test_faults_are_recorded": "faults"}
_STARTED_BY |= {"test_contract": "contract", "test_contract_is_declared": "contract"}
_FILES = {ROOT / "tests" / entry.field / f"test_{entry.stem}.py": entry.stem for entry in entries()}
_FIELDS = {
    folder / entry.field for entry in entries() for folder in (entry.path.parents[1], entry.study_path.parents[1])
}
_STEMS = {entry.stem for entry in entries()}


def computed(process: int) -> float:
    """Return the computing time in seconds of a process and of those below it, whether they live on or have ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        threads = [*Path(f"/proc/{process}/task").iterdir()]
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # it has just ended
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS + sum(map(computed, children))


def part_of(item: pytest.Item) -> str:
    """Return the part of a paper's tests that a test belongs to; empty for one that belongs to none."""
    if item.path in _FILES:
        return _STARTED_BY.get(item.name.partition("[")[0], "own tests")
    of_field = not _FIELDS.isdisjoint(item.path.parents)
    return "elsewhere" if of_field or not _STEMS.isdisjoint(_words(item)) else ""


def _words(item: pytest.Item) -> list[str]:
    return item.name.partition("[")[2].removesuffix("]").split("-")


class Times:
    """Adds up the computing time of the tests."""

    def __init__(self) -> None:
        self.seconds: dict[str, Counter[str]] = defaultdict(Counter)
        self.tests: Counter[str] = Counter()
        self.dear: Counter[str] = Counter()
        self.collection = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        """Time the search for tests."""
        before = computed(os.getpid())
        result = yield
        self.collection = computed(os.getpid()) - before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Time a test."""
        before = computed(os.getpid())
        result = yield
        spent, part = computed(os.getpid()) - before, part_of(item)
        paper = next((word for word in _words(item) if word in _STEMS), "examples")
        self.seconds[_FILES.get(item.path, paper) if part else ""][part] += spent
        self.tests[part] += 1
        self.dear[item.nodeid] += spent
        return result

    def tell(self) -> None:
        """Print the table and what follows for many papers."""
        rest = self.seconds.pop("", Counter())[""]
        print(f"| computing time, s | {' | '.join(PARTS)} | all |\n|---|{'---|' * (len(PARTS) + 1)}")
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1].total())
        for name, row in ordered[:SHOWN]:
            print(f"| {name} | {' | '.join(f'{row[part]:.1f}' for part in PARTS)} | {row.total():.1f} |")
        count = len(_STEMS)
        mean = {part: sum(row[part] for row in self.seconds.values()) / count for part in PARTS}
        print(f"| mean of {count} | {' | '.join(f'{each:.2f}' for each in mean.values())} | {sum(mean.values()):.2f} |")
        print("\nDearest tests:", *(f"{spent:.1f} s {name}" for name, spent in self.dear.most_common(SHOWN)), sep="\n")
        shared = self.tests.pop("", 0)
        growth = (shared + self.tests.total() * MANY / count) / max(1, shared + self.tests.total())
        minutes = [
            (self.collection * factor + (papers * sum(mean.values()) + rest) / CORES) / 60
            for factor, papers in ((1.0, count), (growth, MANY))
        ]
        print(
            f"\nAll else {rest:.0f} s, collecting {self.collection:.0f} s. On {CORES} cores {count} papers take "
            f"{minutes[0]:.1f} minutes, {MANY} like them {minutes[1]:.1f}."
        )


def main() -> int:
    """Run the tests and print the times; return the tests' exit status."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="files and folders of tests; all by default")
    times = Times()
    os.chdir(ROOT)
    status = pytest.main(["-p", "no:xdist", *parser.parse_args().paths], plugins=[times])
    times.tell()
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
