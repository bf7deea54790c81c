"""Adversarial filtration: test sets of unchanged images on which classifiers fail, found by one that is at hand.

From many labelled images those are kept that a reference classifier gets wrong, and to whose class it gives hardly any
probability; from many images of unknown classes those of which it is surest. What misleads the reference misleads
others, too, so that the sets are hard for classifiers that had no part in making them. How hard is told by accuracy, by
the accuracy of the surest answers, by calibration, and by how well anomalies stand out.
Cost: one forward pass of the reference over all images; nothing is trained.

`AdversarialFiltration` goes over any images and labels; the functions take probabilities, whatever made them.

Source:
    D. Hendrycks, K. Zhao, S. Basart, J. Steinhardt, D. Song, "Natural Adversarial Examples", CVPR, 2021,
    https://arxiv.org/abs/1907.07174: how ImageNet-A and ImageNet-O are made and measured; and its code,
    https://github.com/hendrycks/natural-adv-examples (MIT), for the measures.

Deviations:
    - No person looks at what is left. The authors keep those of the images that are of one class clearly.
    - Of several references all must fail; the authors took two of one architecture, and several crops of an image.
    - The calibration error counts all bins. The authors' code leaves out the last one, of the surest answers.
    - Answers of equal confidence count with their mean in the area under the response rate accuracy curve and in the
      calibration error; in the authors' code they count in the order that sorting happens to leave them in.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = [
    "AdversarialFiltration",
    "area_under_precision_recall",
    "area_under_response_rate_accuracy",
    "confident_anomalies",
    "hard_examples",
    "rms_calibration_error",
]

PAPER = Paper(
    title="Natural Adversarial Examples",
    authors=("Dan Hendrycks", "Kevin Zhao", "Steven Basart", "Jacob Steinhardt", "Dawn Song"),
    year=2019,
    url="https://arxiv.org/abs/1907.07174",
    provides={
        "AdversarialFiltration": "data-transform",
        "hard_examples": "function",
        "confident_anomalies": "function",
        "area_under_response_rate_accuracy": "metric",
        "area_under_precision_recall": "metric",
        "rms_calibration_error": "metric",
    },
    claim="Unchanged images that mislead one classifier mislead others, so that accuracy on them nearly vanishes.",
)

_BATCH = 512


def hard_examples(probabilities: Tensor, labels: Tensor, ceiling: float = 0.15, per_class: int | None = None) -> Tensor:
    """Name the examples that every reference gets wrong, and to whose class each gives less than a probability.

    Args:
        probabilities: Of the classes, by each reference: (references, N, classes), or by one, (N, classes).
        labels: Class numbers, int64, (N,).
        ceiling: Probabilities of the right class below it are hard, above 0, at most 1; the paper has 0.15.
        per_class: Most examples of a class, at least 1, those to whose class the references give the lowest mean
            probability; None for all.

    Returns:
        Numbers of examples, ascending, int64, (found,).

    Raises:
        ValueError: If an argument is outside its range, or probabilities and labels do not fit.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        >>> hard_examples(probabilities, torch.tensor([1, 1, 1]))
        tensor([0])
    """
    _check_filter(ceiling, per_class)
    several = probabilities[None] if probabilities.ndim == 2 else probabilities
    if several.ndim != 3 or not len(several) or labels.shape != several.shape[1:2] or labels.dtype != torch.int64:
        found = f"{tuple(probabilities.shape)} and {labels.dtype} of {tuple(labels.shape)}"
        raise ValueError(f"probabilities must be (references, N, classes) with N int64 labels, got {found}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < several.shape[2]:
        raise ValueError(f"labels must be within 0 and {several.shape[2] - 1}, got others")
    own = several.gather(2, labels.expand(len(several), -1)[..., None])[..., 0]
    wrong = several.argmax(dim=2) != labels
    kept = (wrong & (own < ceiling)).all(dim=0).nonzero()[:, 0]
    if per_class is None or not len(kept):
        return kept
    hardest = kept[own.mean(dim=0)[kept].argsort(stable=True)]
    of_class = F.one_hot(labels[hardest], several.shape[2])
    place = (of_class.cumsum(dim=0) * of_class).sum(dim=1)
    return hardest[place <= per_class].sort().values


def confident_anomalies(probabilities: Tensor, count: int) -> Tensor:
    """Name the anomalies of whose class, which they do not have, a reference is surest.

    Args:
        probabilities: Of the classes that the reference knows, (N, classes).
        count: How many anomalies, from 0 to N.

    Returns:
        Numbers of anomalies, ascending, int64, (count,); of equal ones the first.

    Raises:
        ValueError: If the count is outside its range, or probabilities are not (N, classes).

    Example:
        >>> confident_anomalies(torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.8, 0.2]]), 2)
        tensor([1, 2])
    """
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities must be (N, classes), got {tuple(probabilities.shape)}")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(probabilities):
        raise ValueError(f"count must be a whole number from 0 to {len(probabilities)}, got {count}")
    return probabilities.amax(dim=1).argsort(descending=True, stable=True)[:count].sort().values


def area_under_response_rate_accuracy(confidences: Tensor, correct: Tensor) -> float:
    """Compute the mean, over k from 1 to N, of the accuracy of the k surest answers (AURRA).

    Args:
        confidences: How sure each answer is, (N,), N at least 1.
        correct: Whether it is right, bool, (N,).

    Returns:
        The area, in [0, 1]; the accuracy is what a confidence without meaning gives on average.

    Raises:
        ValueError: If the two do not fit, or a confidence is no number.

    Example:
        >>> area_under_response_rate_accuracy(torch.tensor([0.9, 0.6]), torch.tensor([True, False]))
        0.75
    """
    _check_answers(confidences, correct)
    each = _means_of_equals(confidences, correct)[confidences.argsort(descending=True, stable=True)]
    return (each.cumsum(0) / torch.arange(1, len(each) + 1, device=each.device)).mean().item()


def rms_calibration_error(confidences: Tensor, correct: Tensor, bin_size: int = 100) -> float:
    """Compute the root of the mean square of confidence less accuracy, in bins of equally many answers.

    Args:
        confidences: The probability that each answer is given, in [0, 1], (N,), N at least 1.
        correct: Whether it is right, bool, (N,).
        bin_size: Answers a bin, neighbours by confidence, at least 1; what is left over belongs to the last bin.

    Returns:
        The error, in [0, 1]; each bin counts by its size.

    Raises:
        ValueError: If the two do not fit, a confidence is outside [0, 1], or the bin size is below 1.

    Example:
        >>> confidences, correct = torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([True, False, False, False])
        >>> round(rms_calibration_error(confidences, correct, bin_size=2), 4)
        0.7071
    """
    _check_answers(confidences, correct)
    if not bool(((confidences >= 0) & (confidences <= 1)).all()):
        raise ValueError("confidences must be within 0 and 1, got others; apply softmax to logits first")
    if isinstance(bin_size, bool) or not isinstance(bin_size, int) or bin_size < 1:
        raise ValueError(f"bin_size must be a whole number of at least 1, got {bin_size}")
    order = confidences.argsort(stable=True)
    surplus = (confidences.double() - _means_of_equals(confidences, correct))[order]
    bins = max(1, len(order) // bin_size)
    cuts = [bin_size] * (bins - 1) + [len(order) - bin_size * (bins - 1)]
    squares = [len(part) * part.mean().square() for part in surplus.split(cuts)]
    return math.sqrt(torch.stack(squares).sum().item() / len(order))


def area_under_precision_recall(anomalous: Tensor, ordinary: Tensor) -> float:
    """Compute the average precision with which anomalies are told by their scores, anomalies being the positives.

    Args:
        anomalous: Scores of anomalies, higher for what looks more anomalous, such as the negative of the largest
            probability, (N,), N at least 1.
        ordinary: Scores of ordinary examples, (M,), M at least 1.

    Returns:
        The area, in [0, 1]; equal scores give N / (N + M).

    Raises:
        ValueError: If one of them is empty or not of one dimension, or a score is no number.

    Example:
        >>> area_under_precision_recall(torch.tensor([0.9, 0.2]), torch.tensor([0.5]))
        0.8333333333333333
    """
    for name, scores in (("anomalous", anomalous), ("ordinary", ordinary)):
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise ValueError(f"{name} must be numbers, (N,), N at least 1, got {tuple(scores.shape)} or no numbers")
    scores = torch.cat([anomalous, ordinary])
    _, group = torch.unique(-scores, return_inverse=True)
    found = torch.bincount(group[: len(anomalous)], minlength=int(group.max()) + 1).double()
    precision = found.cumsum(0) / torch.bincount(group).cumsum(0)
    return (found * precision).sum().item() / len(anomalous)


@final
class AdversarialFiltration:
    """Keeps of images and labels what is hard for reference classifiers.

    Args:
        references: One or several classifiers that map inputs to logits (N, classes); they are in eval mode meanwhile.
        ceiling: Probabilities of the right class below it are hard, above 0, at most 1; the paper has 0.15.
        per_class: Most examples of a class, the hardest, at least 1; None for all.

    Raises:
        ValueError: If an argument is outside its range, or there is no reference.

    Example:
        >>> inputs, labels = torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 1])
        >>> AdversarialFiltration([nn.Identity()])(inputs, labels)
        (tensor([[3., 0.]]), tensor([1]))
    """

    def __init__(self, references: Sequence[nn.Module], ceiling: float = 0.15, per_class: int | None = None) -> None:
        _check_filter(ceiling, per_class)
        if not len(references):
            raise ValueError("references must be at least one classifier, got none")
        self.references, self.ceiling, self.per_class = references, ceiling, per_class

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give the hard ones of the inputs, and their labels, in the order given.

        Args:
            inputs: Inputs, (N, ...).
            labels: Class numbers, int64, (N,).

        Returns:
            Inputs (found, ...), and labels (found,).
        """
        if len(inputs) != len(labels):
            raise ValueError(f"labels must be one for each of {len(inputs)} inputs, got {len(labels)}")
        if not len(inputs):
            return inputs.detach().clone(), labels.clone()
        kept = hard_examples(
            torch.stack([_probabilities(model, inputs) for model in self.references]),
            labels,
            self.ceiling,
            self.per_class,
        )
        return inputs.detach()[kept], labels[kept]


def _probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return torch.cat([model(part).softmax(dim=1) for part in inputs.split(_BATCH)])


def _means_of_equals(confidences: Tensor, correct: Tensor) -> Tensor:
    """Give for each answer the share that is right of those of equal confidence, float64, (N,)."""
    _, group, sizes = torch.unique(confidences, return_inverse=True, return_counts=True)
    right = torch.zeros(len(sizes), dtype=torch.float64, device=sizes.device).index_add(0, group, correct.double())
    return (right / sizes)[group]


def _check_filter(ceiling: float, per_class: int | None) -> None:
    if isinstance(ceiling, bool) or not 0 < ceiling <= 1:
        raise ValueError(f"ceiling must be above 0 and at most 1, got {ceiling}")
    if per_class is not None and (isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1):
        raise ValueError(f"per_class must be a whole number of at least 1, or None, got {per_class}")


def _check_answers(confidences: Tensor, correct: Tensor) -> None:
    if confidences.ndim != 1 or not len(confidences) or confidences.shape != correct.shape:
        found = f"{tuple(confidences.shape)} and {tuple(correct.shape)}"
        raise ValueError(f"confidences and correct must both be (N,), N at least 1, got {found}")
    if correct.dtype != torch.bool:
        raise ValueError(f"correct must be bool, got {correct.dtype}")
    if bool(confidences.isnan().any()):
        raise ValueError("confidences must be numbers, got nan")
