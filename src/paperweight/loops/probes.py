"""What features are worth by what is simple on top of them: a linear classifier, nearest neighbours, their rank."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.loops.choice import best_of

__all__ = ["Probed", "effective_rank", "knn_probe", "linear_probe"]

_ENTRIES = 2**21
"""Largest number of entries of what is computed at once: 16 MB in double precision."""

Labelled = tuple[Tensor, Tensor]
Value = TypeVar("Value", int, float)


@final
@dataclass(frozen=True, eq=False)
class Probed:
    """How a probe does that was chosen on validation samples.

    Attributes:
        chosen: The strength of the penalty, or the number of neighbours.
        validated: Its accuracy on the validation samples.
        correct: Which test samples it puts into their class, bool, (N,).
    """

    chosen: float
    validated: float
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """Its accuracy on the test samples."""
        return self.correct.double().mean().item()


@torch.no_grad()
def linear_probe(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
) -> Probed:
    """Fit a linear classifier to features by ridge regression, its penalty chosen on validation samples.

    Features get mean 0 and standard deviation 1 by those of the training samples, one that is constant there 0. The
    classifier minimises the mean squared distance of its outputs to one-hot labels plus ``strength`` times the sum of
    squares of its weights, its bias free, in closed form and double precision. Memory beyond the features is that of a
    few matrices of d x d.

    Args:
        train: Features and labels of training samples, (N, d), finite, and (N,), int64 from 0.
        validation: The same of the samples that choose; of equal accuracies the first strength.
        test: The same of the samples that judge; neither choose.
        strengths: What is tried, each above 0.

    Returns:
        The strength that was chosen, and how the classifier does.

    Raises:
        ValueError: If shapes do not fit, there are no samples, something is not finite, labels are not whole numbers of
            at least 0, or a strength is not above 0.

    Example:
        >>> features, labels = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe((features, labels), (features, labels), (features + 0.2, labels)).accuracy
        1.0
    """
    _check_parts(train, validation, test)
    if not strengths or not all(0 < strength < float("inf") for strength in strengths):
        raise ValueError(f"strengths must hold at least one, each finite and above 0, got {strengths!r}")
    features, labels = train
    targets = F.one_hot(labels).double()
    middle, bias = features.mean(dim=0, dtype=torch.float64), targets.mean(dim=0)
    products = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    towards = products.new_zeros(features.shape[1], targets.shape[1])
    for rows, wanted in zip(_chunks(features), _chunks(targets, features.shape[1]), strict=True):
        centred = rows.double() - middle
        products += centred.T @ centred / len(features)
        towards += centred.T @ (wanted - bias) / len(features)
    widths = products.diagonal().sqrt()
    rounding = 16 * min(torch.finfo(features.dtype).eps, torch.finfo(torch.float32).eps)
    widths = torch.where(widths > rounding * middle.abs(), widths, float("inf"))
    values, vectors = torch.linalg.eigh(products / widths[:, None] / widths)
    rotated = vectors.T @ (towards / widths[:, None])

    def right(strength: float, part: Labelled) -> Tensor:
        weights = vectors @ (rotated / (values.clamp(min=0) + strength)[:, None]) / widths[:, None]
        found = [((rows.double() - middle) @ weights + bias).argmax(dim=1) for rows in _chunks(part[0])]
        return torch.cat(found) == part[1]

    return _chosen(strengths, right, validation, test)


@torch.no_grad()
def knn_probe(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    neighbours: Sequence[int] = (1, 5, 20),
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Probed:
    """Give each sample the class that most of its nearest training samples have, their number chosen on validation.

    Of classes with equally many votes the one with the nearest sample wins. Distances are computed in parts, so that
    memory does not grow with the product of the numbers of samples.

    Args:
        train: Features and labels of training samples, (N, d), finite, and (N,), int64 from 0.
        validation: The same of the samples that choose; of equal accuracies the first number.
        test: The same of the samples that judge; neither choose.
        neighbours: The numbers of neighbours that are tried, each from 1 to the number of training samples.
        metric: Which are near: those of the largest ``"cosine"``, or of the smallest ``"euclidean"`` distance.

    Returns:
        The number that was chosen, and how it does.

    Raises:
        ValueError: If shapes do not fit, there are no samples, something is not finite, labels are not whole numbers of
            at least 0, or a number or the metric is outside its range.

    Example:
        >>> features, labels = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> test = torch.tensor([[3.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 1])
        >>> knn_probe((features, labels), (features, labels), test, neighbours=(1,)).accuracy
        1.0
    """
    _check_parts(train, validation, test)
    whole = all(isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= len(train[0]) for k in neighbours)
    if not neighbours or not whole:
        raise ValueError(
            f"neighbours must hold whole numbers from 1 to {len(train[0])}, the number of training samples, got "
            f"{neighbours!r}"
        )
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
    known, labels = train
    precision = torch.promote_types(known.dtype, torch.float32)
    middle = known.mean(dim=0, dtype=torch.float64).to(precision)

    def placed(rows: Tensor) -> Tensor:
        return F.normalize(rows.to(precision)) if metric == "cosine" else rows.to(precision) - middle

    base = placed(known)
    offset = base.square().sum(dim=1) / 2 if metric == "euclidean" else base.new_zeros(len(base))

    def nearest(part: Labelled) -> Labelled:
        """Give the classes of the nearest training samples, the nearest first, and the labels."""
        near = labels.new_empty(len(part[0]), max(neighbours))
        width = len(base) + known.shape[1]
        for rows, place in zip(_chunks(part[0], width), _chunks(near, width), strict=True):
            place.copy_(labels[(placed(rows) @ base.T - offset).topk(near.shape[1], dim=1).indices])
        return near, part[1]

    def right(k: int, part: Labelled) -> Tensor:
        near = part[0][:, :k]
        votes = torch.zeros(len(near), int(labels.max()) + 1, dtype=torch.int64, device=near.device)
        votes.scatter_add_(1, near, torch.ones_like(near))
        winner = (votes.gather(1, near) * (k + 1) - torch.arange(k, device=near.device)).argmax(dim=1)
        return near.gather(1, winner[:, None]).flatten() == part[1]

    return _chosen(neighbours, right, nearest(validation), nearest(test))


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """Compute in how many directions features vary: the exponential of the entropy of their singular values.

    The singular values are those of features about their mean, as shares of their sum (Roy, Vetterli, EUSIPCO 2007).
    Those that rounding of the features alone could give count as 0.

    Args:
        features: Features of samples, floating, finite, (N, d).

    Returns:
        The rank: d where all directions vary alike, 1 where a single one does, and 0 where nothing varies.

    Raises:
        ValueError: If features are not of shape (N, d) with entries, or not finite.

    Example:
        >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 4)
        2.0
    """
    _check_features(features, "features")
    middle, size = features.mean(dim=0, dtype=torch.float64), 0.0
    products = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for rows in _chunks(features):
        centred = rows.double() - middle
        products += centred.T @ centred
        size += rows.double().square().sum().item()
    values = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    rounding = 16 * max(torch.finfo(features.dtype).eps, 1e-9) / min(features.shape) ** 0.5
    values = values[values > rounding * size**0.5]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def _chosen(
    values: Sequence[Value], right: Callable[[Value, Labelled], Tensor], validation: Labelled, test: Labelled
) -> Probed:
    """Choose the value with the highest accuracy on validation samples, of equal ones the first."""
    scores = {value: right(value, validation).double().mean().item() for value in values}
    value = best_of(values, scores.__getitem__, better="higher")
    return Probed(value, scores[value], right(value, test))


def _chunks(rows: Tensor, width: int = 0) -> Iterator[Tensor]:
    """Give rows in parts that have, at such a width, no more entries than are computed at once."""
    return iter(rows.split(max(1, _ENTRIES // max(1, width or rows.shape[1]))))


def _check_features(features: Tensor, name: str) -> None:
    if features.ndim != 2 or not features.numel() or not features.is_floating_point():
        raise ValueError(
            f"{name} must be floating, of shape (N, d) without a 0, got {features.dtype} {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(f"{name} must be finite, got some that are not; did the training of the encoder diverge?")


def _check_parts(train: Labelled, validation: Labelled, test: Labelled) -> None:
    for name, (features, labels) in (("train", train), ("validation", validation), ("test", test)):
        _check_features(features, f"features of {name}")
        if features.shape[1] != train[0].shape[1]:
            raise ValueError(
                f"features of {name} must have the {train[0].shape[1]} numbers a sample that those of train have, got "
                f"{features.shape[1]}"
            )
        if labels.shape != features.shape[:1] or labels.dtype != torch.int64 or labels.min() < 0:
            raise ValueError(
                f"labels of {name} must be int64, at least 0, of shape ({len(features)},), got {labels.dtype} "
                f"{tuple(labels.shape)}"
            )
