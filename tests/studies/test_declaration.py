"""What a study declares: rules that keep a verdict meaningful."""

import math
from typing import Any

import pytest

from paperweight.errors import InputError
from paperweight.studies import Metric, Study


def metric(**changes: Any) -> Metric:
    return Metric(**({"label": "loss", "unit": "", "better": "lower", "minimal_effect": 0.1} | changes))


def study(**changes: Any) -> Study:
    plain = {
        "paper": "example",
        "question": "?",
        "claim": ".",
        "arms": {"base": "without", "method": "with", "control": "other"},
        "metrics": {"loss": metric()},
        "headline": "loss",
        "tuned": "nothing",
        "limits": "a toy",
    }
    return Study(**(plain | changes))


def test_first_arm_is_the_baseline_and_second_the_method() -> None:
    assert (study().baseline, study().method) == ("base", "method")


@pytest.mark.parametrize("effect", [0.0, -0.1, math.nan])
def test_minimal_effect_must_be_positive(effect: float) -> None:
    with pytest.raises(InputError, match="minimal_effect of 'loss' must be positive"):
        metric(minimal_effect=effect)


@pytest.mark.parametrize("arms", [{}, {"base": "alone"}])
def test_one_arm_is_no_comparison(arms: dict[str, str]) -> None:
    with pytest.raises(InputError, match="arms of study 'example' must be at least two"):
        study(arms=arms)


def test_headline_must_be_a_metric() -> None:
    with pytest.raises(InputError, match=r"headline of study 'example' must be one of \['loss'\], got 'accuracy'"):
        study(headline="accuracy")


def test_a_study_says_how_many_pairs_it_takes() -> None:
    assert study().seeds == 8
    assert study(seeds=16).seeds == 16
    with pytest.raises(InputError, match="seeds of study 'example' must be at least 1, got 0"):
        study(seeds=0)
