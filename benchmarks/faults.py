"""Faults, in figures: the parts one after another, and a table of what each found. For Linux; full disks want root.

``python benchmarks/faults.py`` runs all at full size, which takes hours; ``--short`` a small part of each, in a minute.
PostgreSQL, where it is installed, and Ray, where it is, have rows of their own; ``--parts`` names some parts alone.
Each part ends with status 0 where it found no fault.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A part of the table.

    Args:
        question: What it asks.
        full: The command at full size: a file of this folder and options.
        short: Its options in short, none where it is left out.
        database: Whether it is given the URL of a database.
        needs: What must be there: ``ray``, ``root`` or nothing.
    """

    question: str
    full: str
    short: str = ""
    database: bool = False
    needs: str = ""


PARTS = {
    "kills": Part("300 kills", "kills.py --kills 300"),
    "kills-ray": Part("60 kills under Ray", "kills.py --engine ray --kills 60", needs="ray"),
    "kills-postgresql": Part("60 kills with PostgreSQL", "kills.py --kills 60", database=True),
    "disks": Part("20 full disks", "full_disks.py --disks 20", needs="root"),
    "writers": Part("16 writers x 1,000 rows, 4 readers", "writers.py", "--writers 4 --readers 2 --rows 20"),
    "writers-postgresql": Part("the same with PostgreSQL", "writers.py", database=True),
    "divergences": Part("30 divergences", "divergences.py"),
    "divergences-ray": Part("the same under Ray", "divergences.py --engine ray", needs="ray"),
    "divergences-postgresql": Part("the same with PostgreSQL", "divergences.py", database=True),
    "lines": Part("2,500 command lines", "command_lines.py --count 2500", "--count 16 --sample 0"),
    "studies": Part("2,500 study files", "study_files.py --count 2500 --sample 20", "--count 60 --sample 60"),
    "arms": Part("200 arms that do harm", "hostile_studies.py"),
    "hostile": Part("176 checkpoints, 85 keybooks", "hostile_files.py --checkpoints 176 --keybooks 85"),
    "data": Part("500 odd data files", "odd_files.py --count 500", "--count 40 --drawn"),
}


@contextmanager
def database() -> Generator[str | None]:
    """Give the URL of a database of a server of one's own, or none where PostgreSQL is not installed."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.postgresql"],
        cwd=HERE.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield (server.stdout.readline().strip() or None) if server.stdout else None
    finally:
        server.communicate()


def missing(part: Part) -> str:
    """Return what a part needs that is not there."""
    if part.needs == "ray" and importlib.util.find_spec("ray") is None:
        return "Ray is not installed"
    return "not root" if part.needs == "root" and os.geteuid() != 0 else ""


def ended(part: Part, short: bool, url: str | None) -> tuple[str, str]:
    """Run a part; return how it ended and the last of what it wrote."""
    words = f"{part.full.split()[0]} {part.short}".split() if short else part.full.split()
    words += [] if url is None else ["--postgresql", url]
    done = subprocess.run(
        [sys.executable, str(HERE / words[0]), *words[1:]], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    told = [line for line in (done.stdout + (done.stderr if done.returncode else "")).splitlines() if line.strip()]
    return ("none" if done.returncode == 0 else f"status {done.returncode}"), "\n".join(told)


def main() -> None:
    """Print what each part found and a table of all; end with status 1 where any found a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args()
    rows: list[str] = []
    faulty = False
    for name in given.parts:
        part = PARTS[name]
        if given.short and not part.short:
            continue
        begun = time.monotonic()
        if part.database:
            with database() as url:
                end, told = ("left out: PostgreSQL is not installed", "") if url is None else ended(part, False, url)
        else:
            lack = missing(part)
            end, told = (f"left out: {lack}", "") if lack else ended(part, given.short, None)
        faulty |= end.startswith("status")
        rows.append(f"| {name} | {part.question} | {end} | {time.monotonic() - begun:.0f} |")
        print(f"## {name}\n{told}\n", flush=True)
    print("| part | at full size | faults | s |\n|---|---|---|---|", *rows, sep="\n")
    sys.exit(faulty)


if __name__ == "__main__":
    main()
