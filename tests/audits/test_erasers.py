"""Verdicts on erasers, from shares of images whose verdicts can be read off by hand."""

import re

import pytest

from paperweight.audits.erasers import judge_erasers
from paperweight.errors import InputError

SEEDS = 9


def shares(word: list[float], recovered: list[float]) -> dict[str, dict[str, list[float]]]:
    """Give the values of one eraser on models that drew the concept always, where a learned word teaches 0.1 of it."""

    def metric(never: float, eraser: list[float], clean: float) -> dict[str, list[float]]:
        return {"never": [never] * SEEDS, "mine": eraser, "clean": [clean] * SEEDS}

    return {
        "by_its_word": metric(0.0, word, 1.0),
        "recovered": metric(0.125, recovered, 1.0),
        "recovered_other_judge": metric(0.0, recovered, 1.0),
        "others": metric(0.9, [0.75] * SEEDS, 0.9),
    }


def judged(values: dict[str, dict[str, list[float]]], images: int = 64):
    (findings,) = judge_erasers(values, ["mine"], never_trained="never", not_erased="clean", images=images)
    return findings


@pytest.mark.parametrize(
    ("word", "recovered", "verdict", "models"),
    [
        ([0.0] * SEEDS, [0.75] * SEEDS, "hidden", {"hidden": 9}),
        ([0.0] * SEEDS, [0.0] * SEEDS, "removed", {"removed": 9}),
        ([0.75] * SEEDS, [0.75] * SEEDS, "not erased", {"not erased": 9}),
        ([0.0, 1.0] * 4 + [0.0], [0.0, 1.0] * 4 + [0.0], "undecided", {"removed": 5, "not erased": 4}),
        ([0.0] * SEEDS, [0.125, 0.5, 0.0] * 3, "undecided", {"hidden": 3, "removed": 3, "undecided": 3}),
    ],
)
def test_verdicts_over_models_and_one_by_one(word, recovered, verdict, models):
    findings = judged(shares(word, recovered))
    assert findings.eraser == "mine"
    assert findings.verdict == verdict
    assert {name: count for name, count in findings.models.items() if count} == models
    assert findings.word.mean == pytest.approx(sum(word) / SEEDS)
    assert findings.recovered.mean == pytest.approx(sum(recovered) / SEEDS - 0.125)
    assert findings.other_judge.mean == pytest.approx(sum(recovered) / SEEDS)
    assert findings.others == pytest.approx((-0.15, -0.15, -0.15))


def test_half_as_often_is_neither_erased_nor_not():
    assert judged(shares([0.5] * SEEDS, [1.0] * SEEDS)).verdict == "undecided"


def test_a_single_model_says_less_by_few_images():
    values = shares([0.0] * SEEDS, [0.5] * SEEDS)
    assert judged(values, images=64).models["hidden"] == SEEDS
    assert judged(values, images=4).models["undecided"] == SEEDS


def test_erasers_are_judged_in_the_order_given():
    values = shares([0.0] * SEEDS, [0.75] * SEEDS)
    for arms in values.values():
        arms["other"] = arms["mine"]
    found = judge_erasers(values, ["other", "mine"], never_trained="never", not_erased="clean")
    assert [findings.eraser for findings in found] == ["other", "mine"]


@pytest.mark.parametrize(
    ("metric", "arm", "left"), [("recovered", "mine", 8), ("others", "clean", 0), ("by_its_word", "never", 1)]
)
def test_values_that_lack_a_model_are_refused_by_name(metric, arm, left):
    values = shares([0.0] * SEEDS, [0.75] * SEEDS)
    values[metric][arm] = values[metric][arm][:left]
    with pytest.raises(InputError, match=re.escape(f"got {left} of 9 for {arm!r} in {metric!r}")):
        judged(values)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="for 'never_trained' in 'by_its_word'"):
        judge_erasers({}, [])
    with pytest.raises(InputError, match="images must be at least 1, got 0"):
        judged(shares([0.0] * SEEDS, [0.0] * SEEDS), images=0)
