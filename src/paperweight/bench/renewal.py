"""Renewal of stale results: what they were measured with and what is there now are replayed and compared.

A renewal proves that on this machine, at its budget and seeds, every arm computed the same metrics, the same outputs
of models and the same weights after each update in both revisions, bit for bit, and that both would pick the same
values at the desk budget. It cannot prove what happens only at other seeds, only late in a longer training,
or only on other hardware. Data from files must be those of the result; data that are drawn must be the same in both
revisions on this machine, since another processor draws a few pixels otherwise.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, cast, final

from paperweight.bench.loading import load_study
from paperweight.bench.machine import environment
from paperweight.data import is_drawn
from paperweight.errors import InputError
from paperweight.processes import Processes
from paperweight.provenance import (
    Replay,
    SourceTree,
    changed,
    checked_out,
    differences,
    here,
    is_known,
    replay,
    revision,
    revisions_of,
)

__all__ = ["Renewal", "Revisions", "attempt_renewal", "renewed"]

_RANDOM_SEEDS = range(1_000, 1_000_000)
_SHOWN = 5


@final
@dataclass(frozen=True)
class Renewal:
    """What came of an attempt to renew a result.

    Attributes:
        entry: What is appended to the result's ``renewed``; ``None`` where it must be weighed again.
        reasons: Why it must.
        cpu_seconds: Computing time of all replays.
    """

    entry: dict[str, Any] | None
    reasons: tuple[str, ...]
    cpu_seconds: float


@final
class Revisions:
    """The sources of older revisions, each checked out once and removed at the end.

    Args:
        checkout: The folder that holds ``src``.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self._open = ExitStack()
        self._trees: dict[str, SourceTree] = {}

    def __enter__(self) -> "Revisions":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def tree(self, revision: str) -> SourceTree:
        """Return the sources of a revision."""
        if revision not in self._trees:
            self._trees[revision] = self._open.enter_context(checked_out(self.checkout, revision))
        return self._trees[revision]

    def measured(self, record: Mapping[str, Any], path: Path) -> tuple[str, SourceTree]:
        """Return the revision whose code a result was measured, or last renewed, with.

        It is the one that the result names, or, where that had changes or is not in this history, one of those that
        changed the result's file, as a paper's files come in one commit.

        Args:
            record: The result.
            path: Its file.

        Raises:
            InputError: If no revision has the definitions that the result names.
        """
        named, units = _last_known(record)
        known = [named.removesuffix("+")] if named else []
        for candidate in [*known, *revisions_of(self.checkout, path)]:
            tree = self.tree(candidate) if is_known(self.checkout, candidate) else None
            if tree is not None and not changed(tree, units):
                return candidate, tree
        raise InputError(f"no revision has the code of the result {path.name}; weigh it again")


def attempt_renewal(
    stem: str,
    record: Mapping[str, Any],
    path: Path,
    revisions: Revisions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Renewal:
    """Replay a stale result in the revision that it was measured with and in the present tree.

    All arms are replayed with seed 0 and one drawn at random: at the smoke budget where every changed definition is
    executed there, else at the budget of the result.

    Args:
        stem: The study.
        record: Its official result.
        path: The result's file.
        revisions: Gives older revisions.
        progress: Called with words and (trials done, trials in all) as each trial ends.

    Returns:
        What is to be appended, or why the study must be weighed again.
    """
    measured: dict[str, Any] = record["measured"]
    arms, declared = measured["arms"], list(load_study(stem).declaration.arms)
    if new := [arm for arm in declared if arm not in arms]:
        return Renewal(None, (f"arms {', '.join(new)} are new",), 0.0)
    named, old_tree = revisions.measured(record, path)
    now = here()
    units = _last_known(record)[1]
    seeds = [0, _RANDOM_SEEDS[secrets.randbelow(len(_RANDOM_SEEDS))]]
    spent = 0.0

    def both(budget: str) -> tuple[Replay, Replay]:
        nonlocal spent
        ended = count(1)

        def told(words: str) -> None:
            if progress is not None:
                progress(f"replay at {budget}: {words}", next(ended), 2 * len(declared) * len(seeds))

        with ThreadPoolExecutor(2) as pool, Processes() as processes:

            def run(tree: SourceTree) -> Replay:
                return replay(tree, stem, declared, seeds, budget, processes=processes, progress=told)

            old, new = pool.map(run, (old_tree, now))
        spent += old.cpu_seconds + new.cpu_seconds
        return old, new

    budget = "smoke"
    try:
        old, new = both(budget)
        unseen = [unit for unit in changed(now, units) if unit not in old.units]
        if unseen and measured["budget"] != budget:
            budget = measured["budget"]
            old, new = both(budget)
    except InputError as error:
        return Renewal(None, (str(error),), spent)
    data, replayed = _data(new), _data(old)
    known = {name: replayed.get(name) if is_drawn(name) else mark for name, mark in _last_data(record).items()}
    reasons = [f"the data {name} have changed" for name in known if data.get(name) != known[name]]
    if reasons := [*reasons, *differences(old, new)]:
        return Renewal(None, _shortened(reasons), spent)
    kept = {unit: now.digest(unit) for unit in units if now.digest(unit)}
    about = environment("cpu")
    entry: dict[str, Any] = {
        "from": named,
        "to": revision(revisions.checkout),
        "budget": budget,
        "seeds": seeds,
        "cpu_seconds": round(spent, 1),
        "on": datetime.now(UTC).date().isoformat(),
        "environment": {name: about[name] for name in ("cpu", "torch", "python")},
        "data_hash": data,
        "units": dict(sorted((kept | new.units).items())),
    }
    if "explained" in record:
        entry["explained"] = record["explained"]
    return Renewal(entry, (), spent)


def renewed(record: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result with a renewal at its end, which takes over the explanation that it began from.

    Args:
        record: The result.
        entry: What `attempt_renewal` gave.

    Example:
        >>> explained = {"reason": "a comment", "units": {}}
        >>> renewed({"renewed": [], "explained": explained}, {"to": "b", "explained": explained})["renewed"]
        [{'to': 'b', 'explained': {'reason': 'a comment', 'units': {}}}]
    """
    kept = {name: part for name, part in record.items() if name != "explained"}
    return {**kept, "renewed": [*record["renewed"], entry]}


def _last_known(record: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the revision that a result was measured or last renewed with, and what its trials executed there.

    Where somebody has explained since why it holds, these are the definitions that the explanation is about.
    """
    renewals: list[dict[str, Any]] = record["renewed"]
    last: dict[str, Any] = renewals[-1] if renewals else record["measured"]
    explained: dict[str, Any] = record.get("explained", {})
    units = {name: hashed for name, hashed in (last["units"] | explained.get("units", {})).items() if hashed}
    return last["to"] if renewals else last["revision"] or "", units


def _data(replayed: Replay) -> dict[str, str]:
    """Return the hashes of the sets that the trials of a replay were given."""
    return {name: mark for trial in replayed.trials.values() for name, mark in trial["data_hashes"].items()}


def _last_data(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of the sets that a result was measured with, where they are known."""
    parts: list[dict[str, Any]] = [*record["renewed"][::-1], record["measured"]]
    known = [cast(dict[str, str], part["data_hash"]) for part in parts if isinstance(part["data_hash"], dict)]
    return known[0] if known else {}


def _shortened(reasons: Sequence[str]) -> tuple[str, ...]:
    more = len(reasons) - _SHOWN
    return (*reasons[:_SHOWN], *([f"and {more} more trials differ"] if more > 0 else []))
