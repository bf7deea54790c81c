"""Scores of recalled keys: their distance to the true ones, and how well it tells trained records from held-out ones.

A key is drawn uniformly and independently of everything else, so that the law of the distance between an estimate and
keys that a model never saw is known exactly, whatever the estimate and whatever the model (`null_probability`). A
painted key is rounded to one of 256 levels: ``levels=256`` gives the exact law of such keys, 0 that of unrounded ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ROUNDING",
    "Distances",
    "Floats",
    "Keys",
    "auc",
    "auc_null_interval",
    "checked",
    "distances",
    "eidetic_count",
    "null_probability",
    "roc",
]

Floats = NDArray[np.float64]
Keys = Sequence[Sequence[float]]

ROUNDING = 1e-6
"""What two equal distances may differ by, as estimates come in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """How near the recalled keys are to the true ones.

    Args:
        score: Mean over repeats of the distance to the nearest key, (N,); lower is more memorised.
        nearest: Which key the estimates are nearest to on average, (N,).
        each: The distance of every repeat to its nearest key, (R, N).
    """

    score: Floats
    nearest: NDArray[np.int64]
    each: Floats

    def hits(self, delta: float) -> NDArray[np.int64]:
        """Return how many repeats are within ``delta`` of a key, (N,)."""
        return (self.each < delta).sum(axis=0)


def _table(keys: Keys) -> Floats:
    """Give keys as a table (N, D), filled up with infinity."""
    table = np.full((len(keys), max(map(len, keys), default=1)), np.inf)
    for row, own in zip(table, keys, strict=True):
        row[: len(own)] = own
    return table


def checked(estimates: ArrayLike, keys: Keys) -> Floats:
    """Give estimates as a table (R, N), or raise a ``ValueError`` if they do not fit the keys of N records."""
    values = np.asarray(estimates, dtype=np.float64)
    if values.ndim != 2 or not values.size or values.shape[1] != len(keys):
        raise ValueError(f"estimates must be (repeats, {len(keys)}), one for each record, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("estimates must be finite, got NaN or infinity")
    if not all(len(own) for own in keys):
        raise ValueError("keys must hold at least one for each record, got a record without any")
    return values


def distances(estimates: ArrayLike, keys: Keys) -> Distances:
    """Compare recalled keys with the true ones.

    Args:
        estimates: Recalled keys, (R, N).
        keys: The keys of each of the N records, at least one each.

    Returns:
        The distances to the nearest key.

    Raises:
        ValueError: If a shape does not fit, an estimate is not finite, or a record has no key.

    Example:
        >>> distances([[0.5, 0.2]], [(0.25,), (0.9, 0.2)]).score.tolist()
        [0.25, 0.0]
    """
    values = checked(estimates, keys)
    gaps = np.abs(values[:, :, None] - _table(keys))
    each = gaps.min(axis=2)
    return Distances(each.mean(axis=0), gaps.mean(axis=0).argmin(axis=1), each)


def eidetic_count(scores: ArrayLike, delta: float) -> int:
    """Count the records whose score is below ``delta``.

    Example:
        >>> eidetic_count([0.01, 0.2], 0.05)
        1
    """
    return int((np.asarray(scores) < delta).sum())


def null_probability(estimate: ArrayLike, distance: ArrayLike, keys: ArrayLike = 1, levels: int = 0) -> Floats:
    """Compute P(the nearest of d independent uniform keys is within l of e) = 1 - (1 - |[e - l, e + l] cap [0, 1]|)^d.

    With levels, a key is rounded to the nearest of as many even ones, and the interval holds those within l.

    Args:
        estimate: Estimates e.
        distance: Distances l, at least 0.
        keys: Numbers of keys d, at least 1.
        levels: Number of levels that keys are rounded to, at least 2; 0 for none.

    Returns:
        The probabilities, of the arguments' common shape.

    Example:
        >>> null_probability([0.5, 0.0], 0.1).round(6), null_probability(0.5, 0.1, keys=2).round(6)
        (array([0.2, 0.1]), np.float64(0.36))
    """
    e, reach = np.asarray(estimate, np.float64), np.asarray(distance, np.float64)
    low, high = e - reach, e + reach
    if levels:
        low = (np.ceil((low - ROUNDING) * (levels - 1)) - 0.5) / (levels - 1)
        high = (np.floor((high + ROUNDING) * (levels - 1)) + 0.5) / (levels - 1)
    inside = np.clip(np.minimum(high, 1) - np.maximum(low, 0), 0, 1)
    return np.asarray(1 - (1 - inside) ** np.asarray(keys), dtype=np.float64)


def auc(trained: ArrayLike, held_out: ArrayLike) -> float:
    """Compute P(a trained record scores below a held-out one), ties counted half.

    Args:
        trained: Scores, lower is more memorised, at least one.
        held_out: Likewise.

    Returns:
        0.5 at chance, 1 where every trained record is below every held-out one; not a number where a part is empty.

    Example:
        >>> auc([0.1, 0.2], [0.2, 0.4])
        0.875
    """
    ours, theirs = np.asarray(trained, np.float64), np.sort(np.asarray(held_out, np.float64))
    if not len(ours) or not len(theirs):
        return math.nan
    above = len(theirs) - np.searchsorted(theirs, ours, "right")
    ties = np.searchsorted(theirs, ours, "right") - np.searchsorted(theirs, ours, "left")
    return float((above + ties / 2).mean() / len(theirs))


def auc_null_interval(trained: int, held_out: int) -> tuple[float, float]:
    """Give the range that holds the AUC with 95% probability at chance, by the variance of Mann and Whitney's count.

    Example:
        >>> [round(end, 3) for end in auc_null_interval(100, 100)]
        [0.42, 0.58]
    """
    if not trained or not held_out:
        return 0.0, 1.0
    reach = 1.959964 * math.sqrt((trained + held_out + 1) / (12 * trained * held_out))
    return max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)


def roc(trained: ArrayLike, held_out: ArrayLike) -> list[tuple[float, float]]:
    """Give the share of held-out and of trained records at or below each score, from (0, 0) to (1, 1).

    Example:
        >>> roc([0.1, 0.2], [0.2, 0.4])
        [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    """
    ours, theirs = np.sort(np.asarray(trained, np.float64)), np.sort(np.asarray(held_out, np.float64))
    if not len(ours) or not len(theirs):
        return []
    levels = np.unique(np.concatenate([ours, theirs]))
    shares = [np.searchsorted(part, levels, "right") / len(part) for part in (theirs, ours)]
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in zip(*shares, strict=True))]
