"""The record of a weighing: plain values for JSON, from which a reader can check the verdict."""

import math
from typing import Any

from paperweight.bench.statistics import Comparison
from paperweight.bench.weighing import Weighing

__all__ = ["weighing_record"]


def _plain(value: float | None) -> float | str | None:
    """Return a number as JSON holds it; one that is not finite becomes its name."""
    return value if value is None or math.isfinite(value) else str(value)


def _comparison(weighing: Weighing, arm: str, metric: str, comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": arm,
        "verdict": comparison.verdict,
        "gain": _plain(comparison.gain),
        "interval": [_plain(comparison.interval.low), _plain(comparison.interval.high)],
        "coverage": comparison.interval.coverage,
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "values": [_plain(pair.arm) for pair in weighing.pairs_of(arm, metric)],
    }


def weighing_record(weighing: Weighing) -> dict[str, Any]:
    """Return everything that the verdict of a weighing rests on.

    Args:
        weighing: The weighing.

    Returns:
        The study's declaration, the code's hashes, the environment, every value by arm and seed, comparisons, costs
        and failures. Gains and intervals are signed so that above zero is better; values are as measured.
    """
    study, spec = weighing.study, weighing.spec
    baseline = weighing.arms[0]
    costs = {arm: weighing.cost(arm) for arm in weighing.arms[1:]}
    return {
        "study": weighing.loaded.stem,
        "question": study.question,
        "claim": study.claim,
        "verdict": weighing.verdict,
        "words": weighing.words(),
        "budget": spec.budget,
        "seeds": weighing.seeds,
        "data": "given by the user" if spec.data is not None else "the study's default",
        "data_hash": spec.data_hash,
        "network": spec.network,
        "device": spec.device,
        "headline": study.headline,
        "baseline": baseline,
        "method": weighing.method,
        "arms": {arm: study.arms[arm] for arm in weighing.arms},
        "tuned": study.tuned,
        "limits": study.limits,
        "metrics": {
            name: {
                "label": metric.label,
                "unit": metric.unit,
                "better": metric.better,
                "minimal_effect": metric.minimal_effect,
                "baseline": [_plain(weighing.value(baseline, seed, name)) for seed in range(weighing.seeds)],
                "comparisons": [
                    _comparison(weighing, arm, name, comparison)
                    for arm, comparison in weighing.comparisons(name).items()
                ],
            }
            for name, metric in study.metrics.items()
        },
        "cost": {arm: {"wall": cost.wall, "cpu": cost.cpu, "memory": cost.memory} for arm, cost in costs.items()},
        "cpu_seconds": {
            arm: [weighing.trial(arm, seed).cpu_seconds for seed in range(weighing.seeds)] for arm in weighing.arms
        },
        "failures": [
            {"arm": record.spec.arm, "seed": record.spec.seed, "status": record.status} for record in weighing.failures
        ],
        "arguments": {arm: weighing.trial(arm, 0).arguments for arm in weighing.arms},
        "code": spec.code,
        "environment": weighing.environment,
        "measured_on": min((record.started_at for record in weighing.records if record.started_at), default="")[:10],
    }
