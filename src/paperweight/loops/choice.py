"""The choice among tries, as tuning makes it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, final

from paperweight.loops.searching import running_search

__all__ = ["Tuned", "best_of", "tune"]

Try = TypeVar("Try")


@final
@dataclass(frozen=True, eq=False)
class Tuned(Generic[Try]):
    """What every value that was tried gave, and which was chosen.

    Attributes:
        tries: Value to what it gave, in the order of the grid; of a `paperweight.loops.Search` in ascending order.
        scores: Value to its score.
        value: The chosen value.
    """

    tries: Mapping[float, Try]
    scores: Mapping[float, float]
    value: float

    @property
    def best(self) -> Try:
        """What the chosen value gave."""
        return self.tries[self.value]

    def by(self, score: Callable[[Try], float], *, better: Literal["higher", "lower"]) -> "Tuned[Try]":
        """Return the same tries, of which another score chooses.

        Args:
            score: Gives the score of a try.
            better: Which direction is better.
        """
        return _chosen(self.tries, {value: score(tried) for value, tried in self.tries.items()}, better)

    def curve(self, score: Callable[[Try], float] | None = None) -> list[tuple[float, float]]:
        """Return points (log10 of the value, score) for a report, without those that are not finite.

        Args:
            score: Gives what is drawn of a try; by default the score that it was chosen by.
        """
        scores = self.scores if score is None else {value: score(tried) for value, tried in self.tries.items()}
        return [(math.log10(value), drawn) for value, drawn in scores.items() if math.isfinite(drawn)]


def tune(
    grid: Iterable[float],
    attempt: Callable[[float], Try],
    score: Callable[[Try], float],
    *,
    better: Literal["higher", "lower"],
) -> Tuned[Try]:
    """Try every value of a grid and choose the best, by the rule of `best_of`.

    Inside a `paperweight.loops.Search` values between the ends of the grid are tried in place of it.

    Args:
        grid: The values, at least one.
        attempt: Called with each value in turn, before any score is asked for; in a search the score of one try is
            asked for before the next.
        score: Gives the score of what ``attempt`` returned, on validation data.
        better: Which direction is better.

    Returns:
        All tries, their scores, and the chosen value.

    Raises:
        ValueError: If the grid is empty, or ``better`` is neither of the two.

    Example:
        >>> tuned = tune((0.1, 1.0, 10.0), lambda rate: (rate - 2) ** 2, lambda loss: loss, better="lower")
        >>> tuned.value, tuned.best, tuned.curve()[0]
        (1.0, 1.0, (-1.0, 3.61))
    """
    search = running_search()
    if search is not None:
        return _chosen(*search.over(grid, attempt, score, better=better), better)
    tries = {value: attempt(value) for value in grid}
    return _chosen(tries, {value: score(tried) for value, tried in tries.items()}, better)


def _chosen(
    tries: Mapping[float, Try], scores: Mapping[float, float], better: Literal["higher", "lower"]
) -> Tuned[Try]:
    return Tuned(tries, scores, best_of(scores, scores.__getitem__, better=better))


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
