"""What recalled keys would be had they never been shown: p-values of records and of all records, and expected counts.

Keys are independent of each other and of everything else, and uniform, so that nothing need be assumed of model, images
or estimates: the p-values are exact for one estimate a record, and by Monte Carlo for several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paperweight.marks.scores import ROUNDING, Floats, Keys, checked, distances, null_probability

__all__ = ["NullCount", "draw_keys", "null_counts", "record_p_values", "total_p"]

_CELLS = 4_000_000
_APART = 2.0


@dataclass(frozen=True, slots=True)
class NullCount:
    """How many records would be within a distance, had no key been shown.

    Args:
        delta: The distance.
        mean: The expected count.
        low: The lower end of the range that holds the count with 95% probability.
        high: Its upper end.
    """

    delta: float
    mean: float
    low: int
    high: int


def draw_keys(generator: np.random.Generator, shape: tuple[int, ...], levels: int) -> Floats:
    """Draw keys, rounded to levels if there are any."""
    keys = generator.random(shape)
    return np.rint(keys * (levels - 1)) / (levels - 1) if levels else keys


def _null_scores(estimates: Floats, counts: NDArray[np.int64], draws: Floats) -> Floats:
    """Give the scores (B, N) that the estimates (R, N) have with keys (B, N, D) of which each record has ``counts``."""
    used = np.where(np.arange(draws.shape[2]) < counts[:, None], draws, np.inf)
    total = np.zeros(draws.shape[:2])
    for repeat in estimates:
        total += np.abs(repeat[:, None] - used).min(axis=2)
    return total / len(estimates)


@dataclass(frozen=True, slots=True, eq=False)
class _Null:
    """The law of a record's score under keys that were never shown: exact for one repeat, else by draws.

    ``drawn`` holds the scores of all draws, those of each record sorted and ``_APART`` above those of the one before.
    """

    estimates: Floats
    counts: NDArray[np.int64]
    levels: int
    drawn: Floats | None

    def p(self, scores: Floats) -> Floats:
        """Give P(score at most this) of each record, (N,); by draws (1 + number of them) / (1 + B)."""
        if self.drawn is None:
            return null_probability(self.estimates[0], scores, self.counts, self.levels)
        rows, each = np.arange(len(scores)), len(self.drawn) // len(scores)
        below = np.searchsorted(self.drawn, scores + ROUNDING + _APART * rows, "right")
        return (1 + below - each * rows) / (1 + each)

    def share_below(self, delta: float) -> Floats:
        """Give P(score below ``delta``) of each record, (N,)."""
        if self.drawn is None:
            below = delta - 2 * ROUNDING if self.levels else delta
            return null_probability(self.estimates[0], below, self.counts, self.levels)
        return (self.drawn.reshape(len(self.counts), -1) % _APART < delta).mean(axis=1)


def _null(
    estimates: Floats, counts: NDArray[np.int64], levels: int, draws: int, generator: np.random.Generator
) -> _Null:
    if len(estimates) == 1:
        return _Null(estimates, counts, levels, None)
    chunk = max(1, _CELLS // (estimates.shape[1] * int(counts.max())))
    parts = [
        _null_scores(
            estimates, counts, draw_keys(generator, (min(chunk, draws - at), len(counts), int(counts.max())), levels)
        )
        for at in range(0, draws, chunk)
    ]
    drawn = np.sort(np.concatenate(parts).T, axis=1) + _APART * np.arange(len(counts))[:, None]
    return _Null(estimates, counts, levels, drawn.ravel())


def record_p_values(
    estimates: ArrayLike, keys: Keys, *, levels: int = 0, draws: int = 1999, generator: np.random.Generator
) -> Floats:
    """Compute for each record the probability that keys which were never shown come as near as its own.

    For one repeat it is exact; for several, ``draws`` further sets of keys give (1 + those as near) / (1 + draws).

    Args:
        estimates: Recalled keys, (R, N).
        keys: The independently drawn keys of each record.
        levels: Number of levels that keys are rounded to, 0 for none.
        draws: Sets of keys drawn anew, for several repeats.
        generator: Draws them.

    Returns:
        The p-values, (N,): under the null each is at most a with probability at most a.

    Raises:
        ValueError: As `distances` does.

    Example:
        >>> record_p_values([[0.5, 0.2]], [(0.5,), (0.7,)], generator=np.random.default_rng(0))
        array([0. , 0.7])
    """
    values = checked(estimates, keys)
    null = _null(values, np.array([len(own) for own in keys]), levels, draws, generator)
    return null.p(distances(values, keys).score)


def total_p(
    estimates: ArrayLike,
    keys: Keys,
    *,
    levels: int = 0,
    permutations: int = 4999,
    draws: int = 1999,
    generator: np.random.Generator,
) -> float:
    """Test whether the keys recalled have anything to do with the true ones, over all records.

    The keys are dealt anew to the records, as they could as well have been dealt, and Fisher's combination, the sum of
    the logarithms of the record p-values, is computed for each deal.

    Args:
        estimates: Recalled keys, (R, N).
        keys: The independently drawn keys of each record.
        levels: Number of levels that keys are rounded to, 0 for none.
        permutations: Number of deals.
        draws: As in `record_p_values`.
        generator: Deals the keys.

    Returns:
        (1 + deals with a sum at most that of the true keys) / (1 + deals): valid for any model and number of records.

    Raises:
        ValueError: As `distances` does.

    Example:
        >>> keys = [(k / 255,) for k in range(0, 250, 10)]
        >>> total_p([[k for k, in keys]], keys, levels=256, permutations=99, generator=np.random.default_rng(0))
        0.01
    """
    values = checked(estimates, keys)
    counts = np.array([len(own) for own in keys])
    null = _null(values, counts, levels, draws, generator)
    pool = np.concatenate([np.asarray(own, np.float64) for own in keys])
    ends = np.cumsum(counts)
    slots = np.minimum(np.arange(counts.max()), (counts - 1)[:, None]) + (ends - counts)[:, None]
    true = _fisher(null, pool[slots])
    below = sum(_fisher(null, generator.permutation(pool)[slots]) <= true + 1e-9 for _ in range(permutations))
    return (1 + below) / (1 + permutations)


def _fisher(null: _Null, table: Floats) -> float:
    """Give the sum of log p for keys (N, D), where a record with fewer repeats its last."""
    score = np.abs(null.estimates[:, :, None] - table).min(axis=2).mean(axis=0)
    return float(np.log(np.maximum(null.p(score), 1e-300)).sum())


def null_counts(
    estimates: ArrayLike,
    keys: Keys,
    deltas: Sequence[float],
    *,
    levels: int = 0,
    draws: int = 1999,
    generator: np.random.Generator,
) -> list[NullCount]:
    """Compute how many records would be within each distance, had no key been shown.

    The count is a sum of independent events, one a record, whose probabilities differ (Poisson's binomial law); mean
    and range are those of that law, by convolution.

    Args:
        estimates: Recalled keys, (R, N).
        keys: The independently drawn keys of each record; only their numbers count.
        deltas: The distances.
        levels: Number of levels that keys are rounded to, 0 for none.
        draws: As in `record_p_values`.
        generator: Draws keys, for several repeats.

    Returns:
        A count a distance.

    Raises:
        ValueError: As `distances` does.

    Example:
        >>> null_counts([[0.5] * 100], [(0.1,)] * 100, [0.1], generator=np.random.default_rng(0))
        [NullCount(delta=0.1, mean=20.0, low=12, high=28)]
    """
    values = checked(estimates, keys)
    null = _null(values, np.array([len(own) for own in keys]), levels, draws, generator)
    found: list[NullCount] = []
    for delta in deltas:
        shares = null.share_below(delta)
        below = np.cumsum(_poisson_binomial(shares))
        low, high = (int(np.searchsorted(below, share)) for share in (0.025, 0.975))
        found.append(NullCount(delta, round(float(shares.sum()), 9), low, high))
    return found


def _poisson_binomial(shares: Floats) -> Floats:
    """Give the probabilities of 0 to N successes."""
    if len(shares) == 1:
        return np.array([1 - shares[0], shares[0]])
    half = len(shares) // 2
    return np.convolve(_poisson_binomial(shares[:half]), _poisson_binomial(shares[half:]))
