"""The statistics of a weighing: paired differences over seeds, their interval, test and verdict.

One comparison is primary: the method on the headline metric, tested alone at 0.05. All others are secondary; their
p-values are corrected among themselves by Holm's rule, over arms and metrics, so that controls cost the claim no power.

Interval and test are one idea. If the differences are independent and symmetric about their centre, the means of all
non-empty subsets of n differences cut the line into 2^n parts, each of which holds the centre with the same
probability 2^-n (J. A. Hartigan, Using Subsample Values as Typical Values, JASA 64, 1969). The interval between the
k-th smallest and the k-th largest subset mean therefore covers it with probability 1 - 2k/2^n, exactly, whatever
the shape of the distribution; and it leaves zero out just when the two-sided sign-flip test has p <= 2k/2^n.

A difference may be infinite (a run diverged: the worst for its arm) or unknown (a run crashed or ran out of time or
memory): an unknown difference counts as the worst in both directions, so that no failure makes a claim look better.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Interval",
    "Verdict",
    "benjamini_hochberg",
    "compare",
    "example_interval",
    "holm",
    "mean",
    "pairs_needed",
    "sign_flip_p",
    "typical_value_interval",
]

Verdict = Literal["helps", "hurts", "no effect", "inconclusive"]

CONFIDENCE = 0.95
_EXACT_PAIRS = 16
_SUMS_OVERFLOW = 1e290
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval for the centre of paired differences.

    Args:
        low: Lower end; may be infinite.
        high: Upper end; may be infinite.
        coverage: The exact probability of covering the centre, at least ``CONFIDENCE`` where the number of pairs
            allows it.
    """

    low: float
    high: float
    coverage: float

    @property
    def half_width(self) -> float:
        """Half of the distance of its ends: what a difference must exceed to be seen, roughly."""
        return (self.high - self.low) / 2 if self.low < self.high else 0.0


@lru_cache(maxsize=4)
def _subsets(n: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the non-empty subsets of n pairs, and their sizes: all, or some 2^16 drawn at random for n above 16."""
    if n <= _EXACT_PAIRS:
        bits = np.unpackbits(np.arange(1, 2**n, dtype=">u4").view(np.uint8).reshape(-1, 4), axis=1)
        subsets = bits[:, -n:].astype(np.bool_)
    else:
        drawn = np.random.default_rng(n).random((2**_EXACT_PAIRS, n))[1:] < 0.5
        subsets = drawn[drawn.any(axis=1)]
    return subsets, subsets.sum(axis=1)


def _scale(largest: float) -> float:
    """Return what values are divided by before they are added, so that sums of the largest numbers do not overflow."""
    return 2.0**64 if largest > _SUMS_OVERFLOW else 1.0


def _subset_means(differences: NDArray[np.float64], *, infinity_wins: float) -> NDArray[np.float64]:
    """Return the means of all non-empty subsets; opposed infinities in a subset resolve to ``infinity_wins``."""
    subsets, sizes = _subsets(len(differences))
    finite = np.where(np.isfinite(differences), differences, 0.0)
    scale = _scale(np.abs(finite).max())
    means = (subsets @ (finite / scale)) / sizes * scale
    if np.isfinite(differences).all():
        return means
    up = (subsets & (differences == math.inf)).any(axis=1)
    down = (subsets & (differences == -math.inf)).any(axis=1)
    means[up] = math.inf
    means[down] = -math.inf
    means[up & down] = infinity_wins
    return means


def _worst(differences: Sequence[float | None], value: float) -> NDArray[np.float64]:
    return np.array([value if d is None or math.isnan(d) else d for d in differences], dtype=np.float64)


def typical_value_interval(differences: Sequence[float | None], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval between the k-th smallest and k-th largest subset mean.

    Args:
        differences: One a pair, at least one; infinite where an arm diverged, ``None`` where it is unknown.
        confidence: Coverage asked for. Below 6 pairs 95% is out of reach: the widest interval is returned, with the
            coverage that it has.

    Returns:
        The interval with its exact coverage under symmetry.

    Example:
        >>> typical_value_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        Interval(low=1.0, high=6.0, coverage=0.96875)
    """
    n = len(differences)
    low = np.sort(_subset_means(_worst(differences, -math.inf), infinity_wins=-math.inf))
    high = np.sort(_subset_means(_worst(differences, math.inf), infinity_wins=math.inf))
    parts = len(low) + 1
    k = max(1, math.floor((1 - confidence) / 2 * parts + 1e-9))
    coverage = 1 - 2 * k / parts if n > 1 else 0.0
    return Interval(float(low[k - 1]), float(high[-k]), coverage)


def sign_flip_p(differences: Sequence[float | None]) -> float:
    """Return the two-sided p of the exact sign-flip test of a centre at zero.

    Args:
        differences: One a pair; infinite where an arm diverged, ``None`` where it is unknown, which counts as the
            strongest evidence against the direction that the others show.

    Returns:
        The share of sign patterns with a sum at least as far from zero; never below 2^(1-n).

    Example:
        >>> sign_flip_p([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
        0.03125
        >>> sign_flip_p([0.0, 0.0, 0.0])
        1.0
    """
    if not any(differences):
        return 1.0

    def share_at_most_zero(values: NDArray[np.float64], sign: float) -> float:
        means = _subset_means(sign * values, infinity_wins=-math.inf)
        scale = np.abs(values[np.isfinite(values)]).max(initial=0.0)
        return float((np.sum(means <= _ROUNDING * scale) + 1) / (len(means) + 1))

    above = share_at_most_zero(_worst(differences, -math.inf), 1.0)
    below = share_at_most_zero(_worst(differences, math.inf), -1.0)
    return min(1.0, 2 * min(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down rule for the chance of any false finding.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def pairs_needed(comparisons: int = 1) -> int:
    """Return the number of pairs from which so many comparisons can reach 0.05 after Holm's rule.

    Args:
        comparisons: How many are corrected together; the primary one is alone.

    Example:
        >>> pairs_needed(), pairs_needed(4)
        (6, 8)
    """
    return 1 + math.ceil(math.log2(comparisons / (1 - CONFIDENCE)))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the expected share of false findings among all findings.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03])
        [0.03, 0.04, 0.04]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    adjusted = [0.0] * len(p_values)
    running = 1.0
    for rank, i in enumerate(order):
        running = min(running, p_values[i] * len(p_values) / (len(p_values) - rank))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the baseline in one metric, signed so that above zero is better.

    Args:
        gain: Mean of the known finite differences; not a number where there is none.
        interval: Interval of the difference.
        p: Two-sided sign-flip p.
        p_adjusted: The same, of a secondary comparison adjusted for all secondary ones of the study.
        primary: Whether it is the one comparison that the study is about.
        minimal_effect: The smallest difference worth reporting.
        verdict: What follows.
    """

    gain: float
    interval: Interval
    p: float
    p_adjusted: float
    primary: bool
    minimal_effect: float
    verdict: Verdict

    @property
    def could_not_decide(self) -> bool:
        """Whether it is inconclusive, and so wide that it could not have shown the absence of an effect."""
        return self.verdict == "inconclusive" and not self.interval.half_width < self.minimal_effect


def _verdict(interval: Interval, p_adjusted: float, minimal_effect: float) -> Verdict:
    if interval.coverage < CONFIDENCE or interval.low > interval.high:
        return "inconclusive"
    if -minimal_effect < interval.low and interval.high < minimal_effect:
        return "no effect"
    if p_adjusted > 1 - CONFIDENCE + 1e-12:
        return "inconclusive"
    if interval.low > 0:
        return "helps"
    if interval.high < 0:
        return "hurts"
    return "inconclusive"


def mean(differences: Sequence[float | None]) -> float:
    """Return the mean of the known finite differences, 0 where it is no more than rounding; not a number without any.

    Example:
        >>> mean([0.5, None, 1.5])
        1.0
    """
    known = [d for d in differences if d is not None and math.isfinite(d)]
    largest = max(map(abs, known), default=0.0)
    scale = _scale(largest)
    average = math.fsum(d / scale for d in known) / len(known) * scale if known else math.nan
    return 0.0 if abs(average) <= _ROUNDING * largest else average


def compare(
    gains: Mapping[tuple[str, str], Sequence[float | None]],
    minimal_effects: Mapping[str, float],
    primary: tuple[str, str],
    *,
    interval: Callable[[Sequence[float | None]], Interval] = typical_value_interval,
    p_value: Callable[[Sequence[float | None]], float] = sign_flip_p,
) -> dict[tuple[str, str], Comparison]:
    """Compare every arm with the baseline in every metric.

    Args:
        gains: (metric, arm) to its differences to the baseline, one a seed, signed so that above zero is better.
        minimal_effects: Metric to the smallest difference worth reporting.
        primary: The metric and arm that the study is about.
        interval: Gives the interval of a series of differences.
        p_value: Gives their two-sided p.

    Returns:
        One comparison for each of ``gains``. It *helps* when the interval lies above zero and the p-value is at most
        0.05: of the primary comparison its own, of the others adjusted by Holm's rule for the number of others. It
        *hurts* likewise below; has *no effect* when the interval lies inside the minimal effect; and is *inconclusive*
        otherwise, always so with fewer than 6 pairs, or where the interval is empty, as one that holds at any time can
        become if the differences contradict their symmetry.

    Example:
        >>> gains = {("loss", "method"): [0.1, 0.2, 0.1, 0.3, 0.2, 0.1], ("loss", "control"): [0.1] * 6}
        >>> found = compare(gains, {"loss": 0.01}, primary=("loss", "method"))
        >>> found["loss", "method"].verdict, found["loss", "method"].primary
        ('helps', True)
    """
    p_values = {key: p_value(differences) for key, differences in gains.items()}
    secondary = [key for key in gains if key != primary]
    adjusted = p_values | dict(zip(secondary, holm([p_values[key] for key in secondary]), strict=True))
    comparisons: dict[tuple[str, str], Comparison] = {}
    for key, differences in gains.items():
        found = interval(differences)
        smallest = minimal_effects[key[0]]
        verdict = _verdict(found, adjusted[key], smallest)
        comparisons[key] = Comparison(
            mean(differences), found, p_values[key], adjusted[key], key == primary, smallest, verdict
        )
    return comparisons


def example_interval(pairs: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> Interval:
    """Return the interval of the difference in accuracy over test examples, given the trained models.

    It answers another question than the interval over seeds: how sure is the difference of these very models, had
    the test examples been drawn anew?

    Args:
        pairs: For each seed whether the baseline, and whether the arm, was right on the same examples, shape (N,).

    Returns:
        The normal interval of the mean over seeds of the per-example differences.

    Example:
        >>> same = np.array([True, False, True])
        >>> example_interval([(same, same)])
        Interval(low=0.0, high=0.0, coverage=0.95)
    """
    differences = [arm.astype(np.float64) - baseline.astype(np.float64) for baseline, arm in pairs]
    centre = float(np.mean([d.mean() for d in differences]))
    error = math.sqrt(sum(float(d.var(ddof=1)) / len(d) for d in differences)) / len(differences)
    return Interval(centre - 1.959964 * error, centre + 1.959964 * error, CONFIDENCE)
