"""The plan of a screen: it fits its time, and what it spends adds up."""

import json
import math
from pathlib import Path

import pytest

from paperweight.screens.plan import PAIRS, RACE_RATES, RACE_SEEDS, Costs, affordable, planned
from paperweight.screens.screen import _Kept
from paperweight.studies.screening import OPTIMIZERS

ROOM = {"seconds": 600, "jobs": 2, "recipes": 7, "examples": 10_000, "batch_size": 64}


@pytest.mark.parametrize("seconds", [50.0, 600.0, 6_000.0])
@pytest.mark.parametrize("recipes", [1, 7, 40])
@pytest.mark.parametrize("step", [0.001, 0.01])
def test_a_plan_takes_no_more_than_its_time_and_most_of_it(seconds: float, recipes: int, step: float) -> None:
    costs = Costs(step=step, fixed=0.1)
    plan = planned(costs, seconds=seconds, jobs=2, recipes=recipes, examples=10**6, batch_size=64)
    ratio = 1.5
    tries = plan.tries * (costs.trial(plan.try_steps) + recipes * costs.trial(plan.try_steps, ratio))
    tries += plan.tries * len(OPTIMIZERS) * costs.trial(plan.race_steps)
    race = RACE_SEEDS * RACE_RATES * (costs.trial(plan.race_steps) + recipes * costs.trial(plan.race_steps, ratio))
    full = PAIRS * (3 * costs.trial(plan.steps) + min(8, recipes) * costs.trial(plan.steps, ratio))
    if plan.steps > 60:
        assert 0.7 * 0.92 * 2 * seconds < tries + race + full <= 0.92 * 2 * seconds
    assert plan.try_steps < plan.race_steps < plan.steps
    assert {steps % 20 for steps in (plan.try_steps, plan.race_steps, plan.steps)} == {0}


def test_a_plan_is_found_again_and_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    costs, plan = Costs(0.01, 0.1), planned(Costs(0.01, 0.1), **ROOM)
    path = tmp_path / "a.plan.json"
    _Kept(path).write((costs, plan), [], 11.0)
    assert _Kept(path).waves == ()
    _Kept(path).write((costs, plan), [["one", "two"], ["three"]], 12.0)
    kept = _Kept(path)
    assert (kept.planned, kept.waves, kept.spent) == ((costs, plan), (("one", "two"), ("three",)), 12.0)
    whole = json.loads(path.read_text())
    damaged = [
        {**whole, "spent": math.nan},
        {**whole, "spent": None},
        {**whole, "costs": {"step": "fast", "fixed": 0.1}},
        {**whole, "plan": {**whole["plan"], "steps": -60}},
        {**whole, "plan": {**whole["plan"], "steps": 60.5}},
        {**whole, "plan": []},
        {**whole, "waves": 3},
        {**whole, "waves": [3]},
        {**whole, "waves": [[3]]},
        [whole],
    ]
    for text in ["", "{", *map(json.dumps, damaged)]:
        path.write_text(text)
        kept = _Kept(path)
        assert (kept.planned, kept.waves, kept.spent) == (None, (), 0.0), text


def test_small_data_are_passed_over_a_hundred_times_at_most() -> None:
    plan = planned(Costs(0.0001, 0.0), seconds=600, jobs=2, recipes=7, examples=640, batch_size=64)
    assert plan.steps == 1000


def test_as_many_recipes_are_confirmed_as_have_time() -> None:
    costs = Costs(step=0.01, fixed=0.0)
    plan = planned(costs, seconds=600, jobs=2, recipes=40, examples=10**6, batch_size=64)
    usual = [PAIRS] * 40
    count = affordable(costs, plan, seconds=500, jobs=2, ratios=[1.0] * 40, pairs=usual)
    assert PAIRS * costs.trial(plan.steps) * (3 + count) <= 1000 < PAIRS * costs.trial(plan.steps) * (4 + count)
    slow = affordable(costs, plan, seconds=500, jobs=2, ratios=[8.0] * 40, pairs=usual)
    assert 1 <= slow < count
    assert PAIRS * costs.trial(plan.steps) * (3 + 8 * slow) <= 1000
    more = affordable(costs, plan, seconds=500, jobs=2, ratios=[8.0] * 40, pairs=[PAIRS, *[3 * PAIRS] * 39])
    assert more == 1 < slow
    assert affordable(costs, plan, seconds=0, jobs=2, ratios=[1.0], pairs=[PAIRS]) == 0
    assert affordable(costs, plan, seconds=500, jobs=2, ratios=[], pairs=[]) == 0
