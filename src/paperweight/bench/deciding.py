"""Weighing until it is decided: which trials are still wanted, given those that are done."""

from collections.abc import Mapping, Sequence
from functools import cache

from paperweight.bench.anytime import anytime_interval, anytime_p, pairs_needed
from paperweight.bench.conclusion import gain
from paperweight.bench.statistics import compare
from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec
from paperweight.studies import Study

__all__ = ["until_verdict"]


def until_verdict(study: Study, specs: Sequence[TrialSpec], found: Mapping[str, TrialRecord]) -> Sequence[TrialSpec]:
    """Return the trials of the seeds up to the first at which the primary comparison has a verdict.

    What is returned depends on the records alone, not on the order in which they came. Where none of the first pairs
    that could decide has a gain, since trials failed, there is nothing to wait for.

    Args:
        study: The declaration.
        specs: All trials, by seed, the baseline first and then the method or what is compared in its place.
        found: The records so far, by key.

    Returns:
        Those that are wanted; all while there is no verdict.
    """
    metric = study.metrics[study.headline]
    arms = list(dict.fromkeys(spec.arm for spec in specs))
    method = study.method if study.method in arms else arms[1]
    trials = {(spec.arm, spec.seed): found.get(spec.key()) for spec in specs}
    seeds = list(dict.fromkeys(spec.seed for spec in specs))
    gains: list[float | None] = []
    for seed in seeds:
        baseline, arm = trials[arms[0], seed], trials[method, seed]
        if baseline is None or arm is None:
            break
        gains.append(gain(_value(baseline, study.headline), _value(arm, study.headline), metric))

    fewest = pairs_needed()
    for pairs in range(fewest, len(gains) + 1):
        first = tuple(gains[:pairs])
        if not any(each is not None for each in first) or _decided(first, metric.minimal_effect):
            return [spec for spec in specs if spec.seed <= seeds[pairs - 1]]
    return specs


@cache
def _decided(gains: tuple[float | None, ...], smallest: float) -> bool:
    found = compare({("", ""): gains}, {"": smallest}, primary=("", ""), interval=anytime_interval, p_value=anytime_p)
    return found["", ""].verdict != "inconclusive"


def _value(record: TrialRecord, metric: str) -> float | None:
    return record.metrics[metric] if record.status in FINISHED else None
