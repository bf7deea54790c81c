"""What the record of a trial says to a screen: its score, why it failed, and what it took."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from paperweight.bench.trial import FINISHED, TrialRecord
from paperweight.errors import InputError
from paperweight.studies import MISFIT
from paperweight.texts import brief

__all__ = ["argument", "failure", "no_baseline", "none_works", "score", "step_seconds", "value"]


def value(record: TrialRecord | None, metric: str) -> float | None:
    """Return what a trial measured; ``None`` where it did not finish."""
    return record.metrics[metric] if record is not None and record.status in FINISHED else None


def argument(record: TrialRecord, name: str) -> float:
    """Return a number that a trial resolved."""
    return float(str(record.arguments[name]))


def step_seconds(records: Sequence[TrialRecord]) -> float:
    """Return the seconds of a step, the median over trials."""
    return median(argument(record, "training_seconds") / argument(record, "steps") for record in records)


def none_works(scores: Mapping[float, float]) -> bool:
    """Return whether rates were tried, and none gave a score."""
    return bool(scores) and not any(map(math.isfinite, scores.values()))


def score(record: TrialRecord) -> float:
    """Return the validation accuracy of a trial, a hair higher the lower its loss; minus infinity of a failure."""
    accuracy, loss = value(record, "validation_accuracy"), value(record, "validation_loss")
    if accuracy is None or loss is None or not math.isfinite(accuracy):
        return -math.inf
    return accuracy - 1e-6 * min(1e3, loss if math.isfinite(loss) else 1e3)


def failure(record: TrialRecord) -> str:
    """Return why a trial failed, in a line."""
    lines = record.message.strip().splitlines()
    return brief(lines[-1].removeprefix(MISFIT), 300) if lines else record.status


def no_baseline(record: TrialRecord) -> InputError:
    """Return what to raise where the baseline failed."""
    return InputError(
        f"the baseline cannot be trained on these data, {record.status}: {failure(record)}; mend that and give the "
        "same command"
    )
