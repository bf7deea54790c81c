"""The course of a screen over drawn accuracies: what helps is found, the hopeless are dropped, the time is kept."""

import math

import pytest

from paperweight.bench.statistics import Interval
from paperweight.screens.evidence import evidence_interval
from paperweight.screens.outcome import spanned
from paperweight.screens.plan import MOST_CONFIRMED
from paperweight.screens.screen import _outcome
from paperweight.studies.screening import BASELINE, HALF, IDENTITY, TREES

RECIPES = ["none", "helper", "harmful", "hopeless", "other"]
EFFECTS = {"helper": 0.02, "harmful": -0.02, "hopeless": -0.2}


def outcome(bench, course):
    return _outcome(
        course,
        data="toy",
        network="a net",
        minutes=bench.minutes,
        least=bench.least,
        seconds=1.0,
        end="interrupted" if bench.interrupted else "decided" if course.decided else "time",
        command="paperweight screen --data toy",
    )


def screened(bench, recipes=RECIPES, **options):
    return outcome(bench, bench.course(recipes, **options))


def test_a_screen_finds_what_helps_and_says_no_more(drawn) -> None:
    bench = drawn(EFFECTS)
    screen = screened(bench)
    assert [fate.name for fate in screen.winners] == ["helper"]
    assert {fate.name: fate.verdict for fate in screen.fates if fate.name != "helper"} == {
        "none": "no effect",
        "other": "no effect",
        "harmful": "hurts",
        "hopeless": "hurts",
    }
    assert screen.end == "decided"
    assert screen.ranks
    assert "1 helps on toy: helper by 0.0" in screen.words()
    assert screen.fates[0].name == "helper"
    assert screen.fates[0].cost == pytest.approx(1.0)


def test_what_is_worth_less_is_decided_sooner_where_a_larger_gain_is_asked_for(drawn) -> None:
    effects = {f"r{number}": 0.005 * (number % 2) for number in range(16)}
    usual, large = (
        screened(drawn(effects, minutes=2.0, noise=0.008, least=least), list(effects)) for least in (0.01, 0.03)
    )
    assert usual.minimal_effect == 0.01
    assert large.minimal_effect == 0.03
    decided = [sum(fate.verdict in ("no effect", "helps") for fate in screen.fates) for screen in (usual, large)]
    assert decided[1] > decided[0] > 0
    assert all(len(fate.confirmed.gains) < 20 for fate in large.confirmed if fate.verdict == "no effect")
    assert "without an effect of 0.03" in large.words()


def test_each_control_is_judged_once_however_often_a_screen_is_asked(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[float] = []

    def counted(gains, level: float):
        judged.append(level)
        return evidence_interval(gains, level)

    screen = screened(drawn(EFFECTS))
    monkeypatch.setattr("paperweight.screens.outcome.evidence_interval", counted)
    words = screen.words()
    assert screen.record()["words"] == words
    assert [fate.name for fate in screen.winners] == ["helper"]
    assert sorted(judged) == [0.95, 0.99]


def test_how_far_the_undecided_are_from_the_baseline_is_told(drawn) -> None:
    effects = {f"r{number}": 0.008 for number in range(4)}
    screen = screened(drawn(effects, minutes=5.0, noise=0.012), list(effects))
    ends = [
        abs(end)
        for fate in screen.confirmed
        if fate.verdict == "inconclusive"
        for end in (fate.confirmed.interval.low, fate.confirmed.interval.high)
    ]
    assert math.isfinite(max(ends))
    assert f"{len(ends) // 2} undecided but within {max(ends):.3g} of the baseline" in screen.words()


def test_many_winners_are_told_in_few_words(drawn) -> None:
    effects = {f"r{number}": 0.02 + number / 50 for number in range(5)}
    screen = screened(drawn(effects), list(effects))
    winners = [fate.name for fate in screen.winners]
    assert winners == ["r4", "r3", "r2", "r1", "r0"]
    told, _, fewer = screen.words().split(". ")[0].partition("; then ")
    assert all(told.count(f"{name} by 0.") == 1 and fewer.count(name) == 0 for name in winners[:3])
    assert [part.split(" by ")[0] for part in fewer.split(", ")] == winners[3:]
    assert told.count("times the computing time") == 3


def test_confirmation_has_seeds_that_no_decision_looked_at_and_only_it_looks_at_test_examples(drawn) -> None:
    bench = drawn(EFFECTS)
    bench.course(RECIPES)
    judged = {asked[1] for data, asked in bench.asked if data.judged and asked[0].steps > 200}
    explored = {asked[1] for data, asked in bench.asked if not data.judged}
    assert min(judged) == 0
    assert min(explored) >= 1000
    assert judged.isdisjoint(explored)


def test_every_recipe_has_as_many_tries_as_the_baseline(drawn) -> None:
    bench = drawn(EFFECTS)
    screen = screened(bench)
    assert {name: len(scores) for name, scores in screen.scores.items()} == {"sgd": 5, "adamw": 5}
    tries = {
        name: {asked[0].lr for _, asked in bench.asked if asked[0].recipe == name and asked[0].steps == steps}
        for steps in [screen.plan.try_steps]
        for name in (BASELINE, *RECIPES)
    }
    assert {len(rates) for rates in tries.values()} == {5}
    assert {len(fate.scores) for fate in screen.fates if fate.scores is not None} == {5}
    assert screen.optimizer == "sgd"
    assert 0.02 < screen.lr < 0.12


def test_what_is_best_early_in_training_is_not_what_the_baseline_is_given(drawn) -> None:
    plan = drawn({}, noise=0.0).course(["nothing"]).planned[1]
    bench = drawn({}, noise=0.0, early=(plan.try_steps, 0.9))
    course = bench.course(["nothing"])
    assert course.planned[1] == plan
    assert course.fates["nothing"].lr == course.lr
    assert 0.02 < course.lr < 0.12
    assert max(course.fates["nothing"].scores, key=course.fates["nothing"].scores.get) > 0.3
    raced = {asked[0].lr for _, asked in bench.asked if asked[0].steps == plan.race_steps and asked[1] > 1000}
    assert len(raced) == 2
    assert course.lr in raced
    assert max(raced) > 0.3


@pytest.mark.parametrize("best", [0.002, 0.05, 0.4])
def test_a_recipe_that_does_nothing_gets_the_rate_of_the_baseline(drawn, best: float) -> None:
    bench = drawn({}, best=best, noise=0.0, minutes=20.0)
    course = bench.course(["nothing"])
    assert course.fates["nothing"].lr == course.lr
    assert abs(math.log(course.lr / best)) < math.log(1.8)


def test_progress_names_who_is_alive_and_by_what_margin(drawn) -> None:
    bench = drawn(EFFECTS, misfits=["other"])
    bench.course(RECIPES)
    trying, racing = (
        [told for told in bench.told if told.stage.startswith(stage)][-1] for stage in ("trying", "racing")
    )
    assert set(trying.alive) == {"none", "helper", "harmful", "hopeless"}
    assert trying.alive["hopeless"] == pytest.approx(-0.2, abs=0.03)
    assert set(racing.alive) == {"none", "helper", "harmful"}
    confirming = bench.told[-1]
    assert confirming.stage.startswith("confirming")
    assert confirming.left < racing.left < trying.left


def test_pairs_have_a_baseline_of_their_own_seed_and_end_with_the_verdict(drawn) -> None:
    bench = drawn(EFFECTS)
    course = bench.course(RECIPES)
    full = course.planned[1].steps
    seeds = {
        name: [a[1] for d, a in bench.asked if d.judged and a[0].steps == full and a[0].recipe == name]
        for name in (BASELINE, IDENTITY, HALF, *RECIPES)
    }
    assert all(len(set(each)) == len(each) for each in seeds.values())
    assert all(set(each) <= set(seeds[BASELINE]) for each in seeds.values())
    assert len(seeds["helper"]) == len(course.confirmation.series.gains["helper"]) < len(seeds[BASELINE])


def test_who_was_chosen_for_confirmation_stays_chosen_when_a_screen_goes_on_with_less_time(drawn) -> None:
    recipes = [*RECIPES, *(f"r{i}" for i in range(12))]
    first = drawn(EFFECTS).course(recipes)
    late = drawn(EFFECTS, minutes=4.5).course(recipes, after=first)
    assert late.planned == first.planned
    assert late.waves[0] == first.waves[0]
    first.waves = []
    assert len(drawn(EFFECTS, minutes=4.5).course(recipes, after=first).waves[0]) < len(late.waves[0])


def test_the_more_alike_pairs_are_the_more_recipes_are_confirmed(drawn) -> None:
    recipes = [*RECIPES, *(f"r{i}" for i in range(20))]
    quiet, loud = (drawn(EFFECTS, noise=noise).course(recipes) for noise in (0.003, 0.02))
    assert len(quiet.waves[0]) == len(loud.waves[0]) == MOST_CONFIRMED
    assert len(quiet.waves[1]) > 2
    assert len(loud.waves) == 1
    assert len(quiet.confirmation.series.verdicts) > 12 > len(loud.confirmation.series.verdicts)


def test_others_are_confirmed_in_the_time_that_those_before_leave(drawn) -> None:
    recipes = [*RECIPES, *(f"r{i}" for i in range(20))]
    bench = drawn(EFFECTS, step_seconds=0.002, noise=0.002)
    course = bench.course(recipes)
    assert len(course.waves) > 1
    assert len({name for names in course.waves for name in names}) == sum(map(len, course.waves))
    gains = course.confirmation.series.gains
    assert all(len(gains[name]) > 5 for name in course.waves[1])
    verdicts = [fate.verdict for fate in outcome(bench, course).confirmed]
    assert len(verdicts) > 8
    assert verdicts.count("inconclusive") <= 2
    again = drawn(EFFECTS, step_seconds=0.002, noise=0.002, kept=bench.kept)
    again.clock.seconds = bench.clock.seconds
    repeated = again.course(recipes, after=course)
    assert repeated.confirmation.series.gains == gains
    assert again.asked == []


def test_what_does_not_fit_is_left_out_with_the_reason(drawn) -> None:
    screen = screened(drawn(EFFECTS, misfits=["other"]))
    assert [(fate.name, fate.reason) for fate in screen.fates if fate.stage == "misfit"] == [
        ("other", "ValueError: it has no convolutions")
    ]
    assert "1 that did not fit" in screen.words()


@pytest.mark.parametrize("minutes", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("step", [0.0005, 0.02])
def test_the_time_is_kept(drawn, minutes: float, step: float) -> None:
    bench = drawn(EFFECTS, minutes=minutes, step_seconds=step, slow={"other": 6.0, "none": 3.0})
    screen = screened(bench, [*RECIPES, *(f"r{i}" for i in range(20))])
    assert bench.clock.left > -0.1 * 60 * minutes
    if screen.end == "time":
        assert bench.clock.left < 0.1 * 60 * minutes


def test_too_short_a_time_confirms_nothing_and_says_so(drawn) -> None:
    screen = screened(drawn(EFFECTS, minutes=0.05, step_seconds=0.05))
    assert not screen.confirmed
    assert not screen.winners
    assert "the time was too short" in screen.words()
    assert "This holds" not in screen.words()
    assert screen.end == "time"


@pytest.mark.parametrize("stage", ["measuring", "tuning", "trying", "racing", "confirming"])
def test_an_interruption_leaves_what_was_found(drawn, stage: str) -> None:
    bench = drawn(EFFECTS, interrupted_at=stage)
    screen = screened(bench)
    assert screen.end == "interrupted"
    assert not screen.winners
    assert all(fate.stage == "waiting" for fate in screen.fates) == (stage in ("measuring", "tuning", "trying"))
    assert ("it was stopped before" in screen.words()) == (not screen.confirmed)
    assert "too short" not in screen.words()
    assert {fate.verdict for fate in screen.fates if not fate.reason and not fate.confirmed} <= {"not reached"}


def test_a_screen_whose_half_of_the_data_does_not_hurt_ranks_nothing(drawn) -> None:
    screen = screened(drawn({"helper": 0.02, HALF: 0.04}, minutes=3.0))
    assert not screen.ranks
    assert not screen.winners
    assert "ranks nothing" in screen.words()
    assert "Half of the data is not shown to hurt" in screen.controls.failures[0]


def test_a_screen_whose_identity_differs_ranks_nothing(drawn) -> None:
    screen = screened(drawn({"helper": 0.02, IDENTITY: 0.03}))
    assert not screen.winners
    assert "differs from itself" in screen.words()


def test_what_is_as_accurate_at_less_cost_is_named(drawn) -> None:
    screen = screened(drawn({"helper": 0.02}, slow={"other": 0.4, "helper": 0.4}))
    assert [fate.name for fate in screen.savers] == ["other"]
    assert "As accurate, within 0.01, and cheaper: other at 0.4" in screen.words()


def test_what_fails_at_full_length_is_given_up_and_said_to_have_failed(drawn) -> None:
    bench = drawn({"helper": 0.02}, failing=[TREES, "other"])
    screen = screened(bench, ["helper", "none", "other"], target="y")
    assert [fate.name for fate in screen.winners] == ["helper"]
    failed = {fate.name: fate for fate in screen.fates if fate.name in (TREES, "other")}
    assert {fate.verdict for fate in failed.values()} == {"inconclusive"}
    assert {len(fate.confirmed.gains) for fate in failed.values()} == {3}
    said = "3 of its 3 trainings failed, the first timed-out: it took more than 60 seconds"
    assert {fate.reason for fate in failed.values()} == {said}
    assert "Gradient-boosted trees" not in screen.words()


def test_trees_stand_beside_the_recipes_of_a_table_and_are_none(drawn) -> None:
    screen = screened(drawn({TREES: 0.05, "helper": 0.02}), ["none", "helper"], target="y")
    assert [fate.name for fate in screen.winners] == ["helper"]
    assert "Of 2 recipes" in screen.words()
    trees = next(fate.confirmed for fate in screen.fates if fate.name == TREES)
    assert trees.gain == pytest.approx(0.05, abs=0.005)
    assert f"Gradient-boosted trees, the arm to beat, differ from the baseline by {trees.gain:.3g}" in screen.words()


def test_who_leads_the_race_when_the_time_is_over_is_not_reached_and_was_not_dropped(drawn) -> None:
    bench = drawn(EFFECTS, interrupted_at="racing")
    course = bench.course(RECIPES)
    bench.interrupted = False
    screen = outcome(bench, course)
    assert {fate.stage for fate in screen.fates} == {"tried"}
    assert {fate.name: fate.verdict for fate in screen.fates} == {
        name: "dropped" if name == "hopeless" else "not reached" for name in RECIPES
    }
    assert (
        "the time was too short, so give it more minutes, or one field. The recipes: 1 dropped by tries or race"
        in screen.words()
    )
    assert "4 not reached" in screen.words()


def test_pairs_that_are_too_few_for_an_end_of_the_interval_are_told_in_words() -> None:
    ends = [(-math.inf, math.inf), (-math.inf, 0.5), (0.25, math.inf), (0.25, 0.5)]
    said = [spanned(Interval(low, high, 0.95)) for low, high in ends]
    assert said == ["unbounded", "below 0.5", "above 0.25", "0.25 to 0.5"]


def test_no_recipe_that_fits_is_a_screen_without_winners(drawn) -> None:
    screen = screened(drawn({}, misfits=["a", "b"]), ["a", "b"])
    assert screen.end in ("decided", "time")
    assert not screen.confirmed
    assert "none fits the data and the network. The recipes: 2 that did not fit" in screen.words()
