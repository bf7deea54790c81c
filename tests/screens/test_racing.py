"""The race against hand-computed cases: rates to try next, the hopeless, those far behind, and the order."""

import math

import pytest

from paperweight.screens.racing import best_rate, far_behind, hopeless, leaders, next_rates


def tried(curve, start: float, count: int) -> dict[float, float]:
    scores: dict[float, float] = {}
    while len(scores) < count:
        for rate in next_rates(scores, start)[: count - len(scores)]:
            if rate in scores:  # no finer one is told apart
                return scores
            scores[rate] = curve(rate)
    return scores


@pytest.mark.parametrize("best", [1e-5, 3e-4, 0.01, 0.02, 0.4, 50.0])
def test_tries_close_in_on_the_best_rate_from_any_start(best: float) -> None:
    scores = tried(lambda rate: -abs(math.log(rate / best)), 0.01, 18)
    assert abs(math.log(best_rate(scores) / best)) < math.log(1.2)


def test_a_rate_that_diverges_is_never_the_best_nor_ends_the_tries() -> None:
    scores = tried(lambda rate: -math.inf if rate > 0.02 else rate, 0.01, 5)
    assert best_rate(scores) <= 0.02
    assert len(scores) == 5
    assert best_rate({0.1: math.nan, 0.2: -math.inf, 0.3: 0.1}) == 0.3


def test_of_equal_rates_the_first_tried_is_the_best() -> None:
    assert best_rate({0.3: 0.5, 0.1: 0.5, 0.2: 0.4}) == 0.3


def test_hopeless_is_who_is_behind_by_more_than_two_pooled_standard_errors() -> None:
    gains = {"a": [0.0, 0.02], "b": [-0.0099, -0.0299], "c": [-0.03, -0.01]}
    # each has a sum of squares of 2e-4 about its mean, in all over 3 degrees of freedom: the error of a mean is 0.01
    assert hopeless({**gains, "c": [-0.0299, -0.0099]}) == set()
    assert hopeless({**gains, "c": [-0.0301, -0.0101]}) == {"c"}


def test_who_fails_in_the_race_is_hopeless_and_saves_no_one_who_is() -> None:
    gains = {"a": [0.0, 0.02], "b": [-0.0099, -0.0299], "c": [-0.0301, -0.0101]}
    failed = {**gains, "d": [-math.inf, 0.3], "e": [-math.inf, -math.inf]}
    assert hopeless(failed) == {"c", "d", "e"}
    assert leaders(failed) == ["a", "b"]


def test_leaders_are_ordered_by_mean_gain_without_the_hopeless() -> None:
    gains = {"a": [0.0, 0.02], "b": [0.03, 0.01], "c": [-0.3, -0.31]}
    assert leaders(gains) == ["b", "a"]


def test_who_is_far_behind_is_told_by_how_much() -> None:
    chance = 3 * math.sqrt(2 * 0.85 * 0.15 / 400) + 0.01
    assert far_behind(0.85 - chance / 2 + 1e-3, 0.85 + chance / 2 - 1e-3, 400) == ""
    assert far_behind(0.85 - chance / 2 - 1e-3, 0.85 + chance / 2 + 1e-3, 400) != ""
    assert "0.9 below" in far_behind(-math.inf, 0.9, 400)
