"""From recalled keys to the findings of an audit: scores, p-values, counts, groups."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paperweight.audits.findings import ALARM_LEVEL, GROUP_DELTA, Count, Group, MemorizationAudit, Readout, RecordScore
from paperweight.audits.planting import KEY_LEVELS
from paperweight.bench.statistics import benjamini_hochberg
from paperweight.errors import InputError
from paperweight.marks.chance import null_counts, record_p_values, total_p
from paperweight.marks.keybook import Keybook
from paperweight.marks.scores import (
    Distances,
    Floats,
    auc,
    auc_null_interval,
    distances,
    eidetic_count,
    roc,
)

__all__ = ["DELTAS", "Facts", "judge"]

DELTAS = (0.1, 0.05, 0.005)


@dataclass(frozen=True, slots=True)
class Facts:
    """How the keys were read; the fields are those of `MemorizationAudit`."""

    readout: Readout
    repeats: int
    steps: int | None
    seed: int
    floor: float | None
    wall_seconds: float
    cpu_seconds: float
    guidance: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The trained, or the held-out, records, what was read of them, and what follows."""

    records: list[str]
    keys: list[tuple[float, ...]]
    copies: list[int]
    estimates: Floats
    distances: Distances
    p: Floats

    def rows(self, chosen: Callable[[int], bool]) -> list[int]:
        return [row for row, copies in enumerate(self.copies) if chosen(copies)]


def judge(
    keybook: Keybook,
    parts: tuple[Sequence[str], Sequence[str]],
    estimates: Floats,
    permutations: int,
    facts: Facts,
) -> MemorizationAudit:
    """Compare recalled keys with the true ones.

    Args:
        keybook: The keys.
        parts: The trained and the held-out records that were asked for; at least one trained.
        estimates: Recalled keys, (R, N), of the trained records, then of the held-out ones.
        permutations: Deals of the keys for the total p.
        facts: How the keys were read.

    Returns:
        The audit.

    Raises:
        InputError: If there are no permutations.

    Example:
        >>> from paperweight.marks import Keybook
        >>> book = Keybook(
        ...     keys={"0": (0.25,), "1": (0.75,)}, held_out=("1",), same_key=False, seed=0,
        ...     mark={}, name="", fingerprint="", max_side=1,
        ... )
        >>> facts = Facts("replace", 1, None, 0, None, 0.0, 0.0)
        >>> audit = judge(book, (["0"], ["1"]), np.array([[0.25, 0.5]]), 99, facts)
        >>> [score.score for score in audit.records], audit.auc
        ([0.0, 0.25], 1.0)
    """
    if permutations < 1 / ALARM_LEVEL - 1:
        raise InputError(f"permutations must be at least {round(1 / ALARM_LEVEL) - 1} for an alarm, got {permutations}")
    levels = _levels(keybook)
    ends = np.cumsum([len(part) for part in parts])
    trained, held_out = (
        _part(keybook, list(part), estimates[:, end - len(part) : end], levels, facts.seed)
        for part, end in zip(parts, ends, strict=True)
    )

    def total(part: _Part, rows: list[int]) -> float:
        generator = np.random.default_rng([facts.seed, 1])
        keys = [part.keys[row] for row in rows]
        return total_p(part.estimates[:, rows], keys, levels=levels, permutations=permutations, generator=generator)

    everyone = trained.rows(lambda _: True)
    control = held_out.rows(lambda _: True)
    return MemorizationAudit(
        records=(*_scores(trained, held_out=False), *_scores(held_out, held_out=True)),
        counts=_counts(trained, held_out, levels, facts.seed),
        groups=tuple(
            _group(trained, held_out, copies, levels, facts.seed, total) for copies in sorted(set(trained.copies))
        ),
        total_p=total(trained, everyone),
        control_p=total(held_out, control) if control else None,
        auc=auc(trained.p, held_out.p),
        auc_null=auc_null_interval(len(trained.p), len(held_out.p)),
        roc=tuple(roc(trained.p, held_out.p)),
        **asdict(facts),
    )


def _levels(keybook: Keybook) -> int:
    """Give the levels that all keys lie on, 0 where they lie on none."""
    keys = np.array([key for own in keybook.keys.values() for key in own]) * (KEY_LEVELS - 1)
    return KEY_LEVELS if np.abs(keys - np.rint(keys)).max() < 1e-6 else 0


def _part(keybook: Keybook, records: list[str], estimates: Floats, levels: int, seed: int) -> _Part:
    keys = [keybook.drawn(record) for record in records]
    copies = [keybook.copies(record) for record in records]
    if not records:
        nothing = np.empty(0)
        return _Part(records, keys, copies, estimates, Distances(nothing, nothing.astype(np.int64), estimates), nothing)
    p = record_p_values(estimates, keys, levels=levels, generator=np.random.default_rng([seed, 2]))
    return _Part(records, keys, copies, estimates, distances(estimates, keys), p)


def _scores(part: _Part, *, held_out: bool) -> list[RecordScore]:
    adjusted: list[Any] = [None] * len(part.records) if held_out else benjamini_hochberg(part.p.tolist())
    hits = part.distances.hits(GROUP_DELTA)
    return [
        RecordScore(
            record=record,
            held_out=held_out,
            copies=part.copies[row],
            keys=part.keys[row],
            estimate=float(part.estimates[:, row].mean()),
            key=part.keys[row][int(part.distances.nearest[row])],
            score=float(part.distances.score[row]),
            hits=int(hits[row]),
            p=float(part.p[row]),
            q=adjusted[row],
        )
        for row, record in enumerate(part.records)
    ]


def _counts(trained: _Part, held_out: _Part, levels: int, seed: int) -> tuple[Count, ...]:
    ours, theirs = (
        null_counts(part.estimates, part.keys, DELTAS, levels=levels, generator=np.random.default_rng([seed, 3]))
        if part.records
        else [None] * len(DELTAS)
        for part in (trained, held_out)
    )
    return tuple(
        Count(
            delta,
            eidetic_count(trained.distances.score, delta),
            null,
            eidetic_count(held_out.distances.score, delta),
            other,
        )
        for delta, null, other in zip(DELTAS, ours, theirs, strict=True)
        if null is not None
    )


def _group(
    trained: _Part,
    held_out: _Part,
    copies: int,
    levels: int,
    seed: int,
    total: Callable[[_Part, list[int]], float],
) -> Group:
    rows = trained.rows(lambda own: own == copies)
    keys = [trained.keys[row] for row in rows]
    generator = np.random.default_rng([seed, 4])
    return Group(
        copies=copies,
        records=len(rows),
        hits=eidetic_count(trained.distances.score[rows], GROUP_DELTA),
        null=null_counts(trained.estimates[:, rows], keys, [GROUP_DELTA], levels=levels, generator=generator)[0],
        auc=auc(trained.p[rows], held_out.p),
        auc_null=auc_null_interval(len(rows), len(held_out.p)),
        p=total(trained, rows),
    )
