"""The choice among tries, as tuning makes it."""

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

__all__ = ["best_of"]

Try = TypeVar("Try")


def best_of(tries: Iterable[Try], score: Callable[[Try], float], *, better: Literal["higher", "lower"]) -> Try:
    """Return the try with the best score; one whose score is not finite, as after a divergence, is the worst.

    Args:
        tries: What to choose among, at least one.
        score: Gives the score of a try.
        better: Which direction is better.

    Returns:
        The best try, of equal ones the first.

    Raises:
        ValueError: If there is no try, or ``better`` is neither of the two.

    Example:
        >>> losses = {0.1: 0.5, 0.3: 0.2, 1.0: float("nan")}
        >>> best_of(losses, lambda rate: losses[rate], better="lower")
        0.3
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better must be 'higher' or 'lower', got {better!r}")
    attempts = list(tries)
    if not attempts:
        raise ValueError("tries must hold at least one, got none")
    sign = 1.0 if better == "lower" else -1.0

    def badness(attempt: Try) -> float:
        value = sign * score(attempt)
        return value if math.isfinite(value) else math.inf

    return min(attempts, key=badness)
