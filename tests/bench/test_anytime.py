"""Inference that may be looked at after every pair: exact laws over all signs, slow loops, failures, scale."""

import itertools
import math

import numpy as np
import pytest

from paperweight.bench.anytime import anytime_interval, anytime_p, log_evidence, pairs_needed
from paperweight.bench.statistics import compare

MAGNITUDES = {
    "alike": np.ones(12),
    "normal": np.abs(np.random.default_rng(0).standard_normal(12)),
    "heavy": np.abs(np.random.default_rng(1).standard_cauchy(12)),
    "growing": 10.0 ** np.arange(12),
    "falling": 10.0 ** -np.arange(12),
    "seldom": np.where(np.arange(12) % 4 == 3, 50.0, 0.1),
}


def signed(kind: str) -> np.ndarray:
    """Return all series of these magnitudes, (4096, 12): what symmetry about zero makes equally likely."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=12))) * MAGNITUDES[kind]


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_bets_are_fair_and_seldom_win_forty_fold(kind: str) -> None:
    grown = np.exp([log_evidence(series, 0.0) for series in signed(kind)])
    np.testing.assert_allclose(grown.mean(axis=0), 1.0, rtol=1e-9)
    for alpha in (0.2, 0.05, 0.025):
        assert (grown.max(axis=1) >= 1 / alpha).mean() <= alpha
    assert (grown.max(axis=1) >= 40).any() == (kind != "falling")


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_the_interval_leaves_the_centre_out_in_at_most_one_of_twenty(kind: str) -> None:
    centre = 3.0
    out = 0
    for series in signed(kind)[::16] + centre:
        interval = anytime_interval(series.tolist())
        out += not interval.low <= centre <= interval.high
    assert out / 256 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 256)


def test_evidence_is_the_mean_of_products_in_a_loop() -> None:
    series, centre = [0.4, -1.2, 2.0, 0.3, math.inf, 1.0, -math.inf], 0.1
    expected = []
    for count in range(1, len(series) + 1):
        products = []
        for bold in (0.5, 1.0, 2.0, 4.0):
            product = 1.0
            for i in range(count):
                known = [d for d in series[:i] if math.isfinite(d)]
                scale = math.sqrt(sum(d * d for d in known) / len(known)) if known else 0.0
                beyond = series[i] - centre
                product *= 1 + 0.98 * math.tanh(bold * (beyond / scale if scale else math.copysign(1.0, beyond)))
            products.append(product)
        expected.append(math.log(sum(products) / 4))
    np.testing.assert_allclose(log_evidence(series, centre), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_p_and_interval_say_the_same_and_longer_series_never_say_less(seed: int) -> None:
    draw = np.random.default_rng(seed)
    series = (draw.standard_t(3, 30) + draw.uniform(-1.5, 1.5)).tolist()
    before = anytime_interval(series[:1])
    for count in range(2, 31):
        interval = anytime_interval(series[:count])
        assert (anytime_p(series[:count]) <= 0.05) == (interval.low > 0 or interval.high < 0)
        assert interval.low >= before.low - 1e-9
        assert interval.high <= before.high + 1e-9
        before = interval


@pytest.mark.parametrize("factor", [1e-200, 0.3, 1e200])
def test_units_and_signs_of_the_differences_turn_the_interval_alike(factor: float) -> None:
    series = (np.random.default_rng(5).standard_normal(15) + 0.8).tolist()
    plain, scaled = anytime_interval(series), anytime_interval([factor * d for d in series])
    turned = anytime_interval([-d for d in series])
    assert (scaled.low, scaled.high) == pytest.approx((factor * plain.low, factor * plain.high), rel=1e-9)
    assert (turned.low, turned.high) == (-plain.high, -plain.low)
    assert anytime_p([factor * d for d in series]) == pytest.approx(anytime_p(series))


@pytest.mark.parametrize("count", [1, 5, 6, 7])
def test_fewer_than_six_pairs_decide_nothing(count: int) -> None:
    interval = anytime_interval([10.0**i for i in range(count)])
    assert (interval.low > 0) == (count >= pairs_needed() == 6)
    assert interval.high == (math.inf if count < 6 else pytest.approx(interval.high))


def test_failures_count_as_the_worst_and_are_outweighed_in_time() -> None:
    good = [1.0, 2.0, 1.5, 1.2, 1.8, 1.1, 1.6, 1.3]
    assert anytime_interval(good).low > 0
    for lost in (None, -math.inf, math.nan):
        interval = anytime_interval([*good[:3], lost, *good[3:6]])
        assert interval.low == -math.inf
        assert anytime_p([lost, *good]) > 0.05
        assert anytime_interval([lost, *good, *good]).low > 0
    assert anytime_interval([None] * 20) == anytime_interval([])
    assert anytime_interval([math.inf] * 8).low == math.inf
    assert anytime_interval([-math.inf] * 8).high == -math.inf
    assert str(anytime_interval([0.0] * 8)) == "Interval(low=0.0, high=0.0, coverage=0.95)"


@pytest.mark.parametrize("after", [11, 30])
def test_an_interval_that_has_become_empty_gives_no_verdict(after: int) -> None:
    """Fifteen pairs show a gain and all later ones a loss: no centre is left, whatever the mean."""
    series = [1.0, 1.1, 0.9] * 5 + [-1.0, -1.1, -0.9] * after
    interval = anytime_interval(series)
    assert interval.low > interval.high
    found = compare(
        {("score", "control"): series},
        {"score": 0.05},
        primary=("score", "control"),
        interval=anytime_interval,
        p_value=anytime_p,
    )
    assert found["score", "control"].verdict == "inconclusive"


@pytest.mark.parametrize("comparisons", [1, 4, 11, 22, 23, 100])
def test_pairs_needed_are_those_with_which_the_clearest_series_reaches_it(comparisons: int) -> None:
    clear = [10.0**i for i in range(pairs_needed(comparisons))]
    assert anytime_p(clear) * comparisons <= 0.05
    assert anytime_p(clear[:-1]) * comparisons > 0.05


@pytest.mark.parametrize(("centre", "verdict"), [(2.0, "helps"), (-2.0, "hurts"), (0.0, "no effect"), (5.5, "helps")])
def test_verdicts_of_large_and_absent_effects(centre: float, verdict: str) -> None:
    series = (np.random.default_rng(2).standard_normal(20) + centre).tolist()
    found = compare(
        {("score", "method"): series},
        {"score": 5.0},
        primary=("score", "method"),
        interval=anytime_interval,
        p_value=anytime_p,
    )
    expected = "no effect" if abs(centre) < 4 else verdict
    assert found["score", "method"].verdict == expected
