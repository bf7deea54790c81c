"""Paired inference that may be looked at after every pair: an interval and a p-value that hold at any time.

If a difference x is symmetric about zero, given those before it, then 1 + b(x) has the mean 1 for every odd function b
that is not below -1: a fair bet that the centre is above zero. The product of such factors over the pairs is a
martingale, which reaches 1/alpha with a probability of alpha at most, however often one looks (J. Ville, 1939). Here
b(x) is nearly tanh(bold x / scale), the bet that is best against normal differences with a small centre, so that a
factor is nearly exp(l x) / cosh(l x); its scale is the root mean square of the differences before, and the products
for several degrees of boldness are averaged. The centres that no product has refuted, 2.5% a side, are the interval.

Like the interval of a fixed number of pairs it rests on symmetry alone, whatever the shape of the distribution, and a
run that diverged or crashed counts as the worst of its arm.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from paperweight.bench.statistics import CONFIDENCE, Interval

__all__ = ["anytime_interval", "anytime_p", "last_refuted", "log_evidence", "pairs_needed"]

_BOLD = np.array([0.5, 1.0, 2.0, 4.0])
_STAKE = 0.98  # of what has been won: one pair that refutes all does not lose it
_PARTS = 16  # into which a stretch is cut, all ends of which are looked at together
_REACH = 64.0  # times the largest difference, beyond which no end of an interval is looked for
_TINY, _HUGE = float(np.finfo(np.float64).tiny), float(np.finfo(np.float64).max)


def pairs_needed(comparisons: int = 1) -> int:
    """Return the number of pairs from which so many comparisons can reach 0.05 after Holm's rule.

    Args:
        comparisons: How many are corrected together; the primary one is alone.

    Example:
        >>> pairs_needed(), pairs_needed(4)
        (6, 8)
    """
    first = math.log((1 + _STAKE * np.tanh(_BOLD)).mean())  # by its sign alone, as there is no scale before it
    return 1 + math.ceil((math.log(2 * comparisons / (1 - CONFIDENCE)) - first) / math.log1p(_STAKE))


def log_evidence(
    differences: Sequence[float] | NDArray[np.float64], centre: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the logarithm of what betting on a centre above the given one has made of a stake of 1.

    Args:
        differences: One a pair, in the order in which they came, (N,), or those of S series, (S, N); may be infinite.
        centre: The centre to refute, or several, (S, 1): where it or a lower one is right, 1/alpha is ever reached with
            a probability of alpha at most.

    Returns:
        One number after each pair, (N,), or of each series or centre, (S, N).

    Example:
        >>> np.exp(log_evidence([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0], 0.0)).round(1).tolist()
        [1.8, 3.4, 5.8, 11.1, 19.4, 37.2, 66.9]
    """
    series = np.array(differences, dtype=np.float64)
    finite = np.where(np.isfinite(series), series, 0.0)
    largest = np.abs(finite).max(axis=-1, initial=0.0, keepdims=True)
    largest = np.where(largest > 0, largest, 1.0)
    squares = np.cumsum(np.square(finite / largest), axis=-1)
    known = np.cumsum(np.isfinite(series), axis=-1)
    spread = np.sqrt(squares / np.maximum(known, 1)) * largest
    before = np.concatenate([np.zeros_like(largest), spread], axis=-1)[..., :-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        beyond = series - centre
        scaled = np.where(before > 0, beyond / before, np.sign(beyond))
    products = np.log1p(_STAKE * np.tanh(np.multiply.outer(_BOLD, scaled))).cumsum(axis=-1)
    top = products.max(axis=0)
    return top + np.log(np.exp(products - top).mean(axis=0))


def _worst(differences: Sequence[float | None], sign: float) -> NDArray[np.float64]:
    return np.array([-math.inf if d is None or math.isnan(d) else sign * d for d in differences], dtype=np.float64)


def anytime_interval(differences: Sequence[float | None]) -> Interval:
    """Return the interval of the centre: at least 95% of all series of pairs never leave it out, after any pair.

    Args:
        differences: One a pair, in the order in which they came; infinite where an arm diverged, ``None`` where it is
            unknown, which counts as the worst on either side.

    Returns:
        The interval; infinite ends where nothing is refuted yet, as always below 6 pairs. It only ever shrinks, and may
        become empty (its low end above the high one) if the differences are not symmetric about any centre.

    Example:
        >>> interval = anytime_interval([1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 2.0])
        >>> round(interval.low, 2), round(interval.high, 2), interval.coverage
        (1.0, 2.94, 0.95)
    """
    return Interval(_lowest(_worst(differences, 1.0)), 0.0 - _lowest(_worst(differences, -1.0)), CONFIDENCE)


def _lowest(differences: NDArray[np.float64]) -> float:
    """Return the lowest centre that betting on a higher one has not refuted."""
    wanted = math.log(2 / (1 - CONFIDENCE))
    finite = differences[np.isfinite(differences)]

    def refuted(centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        return log_evidence(differences, centres[:, None]).max(axis=-1, initial=0.0) >= wanted

    if not len(finite):
        return math.inf if refuted(np.zeros(1))[0] else -math.inf
    high = min(_REACH * max(float(np.abs(finite).max()), _TINY), _HUGE)
    low = last_refuted(refuted, -high, high)
    return low if abs(low) >= _TINY else 0.0


def last_refuted(refuted: Callable[[NDArray[np.float64]], NDArray[np.bool_]], low: float, high: float) -> float:
    """Return the largest centre that is refuted, where all below it are and none above it.

    Args:
        refuted: Tells it of centres, (S,).
        low: Where the search begins.
        high: Where it ends.

    Returns:
        The centre; minus infinity where ``low`` is not refuted, and ``high`` where that is.

    Example:
        >>> last_refuted(lambda centres: centres <= 0.5, -1.0, 1.0)
        0.5
    """
    at_low, at_high = refuted(np.array([low, high]))
    if at_high or not at_low:
        return high if at_high else -math.inf
    parts = np.arange(1, _PARTS) / _PARTS
    while True:
        between = low * (1 - parts) + high * parts
        between = between[(between > low) & (between < high)]
        if not len(between):
            return low
        count = int(np.count_nonzero(refuted(between)))
        low, high = float([low, *between][count]), float([*between, high][count])


def anytime_p(differences: Sequence[float | None]) -> float:
    """Return the two-sided p of a centre at zero: below alpha at any time with a probability of alpha at most.

    Args:
        differences: As `anytime_interval` takes them.

    Example:
        >>> round(anytime_p([1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]), 3)
        0.03
        >>> anytime_p([0.0, 0.0, 0.0])
        1.0
    """
    most = max(float(log_evidence(_worst(differences, sign), 0.0).max(initial=0.0)) for sign in (1.0, -1.0))
    return min(1.0, 2.0 * math.exp(-most))
