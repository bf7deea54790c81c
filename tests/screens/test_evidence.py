"""Verdicts of a screen: the rule of e-values in its slow form, intervals that agree with it, and what stays settled."""

import itertools
import math

import numpy as np
import pytest

from paperweight.bench.anytime import log_evidence
from paperweight.bench.statistics import Verdict
from paperweight.screens.evidence import (
    FALSE,
    Series,
    confirm,
    evidence_interval,
    pairs_expected,
    pairs_wanted,
    shares,
    verdicts,
)

MINIMAL, TINY = 0.01, 1e-12


def drawn(seed: int, recipes: int, pairs: int) -> dict[str, list[float | None]]:
    draw = np.random.default_rng(seed)
    centres = draw.choice([0.0, 0.004, -0.008, 0.02], recipes)
    return {f"r{i}": list(draw.normal(centre, 0.006, pairs)) for i, centre in enumerate(centres)}


def e_value(gains: list[float | None]) -> float:
    series = np.array(gains, dtype=float)
    return math.exp(max(log_evidence(series, 0.0)[-1], log_evidence(-series, 0.0)[-1])) / 2


def largest(evidence: dict[str, float], share: dict[str, float], before: int = 0) -> set[str]:
    """Return the largest set whose members each have the evidence that so many ask for, by trying all sets."""
    return max(
        (
            set(chosen)
            for count in range(len(evidence) + 1)
            for chosen in itertools.combinations(evidence, count)
            if all(evidence[name] >= 1 / (FALSE * (before + count) * share[name]) for name in chosen)
        ),
        key=len,
    )


def within(gains: list[float | None]) -> float:
    series = np.array(gains, dtype=float)
    return math.exp(min(log_evidence(series, -MINIMAL)[-1], log_evidence(-series, -MINIMAL)[-1])) / 2


@pytest.mark.parametrize("seed", range(12))
def test_no_effects_count_with_all_verdicts_and_effects_with_effects_alone(seed: int) -> None:
    gains = drawn(seed, 6, 12)
    share = shares(["r0", "r1", "r2", "r3"], ["r4", "r5"])
    for count in range(6, -1, -1):
        small = {name for name, each in gains.items() if count and within(each) >= 1 / (FALSE * count * share[name])}
        strong = largest({name: e_value(each) for name, each in gains.items() if name not in small}, share)
        if len(small) + len(strong) >= count:
            break
    said = verdicts(gains, share, MINIMAL)
    assert {name for name, verdict in said.items() if verdict == "no effect"} == small
    assert {name for name, verdict in said.items() if verdict in ("helps", "hurts")} == strong


@pytest.mark.parametrize("seed", range(8))
def test_an_interval_agrees_with_the_verdict(seed: int) -> None:
    gains = drawn(seed, 6, 14)
    share = shares(list(gains))
    said = verdicts(gains, share, MINIMAL)
    effects = sum(verdict != "no effect" for verdict in said.values())
    for name, each in confirm(gains, share, said).items():
        low, high = each.interval.low, each.interval.high
        assert each.verdict == said.get(name, "inconclusive")
        assert (each.verdict == "no effect") == (-MINIMAL < low <= high < MINIMAL)
        assert low <= 0 <= high or each.verdict in ("helps", "hurts", "no effect")
        count = len(said) if name in said else max(1, effects)
        assert each.interval.coverage == pytest.approx(1 - FALSE * count / 6)


def test_verdicts_from_before_stay_and_those_of_a_kind_count() -> None:
    sure, none = [0.05, 0.06, 0.07, 0.06, 0.07, 0.08, 0.09], [0.0001, -0.0001] * 3 + [0.0001]
    share = shares(["a", "b", "c", "d"])

    def said(before: dict[str, Verdict]) -> dict[str, Verdict]:
        return verdicts({"a": [], "b": [], "c": sure, "d": none}, share, MINIMAL, before)

    assert verdicts({"c": sure}, share, MINIMAL) == verdicts({"d": none}, share, MINIMAL) == {}
    assert said({"a": "no effect", "b": "no effect"}) == {"a": "no effect", "b": "no effect", "d": "no effect"}
    assert said({"a": "hurts", "b": "helps"}) == {"a": "hurts", "b": "helps", "c": "helps", "d": "no effect"}


def test_no_effect_is_said_sooner_where_all_have_none() -> None:
    """Eight of the first share three fifths of 5% alike; 7 pairs suffice for all of them, for one of them 10."""
    quiet: list[float | None] = [0.001, -0.001] * 6
    for pairs, many, alone in ((6, 0, 0), (7, 8, 0), (9, 8, 0), (10, 8, 1)):
        share = shares([f"r{number}" for number in range(8)], ["later"])
        gains = dict.fromkeys(share, quiet[:0]) | {f"r{number}": quiet[:pairs] for number in range(8)}
        assert len(verdicts(gains, share, MINIMAL)) == many
        one = dict.fromkeys(share, quiet[:0]) | {"r3": quiet[:pairs]}
        assert len(verdicts(one, share, MINIMAL)) == alone


def test_pairs_expected_are_about_those_that_recipes_without_effect_need() -> None:
    counts: list[float] = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        series = Series([f"r{number}" for number in range(8)], ["later"], MINIMAL)
        while series.open and len(series.gains["r0"]) < 60:
            series.add({name: draw.normal(0, 0.006) for name in series.open})
        counts += [len(series.gains[f"r{number}"]) for number in range(8)]
    alone, all_together = pairs_expected(MINIMAL, 0.006, [0.1, 0.8])
    assert abs(np.quantile(counts, 0.8) + 1 - all_together) <= 2
    assert all_together < alone
    assert pairs_expected(MINIMAL, 1e-9, [0.8]) == [6 + 1]
    assert pairs_expected(MINIMAL, 1.0, [0.8]) == [100]


def test_pairs_wanted_of_those_that_wait_are_few_where_pairs_are_alike_and_else_what_a_sure_effect_takes() -> None:
    quiet, loud = (Series(["a", "b"], ["c", "d"], MINIMAL) for _ in range(2))
    for pair in range(6):
        quiet.add({"a": 0.001 * (-1) ** pair, "b": 0.0})
        loud.add({"a": 0.05 * (-1) ** pair, "b": 0.0})
    assert quiet.spread < MINIMAL / 5
    assert loud.spread == pytest.approx(math.sqrt(6 * 0.05**2 / 10))
    assert loud.wanted(["c", "d"]) == [pairs_wanted(loud.share["c"], 1), pairs_wanted(loud.share["d"], 2)]
    assert max(quiet.wanted(["c", "d"])) < min(loud.wanted(["c", "d"]))


def test_ends_of_an_interval_are_where_the_evidence_suffices_just_no_more() -> None:
    gains = drawn(1, 1, 12)["r0"]
    interval = evidence_interval(gains, 0.9)
    wanted = math.log(2 / 0.1)
    series = np.array(gains, dtype=float)
    assert log_evidence(series, interval.low - 1e-9)[-1] >= wanted > log_evidence(series, interval.low + 1e-9)[-1]
    assert log_evidence(-series, -interval.high - 1e-9)[-1] >= wanted
    assert wanted > log_evidence(-series, -interval.high + 1e-9)[-1]


def test_an_interval_moves_and_scales_with_the_gains() -> None:
    gains = [0.01, 0.03, 0.02, 0.015, 0.025, 0.018, 0.022, 0.03, 0.01]
    one = evidence_interval(gains, 0.95)
    two = evidence_interval([2 * gain for gain in gains], 0.95)
    assert (two.low, two.high) == pytest.approx((2 * one.low, 2 * one.high))
    other = evidence_interval([-gain for gain in gains], 0.95)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


def test_nothing_is_said_of_few_pairs_and_a_failure_counts_against_both_sides() -> None:
    assert evidence_interval([], 0.95).low == -math.inf
    assert evidence_interval([0.02] * 4, 0.95).low == -math.inf
    sure = evidence_interval([0.02, 0.03] * 6, 0.95)
    failed = evidence_interval([0.02, 0.03] * 5 + [0.02, None], 0.95)
    assert sure.low > failed.low
    assert failed.high > sure.high


def test_gains_of_nothing_at_all_have_an_interval_of_nothing() -> None:
    interval = evidence_interval([0.0] * 12, 0.95)
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_a_gain_is_told_within_its_interval_though_one_pair_puts_the_mean_outside() -> None:
    gains = [0.001, -0.002, 0.0005, -0.001, 0.002] * 6 + [-0.9]
    found = confirm({"a": gains}, shares(["a"], []), {})["a"]
    assert sum(gains) / len(gains) < found.interval.low < 0
    assert found.gain == 0.0005
    usual = confirm({"a": gains[:-1]}, shares(["a"], []), {})["a"]
    assert usual.gain == pytest.approx(0.0001)


def test_a_gain_within_the_minimal_effect_is_no_effect_though_it_is_sure() -> None:
    gains = {"a": [0.004, 0.005, 0.0045, 0.0055] * 4}
    assert verdicts(gains, shares(["a"]), TINY) == {"a": "helps"}
    assert verdicts(gains, shares(["a"]), MINIMAL) == {"a": "no effect"}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_settled_keeps_its_verdict_and_its_interval_agrees_whatever_comes_of_the_others(seed: int) -> None:
    gains = drawn(seed, 6, 40)
    series = Series(["r0", "r1", "r2", "r3"], ["r4", "r5"], MINIMAL)
    settled: dict[str, str] = {}
    for pair in range(40):
        if pair == 20:
            series.begin(["r4", "r5"])
        before = list(series.open)
        series.add({name: gains[name][pair] for name in before})
        now = confirm(series.gains, series.share, series.verdicts)
        for name in set(before) - set(series.open):
            settled[name] = now[name].verdict
        for name, verdict in settled.items():
            low, high = now[name].interval.low, now[name].interval.high
            assert now[name].verdict == verdict
            assert {"helps": low > 0, "hurts": high < 0, "no effect": -MINIMAL < low <= high < MINIMAL}[verdict]


def test_what_waited_begins_when_it_is_told_to() -> None:
    series = Series(["a"], ["b", "c"], MINIMAL)
    for _ in range(9):
        series.add({"a": 0.05})
    assert series.open == []
    first = len(series.gains["a"])
    series.begin(["c"])
    assert series.open == ["c"]
    series.add({"a": 0.05, "b": 0.0, "c": 0.0})
    assert (len(series.gains["a"]), series.gains["b"], series.gains["c"]) == (first, [], [0.0])


def test_a_recipe_that_fails_three_times_in_a_row_is_given_up_without_a_verdict() -> None:
    series = Series(["a", "b"], ["c"], MINIMAL)
    for pair in range(12):
        series.add({"a": None if pair in (1, 2, 4, 5, 6) else 0.0, "b": 0.05, "c": 0.0})
    assert len(series.gains["a"]) == 7
    assert series.verdicts == {"b": "helps"}
    assert len(series.gains["b"]) == 8
    assert series.open == []


def test_screens_of_nothing_seldom_report_anything() -> None:
    """Of 400 screens of 8 recipes that share the baseline's luck, at most as many as chance allows report an effect."""
    false = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        series = Series([f"r{i}" for i in range(8)], [], 0.001)
        for _ in range(14):
            baseline = draw.normal()
            series.add({name: draw.normal() - baseline for name in series.open})
        false += bool(verdicts(series.gains, series.share, TINY))
    assert false <= 400 * FALSE + 3 * math.sqrt(400 * FALSE * (1 - FALSE))


def test_shares_add_up_and_fall_with_the_place_in_the_queue() -> None:
    share = shares(["a", "b"], list("cdefg"))
    assert sum(share.values()) == pytest.approx(1)
    assert share["a"] == share["b"] == pytest.approx(0.3)
    assert [share["c"] / share[name] for name in "cdefg"] == pytest.approx([1, 2, 3, 4, 5])
    assert shares(["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert shares([], ["a", "b"]) == pytest.approx({"a": 2 / 3, "b": 1 / 3})


@pytest.mark.parametrize("place", [0, 5, 28])
def test_a_sure_effect_counts_three_pairs_before_those_that_a_recipe_is_given(place: int) -> None:
    waiting = [f"r{number}" for number in range(29)]
    share, name = shares([f"first{number}" for number in range(8)], waiting), waiting[place]
    pairs = pairs_wanted(share[name]) - 3
    rising: list[float | None] = [10.0**number for number in range(pairs)]
    assert verdicts({name: rising[:-1]}, share, TINY) == {}
    assert verdicts({name: rising}, share, TINY) == {name: "helps"}
