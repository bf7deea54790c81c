import math

import pytest

from paperweight.loops import best_of, tune


def test_chooses_in_the_direction_asked_the_first_of_equals():
    scores = {"a": 2.0, "b": 1.0, "c": 3.0, "d": 1.0, "e": 3.0}
    assert best_of(scores, scores.__getitem__, better="lower") == "b"
    assert best_of(scores, scores.__getitem__, better="higher") == "c"


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_the_worst(better, bad):
    assert best_of([bad, 5.0, bad], lambda score: score, better=better) == 5.0
    first, second = (0, bad), (1, bad)
    assert best_of([first, second], lambda pair: pair[1], better=better) is first


def test_refuses_no_tries_and_other_directions_and_passes_on_the_score_s_own_error():
    with pytest.raises(ValueError, match="tries must hold at least one, got none"):
        best_of([], lambda score: score, better="lower")
    with pytest.raises(ValueError, match="better must be 'higher' or 'lower', got 'up'"):
        best_of([1.0], lambda score: score, better="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="invalid literal"):
        best_of(["x"], int, better="lower")


def test_the_same_tries_may_be_chosen_by_another_score_and_are_not_made_again():
    made = []

    def attempt(rate):
        made.append(rate)
        return {"loss": (rate - 1) ** 2, "early": abs(rate - 3)}

    tuned = tune((1.0, 2.0, 3.0), attempt, lambda tried: tried["loss"], better="lower")
    early = tuned.by(lambda tried: tried["early"], better="lower")
    assert (tuned.value, early.value, early.scores[3.0]) == (1.0, 3.0, 0.0)
    assert early.best is tuned.tries[3.0]
    assert made == [1.0, 2.0, 3.0]
