"""What features are worth: probes with intervals, neighbours, and pictures that are there twice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor

from paperweight.data import resize

__all__ = ["Pair", "Score", "compared", "duplicates", "neighbours", "scored", "small_pixels"]

_CONFIDENCE = 0.95
_QUANTILE = 1.959963984540054
_ALIKE = 0.99
_NEAR = 5
_ENTRIES = 2**23
_MOST_PIXELS = 1_024


@final
@dataclass(frozen=True)
class Score:
    """A share, or a difference of two shares, with its 95% interval over test images."""

    value: float
    low: float
    high: float


def scored(correct: Tensor) -> Score:
    """Return the accuracy on test images with Wilson's interval.

    Args:
        correct: Which are right, bool, (N,).

    Example:
        >>> found = scored(torch.tensor([True] * 8 + [False] * 2))
        >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
        (0.8, 0.49, 0.94)
    """
    right = int(correct.sum())
    interval = binomtest(right, len(correct)).proportion_ci(_CONFIDENCE, method="wilson")
    return Score(right / len(correct), float(interval.low), float(interval.high))


def compared(correct: Tensor, other: Tensor) -> Score:
    """Return the difference of two accuracies on the same images, with the interval of Agresti and Min (2005).

    It is Wald's interval of paired shares after half an image more in each of the four cells.

    Args:
        correct: Which are right, bool, (N,).
        other: Which are right by the other, in the same order.

    Example:
        >>> one = torch.tensor([True] * 30 + [False] * 70)
        >>> found = compared(one, one)
        >>> found.value, round(found.high, 3)
        (0.0, 0.019)
    """
    count = len(correct)
    ahead, behind = int((correct & ~other).sum()), int((other & ~correct).sum())
    b, c, n = ahead + 0.5, behind + 0.5, count + 2.0
    middle, half = (b - c) / n, _QUANTILE * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return Score((ahead - behind) / count, max(-1.0, middle - half), min(1.0, middle + half))


def small_pixels(images: Tensor) -> Tensor:
    """Return images as features, (N, d), resized where they have more than 1,024 values.

    Args:
        images: Shape (N, C, H, W).
    """
    _, channels, height, width = images.shape
    shrunk = math.sqrt(_MOST_PIXELS / (channels * height * width))
    if shrunk < 1:
        images = resize(images, (max(1, int(height * shrunk)), max(1, int(width * shrunk))))
    return images.flatten(1)


def neighbours(features: Tensor, queries: Tensor, others: Tensor, count: int) -> Tensor:
    """Return the numbers of the nearest samples: of the largest cosine of features less the mean of all.

    Args:
        features: Features of all samples, (N, d).
        queries: The numbers of the samples whose neighbours are sought, (Q,).
        others: The numbers of the samples among which they are sought; a sample is no neighbour of itself, (M,).
        count: How many.

    Returns:
        Shape (Q, min(count, M - 1)).

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> neighbours(features, torch.tensor([0]), torch.arange(3), 2)
        tensor([[1, 2]])
    """
    units = F.normalize(features.float() - features.float().mean(dim=0))
    base, found = units[others], list[Tensor]()
    for part in queries.split(max(1, _ENTRIES // max(1, len(others)))):
        cosines = units[part] @ base.T
        cosines.masked_fill_(part[:, None] == others, -math.inf)
        found.append(others[cosines.topk(min(count, len(others) - 1), dim=1).indices])
    return torch.cat(found)


class Pair(NamedTuple):
    """Two images that look alike, by their numbers, and the correlation of their pixels."""

    one: int
    other: int
    correlation: float


def duplicates(images: Tensor, features: Tensor, first: np.ndarray) -> list[Pair]:
    """Find images that show the same, though their pixels differ: neighbours whose pixels are correlated by 0.99.

    Args:
        images: Shape (N, C, H, W).
        features: Their features, (N, d): only near images are compared.
        first: The number of the first image with the same pixels, (N,); of such only the first is looked at.

    Returns:
        The pairs, the most alike first.
    """
    unique = torch.from_numpy(np.unique(first))
    if len(unique) < 2:
        return []
    near = neighbours(features, unique, unique, _NEAR)
    pixels = images.flatten(1).float()
    found: dict[tuple[int, int], float] = {}
    for rows, columns in zip(unique.split(1_024), near.split(1_024), strict=True):
        ones = F.normalize(pixels[rows] - pixels[rows].mean(dim=1, keepdim=True))
        others = pixels[columns] - pixels[columns].mean(dim=2, keepdim=True)
        alike = torch.einsum("nd,nkd->nk", ones, F.normalize(others, dim=2))
        for row, place in (alike >= _ALIKE).nonzero().tolist():
            pair = sorted((int(rows[row]), int(columns[row, place])))
            found[pair[0], pair[1]] = float(alike[row, place])
    return [Pair(*pair, found[pair]) for pair in sorted(found, key=lambda pair: (-found[pair], pair))]


def picked(labels: Sequence[int], rows: Sequence[int], count: int) -> list[int]:
    """Return the numbers of a few samples, of as many classes as there are, the first of each."""
    turn: dict[int, list[int]] = {}
    for row in rows:
        turn.setdefault(labels[row], []).append(row)
    found: list[int] = []
    while len(found) < min(count, len(rows)):
        for label in sorted(turn):
            if turn[label] and len(found) < count:
                found.append(turn[label].pop(0))
    return found
