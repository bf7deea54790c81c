"""Robust classification on a data budget: what buys robustness when only so many training images can be had.

A kit for controlled comparisons: training sets of one size from one source or several, labels that are true or matched
from captions, cross-entropy or a contrastive loss, and accuracy on shifted test sets, read as *effective* robustness:
how far it lies above what plain models of the same accuracy reach. Cost: that of training; labelling 100,000 captions
by 1,000 classes takes seconds.

A ratio of accuracies depends on the accuracy itself, and explodes for weak models. So it is never given without the
residual to a `RobustnessCurve` of reference models. `DataBudget` and `TrainingSource` make the training set,
`CaptionLabeler` its labels, `clip_loss`, `ContrastiveClassifier` and `ZeroShotHead` the contrastive arm, `multi_tag_ce`
the loss of images with several labels, `ShiftSuite` the shifted test sets. `BudgetStudy` trains every combination of
such choices and says how much each matters, `meta_table` reads a table of models trained elsewhere.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", Transactions on
    Machine Learning Research, 2023, https://arxiv.org/abs/2308.03821, and its code, https://github.com/penfever/vlhub:
    average robustness, its ratio to accuracy, matching of captions, and losses. Of the paper only the abstract was
    read. The residual is that of R. Taori, A. Dave, V. Shankar, N. Carlini, B. Recht, L. Schmidt, "Measuring Robustness
    to Natural Distribution Shifts in Image Classification", 2020, https://arxiv.org/abs/2007.00644.

Deviations:
    - The residual, the curve and the intervals are added to what the authors report.
    - Every shift counts in the average. Their code leaves one out on which no image is right, and some rows of their
      table are the mean of three shifts, not of four.
    - Accuracies of 0 and 1, whose logit is not finite, are moved to 0.0001 and 0.9999 before a curve is fitted or read.
    - Of the losses that the authors compare, cross-entropy and CLIP's are here, and no variants of CLIP; nor are their
      networks, schedules and data.
    - The intervals hold the curve fixed, and draw the images of each test set by themselves, also where sets are
      shifted versions of the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.robustness._budget import BudgetedData, DataBudget, TrainingSource
from paperweight.robustness._budget_study import BudgetStudy, BudgetTable, Effect
from paperweight.robustness._caption_labeler import CaptionLabeler, LabelReport
from paperweight.robustness._captions import clean_caption, scramble, shift_cipher, simple_caption, singular
from paperweight.robustness._contrastive import ContrastiveClassifier, ZeroShotHead, clip_loss, multi_tag_ce
from paperweight.robustness._meta_table import MetaTable, meta_table
from paperweight.robustness._robustness_curve import RobustnessCurve, average_robustness, check_accuracies
from paperweight.robustness._shifts import ShiftSuite

__all__ = [
    "BudgetStudy",
    "BudgetTable",
    "BudgetedData",
    "CaptionLabeler",
    "ContrastiveClassifier",
    "DataBudget",
    "Effect",
    "EffectiveRobustness",
    "LabelReport",
    "MetaTable",
    "RobustnessCurve",
    "RobustnessIntervals",
    "ShiftSuite",
    "TrainingSource",
    "ZeroShotHead",
    "average_robustness",
    "clean_caption",
    "clip_loss",
    "effective_robustness",
    "meta_table",
    "multi_tag_ce",
    "robustness_intervals",
    "scramble",
    "shift_cipher",
    "simple_caption",
    "singular",
]

PAPER = Paper(
    title="Distributionally Robust Classification on a Data Budget",
    authors=("Benjamin Feuer", "Ameya Joshi", "Minh Pham", "Chinmay Hegde"),
    year=2023,
    url="https://arxiv.org/abs/2308.03821",
    provides={
        "effective_robustness": "metric",
        "average_robustness": "metric",
        "RobustnessCurve": "function",
        "robustness_intervals": "experiment",
        "CaptionLabeler": "function",
        "clean_caption": "function",
        "singular": "function",
        "shift_cipher": "function",
        "scramble": "function",
        "simple_caption": "function",
        "DataBudget": "function",
        "TrainingSource": "function",
        "clip_loss": "loss",
        "multi_tag_ce": "loss",
        "ContrastiveClassifier": "network",
        "ZeroShotHead": "layer",
        "ShiftSuite": "function",
    },
    claim="Cross-entropy on few, well-chosen images is as robust as CLIP's loss on many times more.",
)

_AT_ONCE = 64


class EffectiveRobustness(NamedTuple):
    """How robust models are for how accurate they are; float64, one number a model.

    Attributes:
        average: Mean accuracy over the shifted test sets.
        ratio: That divided by the accuracy without a shift; not to be compared at different accuracies.
        residual: How far ``average`` lies above what the reference models reach at the same accuracy.
    """

    average: Tensor
    ratio: Tensor
    residual: Tensor


@final
@dataclass(frozen=True)
class RobustnessIntervals:
    """Intervals (low, high) of the three numbers of `EffectiveRobustness`."""

    average: tuple[float, float]
    ratio: tuple[float, float]
    residual: tuple[float, float]


def effective_robustness(
    accuracy: Tensor | Sequence[float] | float, shifted: Tensor | Sequence[float], reference: RobustnessCurve
) -> EffectiveRobustness:
    """Give average robustness, its ratio to the accuracy, and its residual to the curve of reference models.

    Args:
        accuracy: Of each model without a shift, (...), above 0 and at most 1.
        shifted: Its accuracies on the shifted sets, (..., shifts).
        reference: The curve of models that are alike but in what is studied.

    Returns:
        Three numbers a model.

    Raises:
        ValueError: If an accuracy is outside its range, or shapes do not fit.

    Example:
        >>> found = effective_robustness(0.761, [0.632, 0.241, 0.362, 0.0], RobustnessCurve(1.360, -2.290))
        >>> [round(number.item(), 3) for number in found]
        [0.309, 0.406, -0.02]
    """
    base, average = check_accuracies("accuracy", accuracy), average_robustness(shifted)
    if not (base > 0).all():
        raise ValueError(f"accuracy must be above 0, or the ratio does not exist, got {accuracy}")
    if base.shape != average.shape:
        raise ValueError(
            f"shifted must have one row for each accuracy, {(*base.shape, 'shifts')}, got accuracies "
            f"{(*average.shape, 'shifts')}"
        )
    return EffectiveRobustness(average, average / base, average - reference.predict(base))


def robustness_intervals(
    correct: Tensor,
    shifted: Sequence[Tensor],
    reference: RobustnessCurve,
    *,
    level: float = 0.95,
    draws: int = 1000,
    generator: torch.Generator,
) -> RobustnessIntervals:
    """Bootstrap average robustness, ratio and residual of a way of training, over its seeds and over test images.

    Each draw takes as many seeds, and as many images of each test set, with replacement. Memory is some 64 numbers an
    image, whatever the number of draws.

    Args:
        correct: Which images are right without a shift, bool, (seeds, images); at least one is.
        shifted: The same on each shifted set, bool, (seeds, images of that set).
        reference: The curve, which is held fixed.
        level: Share of the draws within an interval, between 0 and 1.
        draws: Number of draws, at least 2.
        generator: Source of the draws, on the CPU.

    Returns:
        Percentile intervals; the upper end of the ratio is infinite where no image is right in a draw.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> right = torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) < 0.8
        >>> found = robustness_intervals(right, [right[:, :200]], RobustnessCurve(1.0, 0.0),
        ...     generator=torch.Generator().manual_seed(0))
        >>> found.ratio[0] < 1 < found.ratio[1], found.residual[0] < 0 < found.residual[1]
        (True, True)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 2:
        raise ValueError(f"draws must be a whole number of at least 2, got {draws!r}")
    if not len(shifted):
        raise ValueError("shifted must hold at least one test set, got none")
    for name, given in (("correct", correct), *(("shifted", each) for each in shifted)):
        if given.dtype != torch.bool or given.ndim != 2 or not given.numel() or len(given) != len(correct):
            raise ValueError(
                f"{name} must be bool of shape (seeds, images), with as many seeds as correct, got {given.dtype} "
                f"{tuple(given.shape)}"
            )
    if not correct.any():
        raise ValueError(f"correct must be true of an image at least, got none of {correct.numel()}")
    seeds = _counts(draws, len(correct), generator)

    def drawn(right: Tensor) -> Tensor:
        rows = right.cpu().double()
        parts = seeds.split(_AT_ONCE)
        return torch.cat([(part @ rows * _counts(len(part), rows.shape[1], generator)).sum(dim=1) for part in parts])

    base, average = drawn(correct), torch.stack([drawn(right) for right in shifted]).mean(dim=0)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)

    def interval(values: Tensor) -> tuple[float, float]:
        low, high = values.sort().values[(ends * (draws - 1)).round().long()].tolist()
        return low, high

    residual = reference.residual(base.clamp(0, 1), average.clamp(0, 1))
    return RobustnessIntervals(interval(average), interval(average / base), interval(residual))


def _counts(draws: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw how often each of so many things is taken, as a share of all that are, (draws, size)."""
    taken = torch.randint(size, (draws, size), generator=generator)
    ones = torch.full((draws, size), 1 / size, dtype=torch.float64)
    return torch.zeros(draws, size, dtype=torch.float64).scatter_add(1, taken, ones)
