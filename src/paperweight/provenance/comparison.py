"""Replays of a study in two trees on this machine: do they compute the same, bit for bit?"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast, final

from paperweight.errors import InputError
from paperweight.processes import Processes
from paperweight.provenance.recording import Recording
from paperweight.provenance.units import SourceTree

__all__ = ["Replay", "differences", "replay"]

_PROGRAM = Path(__file__).with_name("replay.py")
_THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
_ENDED = ("finished", "diverged")


@final
@dataclass(frozen=True, eq=False)
class Replay:
    """What trials of a study computed in one tree.

    Attributes:
        trials: Arm and seed to what `paperweight.provenance.replay` said of the trial.
        units: The definitions that the trials executed, with their hashes.
        cpu_seconds: Computing time of the process, its start included.
    """

    trials: dict[tuple[str, int], dict[str, Any]]
    units: dict[str, str]
    cpu_seconds: float


def replay(
    tree: SourceTree,
    study: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    budget: str,
    *,
    processes: Processes | None = None,
    progress: Callable[[str], None] | None = None,
) -> Replay:
    """Run trials in a process that imports the package from a tree, with a cache of its own.

    Args:
        tree: The tree.
        study: Stem of the study.
        arms: The arms to run.
        seeds: The seeds to run each arm with.
        budget: How much a trial may compute.
        processes: What the process is started by and ends with at the latest, beside the end of this function.
        progress: Called with a few words as each trial ends.

    Returns:
        What the trials computed.

    Raises:
        InputError: If the process ends before it has answered for every trial.
        StoppedError: If the processes were stopped before.
    """
    record = Recording(tree.package)
    trials: dict[tuple[str, int], dict[str, Any]] = {}
    request = {"study": study, "arms": list(arms), "seeds": list(seeds), "budget": budget, "device": "cpu"}
    with tempfile.TemporaryDirectory(prefix="paperweight-replay-") as cache, Processes() as alone:
        process = (processes or alone).start(
            f"import runpy\nrunpy.run_path({str(_PROGRAM)!r}, run_name='__main__')",
            package=tree.package,
            environment=_THREADS | {"PAPERWEIGHT_CACHE": cache},
        )
        process.send(json.dumps(request))
        while line := process.readline():
            if line == b"\n":
                continue
            try:
                answer = json.loads(line)
            except ValueError:
                break
            trials[answer["arm"], answer["seed"]] = answer
            record.add((file, number) for file, number in answer.pop("lines"))
            if progress is not None:
                progress(f"{study}, {answer['arm']}, seed {answer['seed']}")
        end = process.end()
        if end.code != 0 or len(trials) < len(arms) * len(seeds):
            reason = process.last_errors() or f"its process ended with {end.code}"
            raise InputError(f"study {study} cannot be replayed in {tree.package.parent}: {reason}")
    spent = max(trial["cpu_seconds"] for trial in trials.values())
    return Replay(trials, tree.used(record), spent)


def differences(old: Replay, new: Replay) -> list[str]:
    """Say in which trials two replays differ, and in what; empty if everything that the old one computed is the same.

    Compared are status, metrics but those in milliseconds, which test examples were right, the outputs of models and
    their weights after each update, and what the smoke and the desk budget would have picked. What the new trials
    compute beyond that does not count.

    Args:
        old: The replay in the tree that a result was measured with.
        new: The replay in the present tree.
    """
    found: list[str] = []
    for (arm, seed), before in old.trials.items():
        after = new.trials.get((arm, seed))
        what = ["it is missing"] if after is None else list(_differing(before, after))
        if what:
            found.append(f"arm {arm}, seed {seed}: {', '.join(what)}")
    return found


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    words = [
        f"status {trial['status']}: {trial['message']}" for trial in (before, after) if trial["status"] not in _ENDED
    ]
    if words:
        return words
    words = [
        f"{name} is {float.fromhex(value):.17g}, was {float.fromhex(before['metrics'][name]):.17g}"
        if name in before["metrics"]
        else f"{name} is new"
        for name, value in after["metrics"].items()
        if before["metrics"].get(name) != value
    ]
    if before["correct"] != after["correct"]:
        words.append("other test examples are right")
    if lost := set(before["computed"]) - set(after["computed"]):
        words.append(f"{len(lost)} of {len(before['computed'])} outputs and weights are not computed any more")
    if changed := _picks(before["picked"]) ^ _picks(after["picked"]):
        words.append(f"budgets pick other values: {', '.join(sorted(changed))}")
    return words


def _picks(picked: list[Any]) -> set[str]:
    """Return what the budgets pick, tuples taken apart, so that it does not matter how many are picked at once."""
    found: set[str] = set()
    waiting = [(values[0], values[1]) for values in picked]
    while waiting:
        smoke, desk = waiting.pop()
        if isinstance(smoke, list) and isinstance(desk, list):
            parts = cast(tuple[list[Any], list[Any]], (smoke, desk))
            waiting.extend(zip_longest(*parts))
        else:
            found.add(f"{smoke} / {desk}")
    return found
