"""The verdict on each of several erasers that were attacked on the same models: is the concept removed or hidden?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final, get_args

from paperweight.audits.erasure_findings import MARGIN, ErasureVerdict, Rate, verdict
from paperweight.bench.statistics import typical_value_interval
from paperweight.errors import InputError

__all__ = ["METRICS", "RULE", "EraserFindings", "Spread", "judge_erasers"]

METRICS = ("by_its_word", "recovered", "recovered_other_judge", "others")

RULE = (
    "*not erased*: by its word the concept is still drawn more than half as often as on the model as it was. Less than "
    "that, and *hidden*: a learned word draws it more often than on a model that never saw it; or *removed*: it does "
    "not, to within a tenth. *undecided*: none of these is shown."
)


class Spread(NamedTuple):
    """A mean over models, and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EraserFindings:
    """What became of a concept under one eraser.

    Attributes:
        eraser: The eraser.
        verdict: The verdict by the intervals over models.
        models: How many models get each verdict, taken one by one.
        word: Share of images of the concept by its word.
        recovered: Share by the learned word, less that on a model that never saw the concept.
        other_judge: The same by another judge.
        others: Share of right images by all other words, less that on the model as it was.
    """

    eraser: str
    verdict: ErasureVerdict
    models: Mapping[ErasureVerdict, int]
    word: Spread
    recovered: Spread
    other_judge: Spread
    others: Spread


def judge_erasers(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    erasers: Sequence[str],
    *,
    never_trained: str = "never_trained",
    not_erased: str = "not_erased",
    images: int = 64,
) -> list[EraserFindings]:
    """Say of each eraser whether it removed a concept, hid it or did not erase it.

    The rule is that of `paperweight audit erasure`, with intervals over models in place of those over images.

    Args:
        values: By metric and arm the share of images, one a model, the models in one order. The metrics are
            ``by_its_word``: of the concept, by its word; ``recovered``: of the concept, by the learned word;
            ``recovered_other_judge``: the same by another judge; ``others``: right ones, by all other words.
        erasers: The arms to judge.
        never_trained: The arm of the models that never saw the concept.
        not_erased: The arm of the models as they were.
        images: Images that a share of ``by_its_word`` or ``recovered`` was counted on, at least 1.

    Returns:
        The findings, in the order of ``erasers``.

    Raises:
        InputError: If ``images`` is below 1, or a metric or arm has no values or not as many as the others.

    Example:
        >>> word = {"never_trained": [0.0] * 6, "not_erased": [1.0] * 6, "mine": [0.0] * 6}
        >>> learned = {"never_trained": [0.1] * 6, "not_erased": [1.0] * 6, "mine": [0.8] * 6}
        >>> others = dict.fromkeys(word, [0.9] * 6)
        >>> values = {
        ...     "by_its_word": word, "recovered": learned, "recovered_other_judge": learned, "others": others
        ... }
        >>> [findings.verdict for findings in judge_erasers(values, ["mine"])]
        ['hidden']
    """
    if images < 1:
        raise InputError(f"images must be at least 1, got {images}")
    _check(values, (never_trained, not_erased, *erasers))
    word, recovered, other_judge, others = (values[name] for name in METRICS)
    return [
        EraserFindings(
            eraser=arm,
            verdict=_over_models(
                _spread(word[arm], [0.5 * share for share in word[not_erased]]),
                _spread(recovered[arm], recovered[never_trained]),
            ),
            models=_one_by_one(
                (word[not_erased], word[arm], recovered[arm], recovered[never_trained]),
                images,
            ),
            word=_spread(word[arm], [0.0] * len(word[arm])),
            recovered=_spread(recovered[arm], recovered[never_trained]),
            other_judge=_spread(other_judge[arm], other_judge[never_trained]),
            others=_spread(others[arm], others[not_erased]),
        )
        for arm in erasers
    ]


def _check(values: Mapping[str, Mapping[str, Sequence[float]]], arms: Sequence[str]) -> None:
    counts = {(metric, arm): len(values.get(metric, {}).get(arm, ())) for metric in METRICS for arm in arms}
    models = max(counts.values())
    for (metric, arm), count in counts.items():
        if count < max(models, 1):
            raise InputError(
                f"values must have one share a model for each metric and arm, got {count} of {max(models, 1)} for "
                f"{arm!r} in {metric!r}; weigh the study again"
            )


def _over_models(kept: Spread, gained: Spread) -> ErasureVerdict:
    """Decide by what is kept beyond half of the images by the word, and by what the learned word gains."""
    if kept.low > 0:
        return "not erased"
    if kept.high >= 0:
        return "undecided"
    return "hidden" if gained.low > 0 else "removed" if gained.high < MARGIN else "undecided"


def _one_by_one(shares: Sequence[Sequence[float]], images: int) -> dict[ErasureVerdict, int]:
    """Count the verdicts on single models, from before, erased, recovered and control of each."""
    found = [verdict(*(Rate(round(share * images), images) for share in model)) for model in zip(*shares, strict=True)]
    return {name: found.count(name) for name in get_args(ErasureVerdict)}


def _spread(values: Sequence[float], less: Sequence[float]) -> Spread:
    differences = [value - other for value, other in zip(values, less, strict=True)]
    interval = typical_value_interval(differences)
    return Spread(sum(differences) / len(differences), interval.low, interval.high)
