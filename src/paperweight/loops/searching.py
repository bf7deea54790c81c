"""A search by Optuna, which takes the place of the grids of `paperweight.loops.tune`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, final

from paperweight.errors import InputError

__all__ = ["Search", "check_search", "is_geometric", "running_search"]

Try = TypeVar("Try")

_FEWEST_TRIES = 3
_NAME = "value"
_SAME = 0.01
"""The share of the range within which two values are as good as the same."""
_running: ContextVar["Search | None"] = ContextVar("search", default=None)


def check_search(tries: int) -> None:
    """Refuse a search that cannot be made; Optuna is not imported.

    Args:
        tries: Number of tries.

    Raises:
        InputError: If there are fewer than 3, or Optuna is not installed.
    """
    if tries < _FEWEST_TRIES:
        raise InputError(
            f"tune must be at least {_FEWEST_TRIES} tries, got {tries}: the smallest and the largest value of the "
            "grid, and one between"
        )
    if find_spec("optuna") is None:
        raise InputError(
            "tune needs Optuna, which is not installed; install the extra: pip install 'paperweight-ml[tune]'"
        )


def running_search() -> "Search | None":
    """Return the search that takes the place of grids here, if there is one."""
    return _running.get()


def is_geometric(grid: Iterable[float]) -> bool:
    """Return whether the values of a grid are positive, not whole numbers, and rather equal in ratio than in distance.

    Args:
        grid: The values, in any order.

    Example:
        >>> is_geometric((0.003, 0.01, 0.03)), is_geometric((0.6, 0.8, 0.9)), is_geometric((4, 8, 16))
        (True, False, False)
    """
    values = sorted(set(grid))
    if values[0] <= 0 or _are_whole(values):
        return False
    steps = [after - before for before, after in pairwise(values)]
    ratios = [math.log(after / before) for before, after in pairwise(values)]
    return not steps or max(ratios) / min(ratios) <= max(steps) / min(steps)


@final
class Search:
    """Gives every grid that is tuned inside it the same number of tries, at values that Optuna suggests.

    The first two tries are the smallest and the largest value of the grid, so that a choice at its edge shows as one.
    Each other value is suggested between them by a Gaussian process on the ranks of all scores so far, on a logarithmic
    scale where the grid `is_geometric`; whole numbers stay whole, and none is tried twice. A grid of one value leaves
    nothing to search for, and is tried as it is.

    Args:
        tries: Number of tries, at least 3.
        seed: Seed of what Optuna draws, the same for every grid.

    Attributes:
        grids: How many grids have been searched.

    Raises:
        InputError: If there are fewer tries, or Optuna is not installed; inside, if a grid has fewer whole numbers than
            there are tries, or is tuned while another one is, so that arms would differ in tries.

    Example:
        >>> from paperweight.loops import tune
        >>> with Search(tries=8, seed=0) as search:
        ...     tuned = tune((0.01, 0.1, 1.0), lambda rate: abs(rate - 0.05), lambda loss: loss, better="lower")
        >>> search.grids, len(tuned.tries), 0.04 < tuned.value < 0.06
        (1, 8, True)
    """

    def __init__(self, tries: int, seed: int) -> None:
        check_search(tries)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.tries = tries
        self.grids = 0
        self._seed = seed % 2**32
        self._busy = False
        self._tokens: list[Token[Search | None]] = []
        self._suggested({0.0: 0.0, 1.0: 1.0}, (0.0, 1.0), self._sampler())  # loads what it needs

    @property
    def optuna(self) -> str:
        """Optuna's version."""
        return version("optuna")

    def __enter__(self) -> Self:
        self._tokens.append(_running.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.reset(self._tokens.pop())

    def over(
        self,
        grid: Iterable[float],
        attempt: Callable[[float], Try],
        score: Callable[[Try], float],
        *,
        better: Literal["higher", "lower"],
    ) -> tuple[dict[float, Try], dict[float, float]]:
        """Try values between the ends of a grid, each scored before the next is suggested.

        Args:
            grid: The values in whose place others are tried.
            attempt: Called with each value in turn.
            score: Gives the score of what ``attempt`` returned.
            better: Which direction is better.

        Returns:
            What each value gave, and its score, by the size of the values.
        """
        values = sorted(set(grid))
        if len(values) > 1:
            self._check(values)
            self.grids += 1
        sampler, sign = self._sampler(), 1.0 if better == "lower" else -1.0
        tries: dict[float, Try] = {}
        scores: dict[float, float] = {}
        busy, self._busy = self._busy, True
        try:
            while len(tries) < (self.tries if len(values) > 1 else len(values)):
                ends = [end for end in (values[0], values[-1]) if end not in tries]
                bad = {value: sign * found for value, found in scores.items()}
                value = ends[0] if ends else self._suggested(bad, values, sampler)
                tries[value] = attempt(value)
                scores[value] = score(tries[value])
        finally:
            self._busy = busy
        order = sorted(tries)
        return {value: tries[value] for value in order}, {value: scores[value] for value in order}

    def _check(self, values: Sequence[float]) -> None:
        if self._busy:
            raise InputError(
                "this study tunes one value for each try of another, so that arms would differ in tries; weigh it "
                "without --tune"
            )
        if _are_whole(values) and (most := values[-1] - values[0] + 1) < self.tries:
            raise InputError(
                f"tune asks for {self.tries} tries, and between {values[0]} and {values[-1]} are {most} whole numbers; "
                f"give at most {most}"
            )

    def _sampler(self) -> Any:
        from optuna.samplers import GPSampler

        return GPSampler(seed=self._seed, n_startup_trials=1)

    def _suggested(self, badness: Mapping[float, float], values: Sequence[float], sampler: Any) -> float:
        """Return a value that has not been tried, from what has been and how bad that was."""
        import optuna

        low, high = values[0], values[-1]
        if _are_whole(values):
            span: Any = optuna.distributions.IntDistribution(int(low), int(high))
        else:
            span = optuna.distributions.FloatDistribution(low, high, log=is_geometric(values))
        study = optuna.create_study(sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(params={_NAME: value}, distributions={_NAME: span}, value=rank)
                for value, rank in zip(badness, _ranks(badness.values()), strict=True)
            ]
        )
        return _untried(study.ask({_NAME: span}).params[_NAME], values, badness)


def _are_whole(values: Iterable[float]) -> bool:
    return all(isinstance(value, int) for value in values)


def _ranks(badness: Iterable[float]) -> list[float]:
    """Return how many of the finite scores are better than each; those that are not finite are the worst."""
    scores = [value if math.isfinite(value) else math.inf for value in badness]
    order = sorted(set(scores))
    return [float(order.index(value)) for value in scores]


def _untried(value: float, span: Sequence[float], badness: Mapping[float, float]) -> float:
    """Return a suggested value, or, where that is as good as tried, one beside the best: amid the wider gap."""
    best = min(badness, key=lambda tried: badness[tried] if math.isfinite(badness[tried]) else math.inf)
    if _are_whole(span):
        free = [number for number in range(int(span[0]), int(span[-1]) + 1) if number not in badness]
        return value if value in free else min(free, key=lambda number: abs(number - best))
    to, back = (math.log, math.exp) if is_geometric(span) else (float, float)
    nearest = min(abs(to(value) - to(tried)) for tried in badness)
    if nearest > _SAME * (to(span[-1]) - to(span[0])):
        return value
    _, before, after = max((to(b) - to(a), a, b) for a, b in pairwise(sorted(badness)) if best in (a, b))
    return back((to(before) + to(after)) / 2)
