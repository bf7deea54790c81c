"""A search gives each grid the same number of tries, at values between its ends, each scored before the next."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from statistics import mean

import numpy as np
import pytest
import torch

from paperweight.errors import InputError
from paperweight.loops import Search, Tuned, check_search, tune
from paperweight.loops.searching import is_geometric

GRID = (0.001, 0.01, 0.1, 1.0)


def far_from(optimum: float) -> Callable[[float], float]:
    return lambda rate: math.log(rate / optimum) ** 2


def searched(grid: tuple[float, ...], attempt: Callable[[float], float], tries: int = 6, seed: int = 0) -> Tuned[float]:
    with Search(tries, seed):
        return tune(grid, attempt, lambda loss: loss, better="lower")


@pytest.mark.parametrize(
    ("grid", "geometric"),
    [
        (GRID, True),
        ((0.03, 0.003, 0.01), True),
        ((0.25, 0.35, 0.5, 0.7, 1.0, 1.4), True),
        ((0.1, 1.0), True),
        ((0.6, 0.8, 0.9, 0.97), False),
        ((1.0, 2.0, 3.0), False),
        ((0.0, 0.1, 1.0), False),
        ((1, 10, 100), False),
    ],
)
def test_a_grid_is_geometric_where_its_ratios_are_more_alike_than_its_distances(
    grid: tuple[float, ...], geometric: bool
) -> None:
    assert is_geometric(grid) is geometric


@pytest.mark.parametrize("grid", [GRID, (0.003, 1.0), (1.0, 0.5, 0.003), (0.2, 0.4, 0.6, 0.8), (-1.0, 0.0, 2.0)])
def test_each_grid_has_as_many_tries_its_ends_first_and_each_is_scored_before_the_next(grid: tuple[float, ...]) -> None:
    events: list[tuple[str, float]] = []

    def attempt(value: float) -> float:
        events.append(("tried", value))
        return value

    def score(value: float) -> float:
        events.append(("scored", value))
        return (value - 0.3) ** 2

    with Search(7, seed=3) as search:
        tuned = tune(grid, attempt, score, better="lower")
    values = [value for _, value in events[::2]]
    assert events == [event for value in values for event in (("tried", value), ("scored", value))]
    assert values[:2] == [min(grid), max(grid)]
    assert list(tuned.tries) == list(tuned.scores) == sorted(set(values))
    assert len(tuned.tries) == 7
    assert all(min(grid) <= value <= max(grid) for value in values)
    assert tuned.value == min(values, key=lambda value: (value - 0.3) ** 2)
    assert search.grids == 1


def test_outside_a_search_the_grid_is_tried_and_by_tries_nothing_anew() -> None:
    made: list[float] = []

    def attempt(value: float) -> float:
        made.append(value)
        return value

    with Search(5, seed=0) as search:
        tuned = tune(GRID, attempt, far_from(0.05), better="lower")
        other = tuned.by(far_from(0.5), better="lower")
    assert (len(made), search.grids) == (5, 1)
    assert other.tries == tuned.tries
    assert other.value == min(made, key=far_from(0.5))
    made.clear()
    tune(GRID, attempt, far_from(0.05), better="lower")
    assert made == list(GRID)


def test_a_search_is_repeated_by_its_seed_and_draws_from_no_global_stream() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    first = searched(GRID, far_from(0.05), 8)
    drawn = torch.rand(1).item(), float(np.random.rand()), random.random()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    assert drawn == (torch.rand(1).item(), float(np.random.rand()), random.random())
    with Search(8, seed=0):
        again = [tune(GRID, far_from(0.05), lambda loss: loss, better="lower") for _ in range(2)]
    assert [dict(tuned.scores) for tuned in again] == [dict(first.scores)] * 2


def test_the_best_between_the_values_of_a_grid_is_found_nearer_than_by_the_grid() -> None:
    optima = [0.002, 0.005, 0.017, 0.06, 0.2, 0.55]
    grid = tuple(np.geomspace(0.001, 1.0, 8).tolist())

    def distances(search: Callable[[float], float]) -> float:
        return mean(abs(math.log(search(optimum) / optimum)) for optimum in optima)

    by_grid = distances(lambda optimum: tune(grid, far_from(optimum), lambda loss: loss, better="lower").value)
    assert distances(lambda optimum: searched(grid, far_from(optimum), 8).value) < by_grid / 2


def test_where_a_value_is_suggested_again_one_beside_the_best_is_tried() -> None:
    tuned = searched((0.001, 1.0), far_from(0.738), 12, seed=2)  # Optuna suggests 1.0 again and again
    order = sorted(tuned.tries)
    assert abs(math.log(tuned.value / 0.738)) < 0.05
    assert sum(after / before < 1.001 for before, after in pairwise(order)) == 0


def test_a_geometric_grid_is_searched_by_ratio_and_another_by_distance() -> None:
    by_ratio = searched((1e-4, 1e-2, 1.0), far_from(1e-3), 8)
    assert abs(math.log(by_ratio.value / 1e-3)) < 0.5
    by_distance = searched((0.0, 0.5, 1.0), lambda value: (value - 0.35) ** 2, 8)
    assert abs(by_distance.value - 0.35) < 0.05


def test_whole_numbers_stay_whole_and_none_is_tried_twice() -> None:
    tuned = searched((4, 6, 8, 10, 12), lambda number: (number - 9) ** 2, 9)
    assert list(tuned.tries) == [*range(4, 13)]
    assert tuned.value == 9
    fewer = searched((4, 6, 8, 10, 12), lambda number: (number - 9) ** 2, 6)
    assert len(fewer.tries) == 6
    assert all(isinstance(number, int) for number in fewer.tries)
    assert fewer.value == 9
    with pytest.raises(InputError, match="asks for 10 tries, and between 4 and 12 are 9 whole numbers; give at most 9"):
        searched((4, 6, 8, 10, 12), lambda number: 0.0, 10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_scores_that_are_not_finite_are_the_worst_and_the_search_leaves_them(bad: float, better: str) -> None:
    sign = 1.0 if better == "lower" else -1.0

    def score(rate: float) -> float:
        return bad if rate > 0.05 else sign * math.log(rate / 0.01) ** 2

    with Search(8, seed=0):
        tuned = tune(GRID, lambda rate: rate, score, better=better)  # type: ignore[arg-type]
    assert len(tuned.tries) == 8
    assert abs(math.log(tuned.value / 0.01)) < 1
    assert sum(rate > 0.05 for rate in tuned.tries) <= 4


def test_if_no_score_is_finite_all_tries_are_made() -> None:
    assert len(searched(GRID, lambda rate: math.nan).tries) == 6


def test_one_value_is_no_search_and_may_be_tuned_within_another_which_two_may_not() -> None:
    with Search(3, seed=0) as search:
        alone = tune((0.1,), lambda rate: rate, lambda loss: loss, better="lower")
        assert (list(alone.tries), search.grids) == ([0.1], 0)

        def inner(*grid: float) -> Callable[[float], float]:
            return lambda rate: tune(grid, lambda other: rate * other, lambda loss: loss, better="lower").best

        assert len(tune(GRID, inner(2.0), lambda loss: loss, better="lower").tries) == 3
        with pytest.raises(InputError, match=r"tunes one value for each try of another.*weigh it without --tune"):
            tune(GRID, inner(2.0, 3.0), lambda loss: loss, better="lower")
        assert len(tune(GRID, far_from(0.1), lambda loss: loss, better="lower").tries) == 3
        with pytest.raises(ValueError, match="tries must hold at least one"):
            tune((), far_from(0.1), lambda loss: loss, better="lower")


def test_too_few_tries_and_a_missing_optuna_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="tune must be at least 3 tries, got 2: the smallest and the largest value"):
        Search(2, seed=0)
    monkeypatch.setattr("paperweight.loops.searching.find_spec", lambda _: None)
    for refused in (check_search, lambda tries: Search(tries, seed=0)):
        with pytest.raises(InputError, match=r"not installed; install the extra: pip install 'paperweight-ml\[tune\]'"):
            refused(8)
