"""Completing a plan: each trial is run by the one weighing that takes the lease on it, and all others use its row."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from paperweight.bench.engine import Engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.starts import starting_alike
from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec
from paperweight.errors import InputError

__all__ = ["Progress", "complete", "twice"]

Progress = Callable[[str, int, int], None]

_Answer = TypeVar("_Answer")

_POLL = 0.5


def complete(
    ledger: Ledger,
    engine: Engine,
    specs: Sequence[TrialSpec],
    *,
    baseline: str,
    retry: bool,
    progress: Progress | None,
    recording: bool = True,
    wanted: Callable[[Mapping[str, TrialRecord]], Sequence[TrialSpec]] | None = None,
) -> dict[str, TrialRecord]:
    """Return the record of each trial by key: those that the ledger holds, of others that run now, and of one's own.

    Args:
        ledger: Where records are looked for and filed.
        engine: What runs the trials that are missing and that no other weighing runs.
        specs: The trials.
        baseline: The arm without which they say nothing.
        retry: Whether failed trials that the ledger holds are run again; those killed from outside always are, and
            all where none of the baseline finished.
        progress: Called with words and (trials done, trials in all).
        recording: Whether the definitions that the trials execute are recorded, where they are not known yet.
        wanted: Asked after each trial, and while it waits for others, which of the trials are still wanted, given the
            records so far; all where left out. Those that run already are filed, too.

    Raises:
        InputError: If a worker refuses what the user gave, or the ledger fails twice in a row.
    """
    plan = specs
    start = newest = seen = ledger.newest()
    found = {key: record for key, record in ledger.find(list(specs)).items() if record.status != "killed"}
    found = starting_alike(found, lambda spec, places: engine.starting_weights(spec, places))
    if retry or not any(record.spec.arm == baseline and record.status in FINISHED for record in found.values()):
        found = {key: record for key, record in found.items() if record.status in FINISHED}

    def tell(words: str = "trials") -> None:
        if progress is not None:
            progress(words, sum(spec.key() in found for spec in plan), len(plan))

    def look() -> None:
        nonlocal plan
        if wanted is not None:
            plan = wanted(found)

    def look_around() -> None:
        """Look with the rows that others filed since the last own one, which alone has one number more."""
        nonlocal seen
        if wanted is not None:
            before, seen = seen, ledger.newest()
            if seen - before > 1:
                found.update(ledger.find([spec for spec in plan if spec.key() not in found], after=start))
        look()

    def may_start(spec: TrialSpec) -> bool:
        return spec in plan and twice(lambda: leases.take(spec.key(), newest))

    look()
    tell()
    with ledger.leases() as leases:
        while missing := [spec for spec in plan if spec.key() not in found]:
            free = leases.free(spec.key() for spec in missing)
            recorded = {spec.key() for spec in ledger.unrecorded(missing)} if recording else set[str]()
            running = engine.run(
                [spec for spec in missing if spec.key() in free], recorded=recorded, may_start=may_start
            )
            try:
                for record in running:
                    if twice(lambda record=record: ledger.add(record, leases)):
                        found[record.spec.key()] = record
                        look_around()
                        tell()
            finally:
                running.close()
            missing = [spec for spec in plan if spec.key() not in found]
            if not missing:
                break
            newest = ledger.newest()
            others = ledger.find(missing, after=start)
            if others:
                found |= others
                look()
                tell()
            else:
                look()
                tell("waiting for another weighing")
                time.sleep(_POLL)
    return found


def twice(write: Callable[[], _Answer]) -> _Answer:
    """Return what writing into a ledger gives, tried once more a second later if it fails.

    Raises:
        InputError: If it fails again.
    """
    try:
        return write()
    except InputError:
        time.sleep(1.0)
        return write()
