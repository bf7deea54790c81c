"""Accuracy where some classes have labels and the numbers of the others mean nothing.

Source:
    K. Cao, M. Brbić, J. Leskovec, "Open-World Semi-Supervised Learning", ICLR 2022, https://arxiv.org/abs/2102.03526,
    and the authors' code, https://github.com/snap-stanford/orca (MIT); the two groups of unseen classes are those of
    J. Zhang, X. Ma, S. Guo, W. Xu, "Towards Unbiased Training in Federated Open-world Semi-supervised Learning", 2023.

Deviations:
    Both groups of unseen classes are matched together, so that a predicted class counts for one class of either.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = ["OpenWorldAccuracy", "open_world_accuracy"]


class OpenWorldAccuracy(NamedTuple):
    """Shares of correct predictions; nan where a group of classes has no sample."""

    overall: float
    seen: float
    locally_unseen: float
    globally_unseen: float


def open_world_accuracy(
    predictions: Tensor, labels: Tensor, seen: Sequence[int], globally_unseen: Sequence[int] = ()
) -> OpenWorldAccuracy:
    """Measure predictions where the numbers of unseen classes mean nothing.

    Over all samples, predicted and true classes are matched one to one as is best (Hungarian algorithm). Seen classes
    by themselves must be predicted by their own number; unseen classes are matched among all unseen samples.

    Args:
        predictions: Predicted classes, int64, (N,), at least 0; N at least 1.
        labels: True classes, int64, (N,), at least 0.
        seen: The classes that have labels.
        globally_unseen: Of the others, those of one client; the rest are locally unseen.

    Returns:
        Four shares, each from 0 to 1.

    Raises:
        ValueError: If predictions and labels differ in shape, there are none, or a class is both seen and unseen.

    Example:
        >>> open_world_accuracy(torch.tensor([0, 0, 3, 1]), torch.tensor([0, 0, 1, 2]), seen=[0], globally_unseen=[2])
        OpenWorldAccuracy(overall=1.0, seen=1.0, locally_unseen=1.0, globally_unseen=1.0)
    """
    if predictions.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"predictions and labels must both be (N,), N at least 1, got {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if predictions.min() < 0 or labels.min() < 0:
        raise ValueError("predictions and labels must be at least 0; leave out samples whose class is not known")
    if both := set(seen) & set(globally_unseen):
        raise ValueError(f"globally_unseen must share no class with seen, got {sorted(both)} in both")
    known = torch.isin(labels, torch.tensor([*seen]).to(labels))
    single = torch.isin(labels, torch.tensor([*globally_unseen]).to(labels))
    found = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    found[known] = predictions[known] == labels[known]
    found[~known] = _matched(predictions[~known], labels[~known])
    groups = (found[known], found[~known & ~single], found[single])
    overall, *shares = (float(part.double().mean()) for part in (_matched(predictions, labels), *groups))
    return OpenWorldAccuracy(overall, *shares)


def _matched(predictions: Tensor, labels: Tensor) -> Tensor:
    """Tell which predictions, (N,), are correct under the best matching of predicted and true classes."""
    if not len(labels):
        return labels.bool()
    count = int(torch.maximum(predictions, labels).max()) + 1
    table = torch.bincount(predictions * count + labels, minlength=count * count).reshape(count, count)
    matched = torch.from_numpy(linear_sum_assignment(table.cpu().numpy(), maximize=True)[1]).to(labels)
    return matched[predictions] == labels
