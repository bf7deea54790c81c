"""The measured part of a result: plain values for JSON of what the trials gave, and nothing that follows from them."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from paperweight.bench.curves import median_curves, plain_points
from paperweight.bench.trial import FINISHED, TrialRecord
from paperweight.provenance import here, revision

__all__ = ["measured_part"]


_CURVE_POINTS = 20


def measured_part(
    metrics: Iterable[str],
    arms: Sequence[str],
    seeds: Sequence[int],
    records: Sequence[TrialRecord],
    units: Mapping[str, str],
    most_pairs: int | None = None,
) -> dict[str, Any]:
    """Return all that the trials of a weighing gave, from which its conclusions are drawn.

    Args:
        metrics: Names of the metrics.
        arms: The compared arms, the baseline first.
        seeds: The seeds.
        records: One record an arm and seed.
        units: The definitions that the trials executed, with their hashes.
        most_pairs: How many pairs there would have been without a verdict, where each was looked at as it came.

    Returns:
        Lists hold one value a seed: ``None`` where a trial did not finish, and the name of a value that is not finite.
        An argument, or the grid that it was tuned on, is a list over seeds where these differ in it. Costs of trials
        whose execution was recorded are left out where there are others.
    """
    trials = {(record.spec.arm, record.spec.seed): record for record in records}
    spec = records[0].spec

    def billed(record: TrialRecord) -> bool:
        return not record.units or len(seeds) == 1

    def each(arm: str, read: Callable[[TrialRecord], object]) -> list[object]:
        return [read(trials[arm, seed]) for seed in seeds]

    return {
        "budget": spec.budget,
        "device": spec.device,
        "data": "the study's default" if spec.data is None else "given",
        "data_hash": spec.data_hash or {name: mark for record in records for name, mark in record.data_hashes.items()},
        "network": spec.network,
        "seeds": list(seeds),
        **({} if most_pairs is None else {"most_pairs": most_pairs}),
        **({} if spec.tune is None else {"tune": spec.tune}),
        "arms": list(arms),
        "values": {
            metric: {arm: each(arm, lambda record, metric=metric: _value(record, metric)) for arm in arms}
            for metric in metrics
        },
        "failures": [
            {"arm": arm, "seed": seed, "status": trials[arm, seed].status}
            for seed in seeds
            for arm in arms
            if trials[arm, seed].status != "finished"
        ],
        "cost": {
            arm: {
                "wall": each(arm, lambda record: record.wall_seconds if billed(record) else None),
                "cpu": each(arm, lambda record: record.cpu_seconds if billed(record) else None),
                "memory": each(arm, lambda record: record.peak_bytes if billed(record) else None),
            }
            for arm in arms
        },
        "arguments": {arm: _of_seeds([trials[arm, seed].arguments for seed in seeds]) for arm in arms},
        "arguments_of_seeds": list(seeds),
        "grids": {arm: grids for arm in arms if (grids := _of_seeds([trials[arm, seed].grids for seed in seeds]))},
        "curves": {
            name: {arm: plain_points(points) for arm, points in of_arms.items()}
            for name, of_arms in median_curves(records, arms, _CURVE_POINTS).items()
        },
        "environment": next((record.environment for record in records if record.environment), dict[str, str]()),
        "measured_on": min((record.started_at for record in records if record.started_at), default="")[:10],
        "revision": revision(here().package.parents[1]),
        "units": dict(units),
    }


def _value(record: TrialRecord, metric: str) -> float | str | None:
    if record.status not in FINISHED:
        return None
    value = record.metrics[metric]
    return value if math.isfinite(value) else str(value)


def _of_seeds(of_seeds: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return each named value once where all seeds agree, and otherwise as a list."""
    found: dict[str, object] = {}
    for name in dict.fromkeys(name for arguments in of_seeds for name in arguments):
        values = [arguments.get(name) for arguments in of_seeds]
        found[name] = values[0] if len({json.dumps(value) for value in values}) == 1 else values
    return found
