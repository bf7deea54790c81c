"""Statistics: hand-computed cases, brute force over subsets and sign patterns, other libraries, and simulation."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.stats
from benchmarks.verdict_errors import SHAPES, false_verdicts
from numpy.typing import NDArray

from paperweight.bench.statistics import (
    Comparison,
    benjamini_hochberg,
    compare,
    example_interval,
    holm,
    pairs_needed,
    sign_flip_p,
    typical_value_interval,
)

Gains = Sequence[float | None]
STRENGTH = {"helps": 1, "hurts": -1}


def alone(gains: Gains, minimal_effect: float) -> Comparison:
    """Return the comparison of a study that has no other."""
    return compare({("score", "method"): gains}, {"score": minimal_effect}, ("score", "method"))["score", "method"]


def subset_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the interval by definition: every non-empty subset's mean, sorted."""
    n = len(differences)
    means = sorted(
        math.fsum(chosen) / len(chosen)
        for size in range(1, n + 1)
        for chosen in itertools.combinations(differences, size)
    )
    k = max(1, math.floor((1 - confidence) / 2 * 2**n))
    return means[k - 1], means[-k], 1 - 2 * k / 2**n


def pattern_p(differences: Sequence[float]) -> float:
    """Return the share of sign patterns whose sum is at least as far from zero as the observed one."""
    observed = abs(math.fsum(differences))
    sums = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


def samples(n: int, count: int = 5) -> list[list[float]]:
    """Return differences with and without ties, zeros and a shift."""
    draw = np.random.default_rng(n)
    plain = [(draw.normal(size=n) + shift).tolist() for shift in np.linspace(-1, 1, count)]
    coarse = [draw.integers(-2, 4, size=n).astype(float).tolist() for _ in range(count)]
    return plain + coarse


def test_interval_of_six_pairs_is_the_range_and_of_seven_leaves_two_means_out() -> None:
    interval = typical_value_interval([3.0, 1.0, 2.0, 6.0, 4.0, 5.0])
    assert (interval.low, interval.high, interval.coverage) == (1.0, 6.0, 1 - 2 / 64)
    interval = typical_value_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0])  # k = 3: 1, 1.5, 2 and 70, 38, 37.5
    assert (interval.low, interval.high, interval.coverage) == (2.0, 37.5, 1 - 6 / 128)


@pytest.mark.parametrize("n", range(2, 11))
def test_interval_equals_brute_force_over_subsets(n: int) -> None:
    for differences in samples(n):
        for confidence in (0.95, 0.5):
            found = typical_value_interval(differences, confidence)
            assert (found.low, found.high, found.coverage) == pytest.approx(subset_interval(differences, confidence))


@pytest.mark.parametrize("n", range(1, 9))
def test_p_equals_brute_force_over_sign_patterns(n: int) -> None:
    for differences in samples(n):
        assert sign_flip_p(differences) == pytest.approx(pattern_p(differences), abs=1e-12)


@pytest.mark.parametrize("n", range(2, 9))
def test_p_equals_the_permutation_test_of_scipy(n: int) -> None:
    for differences in samples(n, count=2):
        other = scipy.stats.permutation_test(
            (np.array(differences),), np.mean, permutation_type="samples", n_resamples=2**n
        )
        assert sign_flip_p(differences) == pytest.approx(other.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", range(2, 13))
def test_interval_leaves_zero_out_just_when_the_p_value_is_small(n: int) -> None:
    draw = np.random.default_rng(n)
    seen = set()
    for scale in np.linspace(0, 2.5, 60):
        differences = (draw.normal(size=n) + scale).tolist()
        interval = typical_value_interval(differences)
        outside = interval.low > 0 or interval.high < 0
        assert outside == (sign_flip_p(differences) <= 1 - interval.coverage + 1e-12)
        seen.add(outside)
    assert seen == {True, False}


def test_many_pairs_are_sampled_and_agree_with_student() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1.0, size=40)
    interval = typical_value_interval(differences.tolist())
    low, high = scipy.stats.t.interval(0.95, 39, differences.mean(), scipy.stats.sem(differences))
    assert interval.coverage == pytest.approx(0.95, abs=1e-4)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.03)
    assert sign_flip_p(differences.tolist()) == pytest.approx(
        scipy.stats.ttest_1samp(differences, 0)[1], rel=0.15, abs=5e-3
    )
    assert typical_value_interval(differences.tolist()) == interval


def test_zero_differences_have_no_effect_exactly() -> None:
    for n in (6, 8, 20):
        found = alone([0.0] * n, 1e-9)
        assert (found.verdict, found.gain, found.p, found.p_adjusted) == ("no effect", 0.0, 1.0, 1.0)
        assert (found.interval.low, found.interval.high) == (0.0, 0.0)


@pytest.mark.parametrize("n", range(1, pairs_needed()))
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, math.inf])
def test_below_six_pairs_nothing_is_concluded(n: int, value: float) -> None:
    found = alone([value] * n, 10.0)
    assert found.verdict == "inconclusive"
    assert found.interval.coverage < 0.95
    assert found.p >= 2 / 2**n


@pytest.mark.parametrize(
    ("gains", "effect", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.1, 0.2, 0.3], 0.01, "helps"),
        ([-0.1, -0.2, -0.3, -0.1, -0.2, -0.3], 0.01, "hurts"),
        ([0.1, 0.2, 0.3, 0.1, 0.2, 0.3], 0.4, "no effect"),
        ([0.1, -0.1, 0.1, -0.1, 0.1, -0.1], 0.05, "inconclusive"),
        ([0.1, 0.2, 0.3, 0.1, 0.2, None], 0.01, "inconclusive"),
        ([0.1, 0.2, 0.3, 0.1, 0.2, -math.inf], 0.01, "inconclusive"),
        ([0.1, 0.2, 0.3, 0.1, 0.2, math.inf], 0.01, "helps"),
        ([-math.inf] * 6, 0.01, "hurts"),
        ([None] * 8, 10.0, "inconclusive"),
        ([0.0] * 7 + [None], 10.0, "inconclusive"),
    ],
)
def test_verdicts_by_hand(gains: Gains, effect: float, verdict: str) -> None:
    found = alone(gains, effect)
    assert found.verdict == verdict
    mirrored = alone([None if gain is None else -gain for gain in gains], effect)
    assert mirrored.verdict == {"helps": "hurts", "hurts": "helps"}.get(verdict, verdict)
    assert (mirrored.p, mirrored.interval.low) == (found.p, -found.interval.high)


def test_one_unknown_difference_among_eight_is_the_worst_in_both_directions() -> None:
    known = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    interval = typical_value_interval([*known, None])
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    found = alone([*known, None], 0.01)
    assert found.gain == pytest.approx(0.4)
    assert found.p == 1.0  # with the unknown at minus infinity as many sums lie above as below
    assert typical_value_interval([*known, math.nan]) == interval


def test_a_failure_never_makes_a_verdict_better() -> None:
    draw = np.random.default_rng(0)
    improved = []
    concluded = 0
    for _ in range(300):
        n = int(draw.integers(6, 10))
        gains: list[float | None] = (draw.normal(draw.choice([-1.5, 0, 1.5]), 0.5, size=n)).tolist()
        for index in np.flatnonzero(draw.random(n) < 0.1):
            gains[index] = float(draw.choice([math.inf, -math.inf, 0.0]))
        effect = float(draw.choice([0.1, 3.0]))
        before = alone(gains, effect)
        concluded += before.verdict != "inconclusive"
        worse = list(gains)
        worse[int(draw.integers(n))] = None
        after = alone(worse, effect)
        diverged = list(gains)
        diverged[int(draw.integers(n))] = -math.inf
        below = alone(diverged, effect)
        if after.verdict not in (before.verdict, "inconclusive") or after.p < before.p:
            improved.append((gains, worse))
        if STRENGTH.get(below.verdict, 0) > STRENGTH.get(before.verdict, 0):
            improved.append((gains, diverged))
        assert after.interval.low <= before.interval.low
        assert after.interval.high >= before.interval.high
    assert improved == []
    assert concluded > 100


def test_holm_and_benjamini_hochberg_equal_their_definitions() -> None:
    draw = np.random.default_rng(3)
    for size in (1, 2, 5, 12):
        p = np.round(draw.random(size) ** 3, 2).tolist()  # rounded, so that there are ties
        ranked = sorted(p)
        step_down = [max(min(1.0, (size - j) * ranked[j]) for j in range(ranked.index(v) + ranked.count(v))) for v in p]
        assert holm(p) == pytest.approx(step_down)
        assert benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p).tolist())
    assert holm([]) == benjamini_hochberg([]) == []


def test_holm_rejects_what_the_sequential_rule_rejects() -> None:
    draw = np.random.default_rng(4)
    for _ in range(50):
        p = (draw.random(6) ** 4).tolist()
        rejected: set[int] = set()
        for step, index in enumerate(sorted(range(6), key=lambda i: p[i])):
            if p[index] > 0.05 / (6 - step):
                break
            rejected.add(index)
        assert {i for i, value in enumerate(holm(p)) if value <= 0.05} == rejected


def test_controls_take_nothing_from_the_claim_and_are_corrected_among_themselves() -> None:
    strong = [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]  # p = 2/64
    noise = [0.1, -0.1, 0.1, -0.1, 0.2, -0.2]
    gains = {("score", "method"): strong, ("score", "control"): strong, ("loss", "method"): noise}
    gains |= {("loss", "control"): noise}
    found = compare(gains, {"score": 0.01, "loss": 0.01}, primary=("score", "method"))
    told = {key: (c.primary, c.p, c.p_adjusted, c.verdict) for key, c in found.items()}
    assert told["score", "method"] == (True, 2 / 64, 2 / 64, "helps")
    assert told["score", "control"] == (False, 2 / 64, 6 / 64, "inconclusive")  # of three
    assert [key for key, comparison in found.items() if comparison.primary] == [("score", "method")]
    others = {key: each for key, each in gains.items() if key != ("score", "method")}
    adjusted = holm([sign_flip_p(each) for each in others.values()])
    assert [found[key].p_adjusted for key in others] == adjusted


def test_a_secondary_comparison_inside_the_minimal_effect_has_no_effect() -> None:
    gains = {("score", "method"): [1.0] * 8} | {("score", f"control_{i}"): [0.01] * 8 for i in range(20)}
    found = compare(gains, {"score": 0.05}, primary=("score", "method"))
    assert {c.verdict for c in found.values() if not c.primary} == {"no effect"}


def test_example_interval_equals_a_direct_computation() -> None:
    draw = np.random.default_rng(5)
    pairs = [(draw.random(500) < 0.7, draw.random(500) < 0.75) for _ in range(3)]
    rows = [[int(b) - int(a) for a, b in zip(one, other, strict=True)] for one, other in pairs]
    means = [sum(row) / 500 for row in rows]
    squares = [sum((v - m) ** 2 for v in row) / 499 / 500 for row, m in zip(rows, means, strict=True)]
    centre, half = sum(means) / 3, scipy.stats.norm.ppf(0.975) * math.sqrt(sum(squares)) / 3
    interval = example_interval(pairs)
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half), rel=1e-6)


# --- simulation, with a vectorised computation that is first compared with the library ----------------------------


def subset_means(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of all non-empty subsets of each row, sorted, shape (rows, 2^n - 1)."""
    members = np.array(list(itertools.product((0.0, 1.0), repeat=differences.shape[1]))[1:])
    means = differences @ (members / members.sum(axis=1, keepdims=True)).T
    means.sort(axis=1)
    return means


def tail(n: int) -> int:
    return max(1, math.floor(0.025 * 2**n + 1e-9))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]] = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "uniform": lambda draw, shape: draw.uniform(-1, 1, size=shape),
    "Laplace": lambda draw, shape: draw.laplace(size=shape),
    "Student t3": lambda draw, shape: draw.standard_t(3, size=shape),
}


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_interval_covers_the_centre_as_often_as_it_says(name: str, n: int) -> None:
    differences = DISTRIBUTIONS[name](np.random.default_rng(n), (4000, n))
    k, covered, rows = tail(n), 0, 0
    for part in np.array_split(differences, 8):
        means = subset_means(part)
        for row, sorted_means in zip(part[:3], means, strict=False):
            interval = typical_value_interval(row.tolist())
            assert (interval.low, interval.high) == pytest.approx((sorted_means[k - 1], sorted_means[-k]))
        covered += int(((means[:, k - 1] <= 0) & (means[:, -k] >= 0)).sum())
        rows += len(part)
    claimed = typical_value_interval(differences[0].tolist()).coverage
    assert 0.95 <= claimed <= 0.97
    assert covered / rows == pytest.approx(claimed, abs=4 * math.sqrt(claimed * (1 - claimed) / rows))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("pairs", "arms"), [(8, 5), (8, 2), (10, 3)])
def test_a_study_of_nothing_seldom_has_a_verdict(shape: str, pairs: int, arms: int) -> None:
    studies = 4_000
    found = false_verdicts(shape, studies=studies, pairs=pairs, arms=arms, metrics=2, checked=5)
    for rate in (found.helps, found.hurts):
        assert 0.01 < rate <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / studies)
    assert found.secondary <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.parametrize("comparisons", range(1, 12))
def test_pairs_needed_is_the_first_number_at_which_the_strongest_data_pass_holm(comparisons: int) -> None:
    def strongest(pairs: int) -> str:
        gains = {("score", str(number)): [1.0] * pairs for number in range(comparisons + 1)}
        return compare(gains, {"score": 0.1}, primary=("score", "0"))["score", "1"].verdict

    assert strongest(pairs_needed(comparisons)) == "helps"
    assert strongest(pairs_needed(comparisons) - 1) == "inconclusive"


@pytest.mark.parametrize("size", [1e250, 1e300, 1.7e308])
def test_the_largest_numbers_are_compared_as_others_are(size: float) -> None:
    shape = [1.0, 0.5, 0.75, 1.0, 0.25, 1.0, 1.0, 0.5]
    for signs in (1.0, -1.0):
        plain = compare({("m", "a"): [signs * d for d in shape]}, {"m": 0.1}, ("m", "a"))["m", "a"]
        huge = compare({("m", "a"): [signs * d * size for d in shape]}, {"m": 0.1}, ("m", "a"))["m", "a"]
        assert (huge.verdict, huge.p) == (plain.verdict, plain.p)
        assert huge.gain / size == pytest.approx(plain.gain)
        assert huge.interval.low / size == pytest.approx(plain.interval.low)
