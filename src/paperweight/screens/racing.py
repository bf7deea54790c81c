"""The race of a screen: which rate is tried next, and which recipes go on. It looks at validation examples alone."""

import math
from collections.abc import Mapping, Sequence

__all__ = ["best_rate", "far_behind", "hopeless", "leaders", "next_rates"]

_FACTOR = 3.0
_HALF_WIDTHS = 2.0
_CHANCE = 3.0  # standard errors of a difference of two accuracies on as many examples, were they independent
_MARGIN = 0.01


def next_rates(scores: Mapping[float, float], start: float) -> list[float]:
    """Return the learning rates to try next: first three, a factor of three apart, then one at a time.

    Each further one goes on beyond the best rate where that is the smallest or the largest so far, and otherwise lies
    between it and the better one of its neighbours.

    Args:
        scores: Rate to its score, of those that were tried; higher is better, one that is not finite the worst.
        start: The rate in the middle of the first three.

    Example:
        >>> next_rates({}, 0.1)
        [0.1, 0.03333, 0.3]
        >>> next_rates({0.03333: 0.5, 0.1: 0.7, 0.3: 0.8}, 0.1)
        [0.9]
        >>> next_rates({0.03333: 0.5, 0.1: 0.8, 0.3: 0.7}, 0.1)
        [0.1732]
    """
    if not scores:
        return [_rounded(start), _rounded(start / _FACTOR), _rounded(start * _FACTOR)]
    rates = sorted(scores)
    place = rates.index(best_rate(scores))
    if place == 0:
        return [_rounded(rates[0] / _FACTOR)]
    if place == len(rates) - 1:
        return [_rounded(rates[-1] * _FACTOR)]
    neighbours = {rate: scores[rate] for rate in (rates[place - 1], rates[place + 1])}
    return [_rounded(math.sqrt(rates[place] * best_rate(neighbours)))]


def best_rate(scores: Mapping[float, float]) -> float:
    """Return the rate with the highest score, of equal ones the first tried.

    Args:
        scores: Rate to its score; one that is not finite is the worst.
    """
    return max(scores, key=lambda rate: scores[rate] if math.isfinite(scores[rate]) else -math.inf)


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def hopeless(gains: Mapping[str, Sequence[float]]) -> set[str]:
    """Return the recipes whose mean gain lies below zero by more than two standard errors.

    The standard error of a mean comes from the spread of the gains of each recipe about its own mean, over all recipes
    together: each has too few pairs of its own. A recipe that failed in a pair is hopeless, and no part of that spread.

    Args:
        gains: Recipe to its gains in validation accuracy over the baseline, one a pair; minus infinity where it failed.

    Example:
        >>> sorted(hopeless({"a": [0.01, 0.02], "b": [-0.2, -0.21], "c": [0.0, -0.02]}))
        ['b']
    """
    whole = {name: each for name, each in gains.items() if all(map(math.isfinite, each))}
    means = {name: sum(each) / len(each) for name, each in whole.items()}
    squares = sum((gain - means[name]) ** 2 for name, each in whole.items() for gain in each)
    free = sum(len(each) - 1 for each in whole.values())
    deviation = math.sqrt(squares / free) if free else 0.0
    behind = {name for name, each in whole.items() if means[name] < -_HALF_WIDTHS * deviation / math.sqrt(len(each))}
    return behind | (set(gains) - set(whole))


def leaders(gains: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the recipes that are not hopeless, the one with the highest mean gain first.

    Args:
        gains: As `hopeless` takes them.

    Example:
        >>> leaders({"a": [0.01, 0.02], "b": [-0.2, -0.21], "c": [0.03, 0.02]})
        ['c', 'a']
    """
    lost = hopeless(gains)
    return sorted((name for name in gains if name not in lost), key=lambda name: -sum(gains[name]) / len(gains[name]))


def far_behind(accuracy: float, baseline: float, examples: int) -> str:
    """Return why a recipe need not race after its tries; nothing where it is not far behind the baseline.

    Args:
        accuracy: Its validation accuracy at its best rate.
        baseline: That of the baseline at its own.
        examples: Number of validation examples, the same for both.

    Example:
        >>> far_behind(0.60, 0.80, 500)
        'at its best rate it was 0.2 below the baseline after the tries, more than 0.0969, what chance explains'
        >>> far_behind(0.79, 0.80, 500)
        ''
    """
    accuracy = accuracy if math.isfinite(accuracy) else 0.0
    middle = min(max((accuracy + baseline) / 2, 0.0), 1.0)
    chance = _CHANCE * math.sqrt(2 * middle * (1 - middle) / examples) + _MARGIN
    if baseline - accuracy <= chance:
        return ""
    return (
        f"at its best rate it was {baseline - accuracy:.3g} below the baseline after the tries, more than "
        f"{chance:.3g}, what chance explains"
    )
