"""Losses that attacks raise: how far the logits of each input are from its label.

An untargeted attack raises them, a targeted one lowers them. Any function of logits (N, classes) and labels that gives
a number for each input, (N,), may stand in their place. Labels are class numbers, int64, (N,), or shares of classes,
(N, classes), of which the losses of margins take the largest.

Source:
    cross-entropy: A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    https://arxiv.org/abs/1706.06083; the margin: N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural
    Networks", 2017, https://arxiv.org/abs/1608.04644; the ratios: F. Croce, M. Hein, "Reliable Evaluation of
    Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", 2020, https://arxiv.org/abs/2003.01690.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.attacks._rows import class_numbers

__all__ = ["AttackLoss", "cross_entropy_loss", "dlr_loss", "margin_loss", "targeted_dlr_loss"]

AttackLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (N, classes) and labels to a number for each input, (N,)."""


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give -log p_y, or for shares q of classes -sum of q_j log p_j.

    Its gradient vanishes in float32 once a label's probability rounds to 1; the margins have one then.

    Args:
        logits: Shape (N, classes).
        labels: Class numbers (N,) or shares of classes (N, classes).

    Returns:
        Shape (N,).

    Example:
        >>> cross_entropy_loss(torch.zeros(1, 4), torch.tensor([2]))
        tensor([1.3863])
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the largest logit of another class less that of the label: above 0 where the label is not seen.

    Args:
        logits: Shape (N, classes).
        labels: Class numbers (N,) or shares of classes (N, classes).

    Returns:
        Shape (N,).

    Example:
        >>> margin_loss(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([-1.])
    """
    chosen, others = _label_and_others(logits, labels)
    return others - chosen


def dlr_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the difference of logits ratio: the margin in units of the first less the third largest logit.

    No shift and no scale of the logits changes it. For a targeted attack it may be constant: `targeted_dlr_loss`.

    Args:
        logits: Shape (N, classes), of at least 3 classes.
        labels: Class numbers (N,) or shares of classes (N, classes).

    Returns:
        Shape (N,).

    Raises:
        ValueError: If there are fewer than 3 classes.

    Example:
        >>> dlr_loss(torch.tensor([[4.0, 1.0, 2.0]]), torch.tensor([0])).item()
        -0.6666666865348816
    """
    largest = _largest(logits, 3, "dlr_loss")
    return margin_loss(logits, labels) / _apart(largest[:, 0] - largest[:, 2])


def targeted_dlr_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the targeted difference of logits ratio, of a label to reach; a targeted attack lowers it.

    It is the largest logit of another class less that of the label, in units of the first largest logit less the mean
    of third and fourth. In the source the first term is the logit of the true class.

    Args:
        logits: Shape (N, classes), of at least 4 classes.
        labels: Class numbers (N,), or shares of classes (N, classes), to reach.

    Returns:
        Shape (N,).

    Raises:
        ValueError: If there are fewer than 4 classes.

    Example:
        >>> targeted_dlr_loss(torch.tensor([[4.0, 1.0, 2.0, 0.0]]), torch.tensor([2])).item()
        0.5714285969734192
    """
    largest = _largest(logits, 4, "targeted_dlr_loss")
    return margin_loss(logits, labels) / _apart(largest[:, 0] - largest[:, 2:].mean(dim=1))


def _label_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Give the logit of each label, and the largest of another class."""
    place = class_numbers(labels)[:, None]
    return logits.gather(1, place).squeeze(1), logits.scatter(1, place, -math.inf).amax(dim=1)


def _largest(logits: Tensor, count: int, name: str) -> Tensor:
    if logits.shape[1] < count:
        raise ValueError(f"{name} takes at least {count} classes, got {logits.shape[1]}; take margin_loss")
    return logits.topk(count, dim=1).values


def _apart(difference: Tensor) -> Tensor:
    return difference.clamp(min=torch.finfo(difference.dtype).tiny)
