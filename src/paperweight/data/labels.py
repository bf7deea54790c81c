"""Labels made wrong, and classes made rare: what studies of robust training begin with."""

import math

import torch
from torch import Tensor

__all__ = ["long_tailed", "wrong_labels"]


def wrong_labels(labels: Tensor, share: float, classes: int, generator: torch.Generator) -> Tensor:
    """Replace a share of the labels, drawn at random, each by another class with equal probability.

    Args:
        labels: Class numbers, int64, (N,).
        share: Share of the labels that become wrong, in [0, 1]; the number is rounded.
        classes: Number of classes, at least 2.
        generator: Source of the draws, on the CPU.

    Returns:
        Class numbers, (N,); exactly ``round(share * N)`` differ from those given.

    Raises:
        ValueError: If the share or the number of classes is outside its range, or a label is not below ``classes``.

    Example:
        >>> labels = wrong_labels(torch.zeros(10, dtype=torch.int64), 0.4, 3, torch.Generator().manual_seed(0))
        >>> int((labels != 0).sum()), int(labels.max()) < 3
        (4, True)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    _check_classes(labels, classes)
    count = round(share * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count].to(labels.device)
    shift = torch.randint(1, classes, (count,), generator=generator).to(labels.device)
    return labels.index_put((chosen,), (labels[chosen] + shift) % classes)


def long_tailed(labels: Tensor, ratio: float, classes: int, generator: torch.Generator) -> Tensor:
    """Choose examples so that class sizes fall geometrically, from that of the smallest class for class 0.

    Class c keeps a share ``ratio ** -(c / (classes - 1))`` of the size of the smallest class, rounded, at least one.

    Args:
        labels: Class numbers, int64, (N,), each class among them.
        ratio: Size of the first class divided by that of the last, at least 1.
        classes: Number of classes, at least 2.
        generator: Source of the draws, on the CPU.

    Returns:
        Numbers of the examples chosen, ascending, int64, (M,), on the device of the labels.

    Raises:
        ValueError: If ``ratio`` or ``classes`` is outside its range, a label is not below ``classes``, or a class is
            missing.

    Example:
        >>> chosen = long_tailed(torch.arange(3).repeat_interleave(100), 100, 3, torch.Generator().manual_seed(0))
        >>> torch.bincount(chosen // 100).tolist()
        [100, 10, 1]
    """
    if not 1 <= ratio < math.inf:
        raise ValueError(f"ratio must be finite and at least 1, got {ratio}")
    _check_classes(labels, classes)
    members = [torch.nonzero(labels == c).flatten() for c in range(classes)]
    smallest = min(len(of_class) for of_class in members)
    if not smallest:
        missing = next(c for c, of_class in enumerate(members) if not len(of_class))
        raise ValueError(f"labels must hold each of {classes} classes, got none of class {missing}")
    chosen: list[Tensor] = []
    for c, of_class in enumerate(members):
        kept = max(1, round(smallest * ratio ** -(c / (classes - 1))))
        order = torch.randperm(len(of_class), generator=generator).to(labels.device)
        chosen.append(of_class[order[:kept]])
    return torch.cat(chosen).sort().values


def _check_classes(labels: Tensor, classes: int) -> None:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be in [0, {classes}), got {int(labels.min())} to {int(labels.max())}; raise classes"
        )
