"""Odd data files: does each load right, or is it refused in one line, without a crash, a hang, or much memory?

``python benchmarks/odd_files.py --count 500`` takes the cases of ``tests/data/corpus.py`` and draws the rest; sound
ones must load with the pixels or numbers that were written. Each is read in a forked process of its own (Linux), under
a limit of time and of address space. Memory may grow by 96 MiB beside four times the file. ``--drawn`` leaves the
corpus, which the tests cover, out.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from hostile_files import Outcome, attempt
from odd_data import Odd, odd

from paperweight.data import load_images, load_table
from paperweight.errors import InputError

MEMORY = 96 << 20


def corpus(root: Path) -> Iterator[Odd]:
    """Yield the cases of the tests, which say whether they load."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.data.corpus import IMAGES, TABLES

    for number, case in enumerate((*IMAGES, *TABLES)):
        folder = root / f"corpus-{number}"
        folder.mkdir()
        target = case.holds.get("column")
        load = load_images if number < len(IMAGES) else lambda path, target=target: load_table(path, target=target)
        yield Odd("corpus", case.build(folder), load, "refused" if case.says else "read")


def faults(outcome: Outcome, end: str, path: Path) -> list[str]:
    """Return what is wrong with how a reading ended."""
    found: list[str] = []
    if outcome.end not in ("read", "refused") or (end != "either" and outcome.end != end):
        found.append(f"{outcome.end} where it must be {end}: {outcome.words}")
    words = outcome.words
    if outcome.end == "refused" and (
        len(words.splitlines()) != 1 or "; " not in words or len(words) > 2_000 + len(str(path))
    ):
        found.append(f"not one line with a remedy: {words}")
    if outcome.growth > MEMORY + 4 * outcome.size:
        found.append(f"memory grew by {outcome.growth >> 20} MiB for {outcome.size >> 10} KiB: {words}")
    return found


def main() -> None:
    """Print the table; end with status 1 where a file is neither loaded right nor refused in a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", action="store_true", help="leave the corpus out")
    parser.add_argument("--messages", action="store_true", help="print how each ended")
    given = parser.parse_args()
    rows: dict[str, list[Outcome]] = defaultdict(list)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PAPERWEIGHT_CACHE"] = str(folder / "cache")
        (folder / "warm").mkdir()
        for each in islice(odd(folder / "warm", -1), 9):
            with suppress(InputError):  # so that what is loaded at first use is not counted
                each.read(each.path)
        cases = [] if given.drawn else list(islice(corpus(folder), given.count))
        for each in (*cases, *islice(odd(folder, given.seed), given.count - len(cases))):
            outcome = attempt(each.path, each.read, lambda: None)
            rows[each.kind].append(outcome)
            found = faults(outcome, each.end, each.path)
            wrong += bool(found)
            for fault in found or ([f"{outcome.end}: {outcome.words}"] if given.messages else []):
                print(f"{each.kind}, {each.path}: {fault}".encode("ascii", "backslashreplace").decode(), flush=True)
    print(f"\n{'kind':32} files   read refused other     CPU  memory")
    for kind, found in {**rows, "all": [each for own in rows.values() for each in own]}.items():
        ends = [each.end for each in found]
        read, turned = ends.count("read"), ends.count("refused")
        print(
            f"{kind:32} {len(found):5} {read:6} {turned:7} {len(ends) - read - turned:5} "
            f"{max(each.seconds for each in found):5.2f} s {max(each.growth for each in found) / 2**20:5.1f} MiB"
        )
    print(f"{wrong} files with a fault")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
