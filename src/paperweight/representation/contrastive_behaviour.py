"""The temperature of the contrastive loss, and hard negatives: what pushes features apart, and how far.

The contrastive loss pushes each image away from all others, from those that are like it most of all: the temperature
says how much more. A low one spreads features evenly, those of one class too; a high one leaves classes together but
hardly tells images apart. With the most similar negatives alone in the loss, a high temperature does both.
`penalty_distribution`, `uniformity` and `tolerance` show it; `hard_contrastive_loss` and `simple_contrastive_loss` act
on it.
Cost: where not all negatives are kept, the largest of 2N - 2 cosines of each of 2N views; no parameters.

Source:
    F. Wang, H. Liu, "Understanding the Behaviour of Contrastive Loss", CVPR, 2021, https://arxiv.org/abs/2012.09740.
    Implemented: the relative penalty on negatives, the hard contrastive loss, its limit for high temperatures with and
    without hard negatives, uniformity, tolerance. No code of the authors was found.

Deviations:
    - Negatives are the 2N - 2 other views of a batch, as in SimCLR, not a memory of features of all images; which are
      the hardest is asked within them.
    - The weight of negatives in the simple loss is of their mean, not of their sum.
    - Tolerance is the mean cosine over pairs of one class. Read to the letter, the paper's formula is the mean over all
      pairs, with 0 for pairs of two classes: this one times the share of pairs that are of one class.
    - Both measures leave out pairs of a sample with itself.
    - The paper's full text was not at hand; formulas were compared with accounts of it.
"""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = ["hard_contrastive_loss", "penalty_distribution", "simple_contrastive_loss", "tolerance", "uniformity"]

PAPER = Paper(
    title="Understanding the Behaviour of Contrastive Loss",
    authors=("Feng Wang", "Huaping Liu"),
    year=2021,
    url="https://arxiv.org/abs/2012.09740",
    provides={
        "hard_contrastive_loss": "function",
        "penalty_distribution": "function",
        "simple_contrastive_loss": "function",
        "tolerance": "function",
        "uniformity": "function",
    },
    null={"share": 1.0},
    claim="With the hardest negatives alone, features of high temperatures are at least as good as of a tuned one.",
)

_ENTRIES = 2**21
"""Largest number of cosines that are computed at once."""


def penalty_distribution(cosines: Tensor, temperature: float) -> Tensor:
    """Compute how what pushes a view away is shared among its negatives: exp(s / t) as shares of their sum.

    It is the gradient of the contrastive loss by each cosine, as a share of that by all. For low temperatures all falls
    on the most similar negative, for high ones on all alike.

    Args:
        cosines: Cosines with the negatives, (..., K), K at least 1.
        temperature: What they are divided by, finite and above 0.

    Returns:
        Shares, (..., K), with sum 1 along the last dimension.

    Raises:
        ValueError: If there is nothing to share, or the temperature is outside its range.

    Example:
        >>> penalty_distribution(torch.tensor([0.8, 0.1, 0.1]), 0.1).round(decimals=3).tolist()
        [0.9980000257492065, 0.0010000000474974513, 0.0010000000474974513]
    """
    if not cosines.ndim or not cosines.numel() or not cosines.is_floating_point():
        raise ValueError(
            f"cosines must be floating, of shape (..., K) without a 0, got {cosines.dtype} {tuple(cosines.shape)}"
        )
    _check_temperature(temperature)
    return (cosines / temperature).softmax(dim=-1)


def hard_contrastive_loss(first: Tensor, second: Tensor, temperature: float = 1.0, share: float = 0.1) -> Tensor:
    """Compute the contrastive loss with those negatives alone that are the most similar to a view.

    With ``share=1.0`` it is the loss of SimCLR, bit for bit. No gradient says that negatives were chosen.

    Args:
        first: Codes of the first views, of any length, (N, d), N at least 1; of one image the loss is 0.
        second: Codes of the second views, in the same order, (N, d).
        temperature: What cosines are divided by, finite and above 0.
        share: How many of its 2N - 2 negatives a view is pushed away from, above 0 and at most 1, rounded up; those
            that are as similar as the last of them belong to them.

    Returns:
        The mean over all 2N views of the cross-entropy of the other view of the same image among it and the negatives.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> codes = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> bool(hard_contrastive_loss(codes, codes, share=0.1) < hard_contrastive_loss(codes, codes, share=1.0))
        True
    """
    _check_temperature(temperature)
    cosines, twins = _cosines(first, second, share)
    scores = (cosines / temperature).fill_diagonal_(float("-inf"))
    if share < 1:
        dropped = ~_hardest(cosines, twins, share)
        scores = scores.masked_fill(dropped.scatter(1, twins[:, None], value=False), float("-inf"))
    return F.cross_entropy(scores, twins)


def simple_contrastive_loss(first: Tensor, second: Tensor, weight: float = 1.0, share: float = 1.0) -> Tensor:
    """Compute what the contrastive loss does at high temperatures: attract the twin, and repel all negatives alike.

    Args:
        first: Codes of the first views, of any length, (N, d), N at least 1; of one image nothing repels.
        second: Codes of the second views, in the same order, (N, d).
        weight: Of the mean cosine with negatives, finite and at least 0.
        share: How many of its 2N - 2 negatives a view is pushed away from, the most similar ones, above 0 and at most
            1, rounded up; those that are as similar as the last of them belong to them.

    Returns:
        The mean over all 2N views of the negative cosine with the other view of the same image, plus the weighted mean
        cosine with the negatives.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> codes = torch.eye(3)
        >>> simple_contrastive_loss(codes, codes), simple_contrastive_loss(codes, codes.flip(0), share=0.1)
        (tensor(-1.), tensor(0.3333))
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be finite and at least 0, got {weight!r}")
    cosines, twins = _cosines(first, second, share)
    attracted = cosines.gather(1, twins[:, None]).mean()
    kept = _hardest(cosines, twins, share)
    repelled = (cosines * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    return weight * repelled.mean() - attracted


def uniformity(features: Tensor, scale: float = 2.0) -> float:
    """Compute how evenly features lie on the sphere: -log E exp(-scale ||x - y||^2), over pairs of two samples.

    Args:
        features: Features of samples, of any length, finite, (N, d), N at least 2.
        scale: What squared distances are multiplied by, finite and above 0; 2 in the paper, where it is called t.

    Returns:
        The uniformity: 0 where all features are the same, larger where they are farther apart.

    Raises:
        ValueError: If shapes do not fit, something is not finite, or an argument is outside its range.

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
        8.0
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be finite and above 0, got {scale!r}")
    codes, total = _directions(features), 0.0
    apart = torch.arange(len(codes), device=codes.device)
    for index in apart.split(max(1, _ENTRIES // len(codes))):
        near = (-2 * scale * (1 - codes[index] @ codes.T)).exp()
        total += near.masked_fill(index[:, None] == apart, 0.0).sum().item()
    return -torch.tensor(total / (len(codes) * (len(codes) - 1)), dtype=torch.float64).log().item()


def tolerance(features: Tensor, labels: Tensor) -> float:
    """Compute how close features of one class are: the mean cosine over pairs of two samples of one class.

    Args:
        features: Features of samples, of any length, finite, (N, d), N at least 2.
        labels: Class numbers, whole numbers of at least 0, (N,).

    Returns:
        The tolerance, from -1 to 1; NaN where no two samples are of one class.

    Raises:
        ValueError: If shapes do not fit, or something is not finite.

    Example:
        >>> tolerance(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0, 1, 1]))
        0.0
    """
    codes = _directions(features)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != features.shape[:1] or not whole or labels.min() < 0:
        raise ValueError(
            f"labels must be whole numbers of at least 0 of shape ({len(features)},), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    members = F.one_hot(labels.long().unique(return_inverse=True)[1]).double()
    counts = members.sum(dim=0)
    together = (members.T @ codes).square().sum() - codes.square().sum()
    return (together / (counts * (counts - 1)).sum()).item()


def _cosines(first: Tensor, second: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Give the cosines of all views, (2N, 2N), and the number of each view's twin, (2N,)."""
    if first.ndim != 2 or not first.numel() or first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape (N, d) without a 0, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
    codes = F.normalize(torch.cat([first, second]))
    return codes @ codes.T, torch.arange(len(codes), device=codes.device).roll(len(first))


def _hardest(cosines: Tensor, twins: Tensor, share: float) -> Tensor:
    """Say which are the most similar negatives of each view, (2N, 2N), at least one where there are any."""
    own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device).scatter(1, twins[:, None], value=True)
    negatives = cosines.detach().masked_fill(own, float("-inf"))
    kept = max(1, ceil(share * (len(cosines) - 2) - 1e-9))
    return (negatives >= negatives.topk(kept, dim=1).values[:, -1:]) & ~own


def _directions(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2 or not features.numel() or not features.is_floating_point():
        raise ValueError(
            f"features must be floating, of shape (N, d) with N at least 2, got {features.dtype} "
            f"{tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError("features must be finite, got some that are not; did the training of the encoder diverge?")
    return F.normalize(features.detach().double())


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be finite and above 0, got {temperature!r}")
