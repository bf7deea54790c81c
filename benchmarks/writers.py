"""Sixteen processes write a thousand rows each into one ledger while four read: is any row lost, doubled, refused?

A writer files records one by one, as drivers do; a reader looks up all trials of one writer again and again, and must
never find fewer than before. With ``--postgresql URL`` the ledger is in that database, which must hold none yet;
``python -m tests.bench.postgresql`` starts one. For systems that fork.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Queue

import sqlalchemy as sa

from paperweight.bench.ledger import Ledger
from paperweight.bench.store import Store
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.provenance import here


@dataclass(frozen=True)
class Part:
    """What one process did.

    Args:
        kind: ``writer`` or ``reader``.
        count: Rows written, or looks.
        longest: Seconds of the longest write or look.
        median: Seconds of the median one.
        fault: What went wrong, empty where nothing did.
    """

    kind: str
    count: int
    longest: float
    median: float
    fault: str


def specs(writer: int, rows: int) -> list[TrialSpec]:
    """Return the trials that a writer files."""
    return [TrialSpec(study="example", arm=f"writer {writer}", seed=seed, budget="smoke") for seed in range(rows)]


def write(place: str, writer: int, rows: int, over: Event, parts: "Queue[Part]") -> None:
    """File the records of a writer's trials."""
    state, fault, took = here().state(), "", [0.0]
    try:
        with Ledger(place) as ledger:
            for spec in specs(writer, rows):
                record = TrialRecord(spec=spec, status="finished", metrics={"score": float(spec.seed)}, state=state)
                begun = time.monotonic()
                ledger.add(record)
                took.append(time.monotonic() - begun)
    except InputError as error:
        fault = str(error)
    parts.put(Part("writer", len(took) - 1, max(took), statistics.median(took), fault))


def read(place: str, writer: int, rows: int, over: Event, parts: "Queue[Part]") -> None:
    """Look up a writer's trials until all have written."""
    fault, took, before, last = "", [0.0], 0, False
    try:
        with Ledger(place) as ledger:
            while not last and not fault:
                last = over.is_set()
                begun = time.monotonic()
                found = ledger.find(specs(writer, rows))
                took.append(time.monotonic() - begun)
                if len(found) < before:
                    fault = f"{before} rows were found, then {len(found)}"
                before = len(found)
            fault = fault or ("" if before == rows else f"{before} of {rows} rows were found at the end")
    except InputError as error:
        fault = str(error)
    parts.put(Part("reader", len(took) - 1, max(took), statistics.median(took), fault))


def written(place: str, writers: int, readers: int, rows: int) -> tuple[list[Part], Counter[tuple[str, int]], float]:
    """Return what each process did, the trials in the ledger afterwards, and the seconds that all took."""
    fork = multiprocessing.get_context("fork")
    over, parts = fork.Event(), fork.Queue()
    begun = time.monotonic()
    each = [fork.Process(target=write, args=(place, number, rows, over, parts)) for number in range(writers)]
    others = [fork.Process(target=read, args=(place, number % writers, rows, over, parts)) for number in range(readers)]
    for process in (*each, *others):
        process.start()
    found = [parts.get() for _ in each]
    seconds = time.monotonic() - begun
    over.set()
    found += [parts.get() for _ in others]
    for process in (*each, *others):
        process.join()
    store = Store(place)
    with store.reading() as connection:
        trials = Counter(
            (arm, seed) for arm, seed in connection.execute(sa.select(store.trial.c.arm, store.trial.c.seed))
        )
    store.close()
    return found, trials, seconds


def main() -> None:
    """Print a row; end with status 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1000, help="of each writer")
    parser.add_argument("--postgresql", metavar="URL", help="keep the ledger there, not in a file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paperweight-writers-") as folder:
        place = given.postgresql or str(Path(folder, "ledger.sqlite"))
        parts, trials, seconds = written(place, given.writers, given.readers, given.rows)
    writers = [part for part in parts if part.kind == "writer"]
    looks = sum(part.count for part in parts) - sum(part.count for part in writers)
    wanted = {(spec.arm, spec.seed) for writer in range(given.writers) for spec in specs(writer, given.rows)}
    lost, doubled = len(wanted - set(trials)), sum(count - 1 for count in trials.values())
    faults = [part.fault for part in parts if part.fault]
    print("| writers x rows | readers | errors | lost | doubled | s | longest, median write, s | looks |")
    print("|---|---|---|---|---|---|---|---|")
    longest, median = max(part.longest for part in writers), statistics.median(part.median for part in writers)
    cells = (len(faults), lost, doubled, f"{seconds:.0f}", f"{longest:.2f}, {median:.3f}", looks)
    print(f"| {given.writers} x {given.rows} | {given.readers} | {' | '.join(map(str, cells))} |")
    for fault in faults:
        print(fault)
    sys.exit(1 if faults or lost or doubled else 0)


if __name__ == "__main__":
    main()
