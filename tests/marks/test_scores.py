"""Scores and their null against brute force, enumeration, scikit-learn and the uniform law of p-values."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from paperweight.marks.chance import NullCount, draw_keys, null_counts, record_p_values, total_p
from paperweight.marks.scores import (
    auc,
    auc_null_interval,
    distances,
    eidetic_count,
    null_probability,
    roc,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def keys_for(counts: list[int], seed: int, levels: int = 256) -> list[tuple[float, ...]]:
    generator = seeded(seed)
    return [tuple(draw_keys(generator, (count,), levels)) for count in counts]


def test_distances_by_hand_for_repeats_and_several_keys():
    found = distances([[0.5, 0.2], [0.7, 0.4]], [(0.6,), (0.9, 0.25)])
    np.testing.assert_allclose(found.each, [[0.1, 0.05], [0.1, 0.15]])
    np.testing.assert_allclose(found.score, [0.1, 0.1])
    assert found.nearest.tolist() == [0, 1]
    assert found.hits(0.12).tolist() == [2, 1]
    assert eidetic_count([0.1, 0.2, 0.2999], 0.2) == 1


@pytest.mark.parametrize(
    ("estimates", "keys", "message"),
    [
        ([0.5], [(0.5,)], "estimates must be"),
        ([[0.5, 0.5]], [(0.5,)], "estimates must be"),
        ([[math.nan]], [(0.5,)], "finite"),
        ([[0.5]], [()], "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(estimates, keys, message):
    with pytest.raises(ValueError, match=message):
        distances(estimates, keys)


@pytest.mark.parametrize("levels", [0, 256, 11])
@pytest.mark.parametrize("keys", [1, 4])
def test_null_probability_is_that_of_brute_force(keys, levels):
    draws = 200_000
    drawn = draw_keys(seeded(keys), (draws, keys), levels)
    for estimate, distance in itertools.product((0.0, 0.03, 0.5, 0.98), (0.005, 0.05, 0.3)):
        share = (np.abs(drawn - estimate).min(axis=1) <= distance + 1e-9).mean()
        p = float(null_probability(estimate, distance, keys, levels))
        assert abs(share - p) <= 4 * math.sqrt(max(p * (1 - p), 1e-9) / draws) + 1e-9, (estimate, distance)


@pytest.mark.parametrize("delta", [0.1, 0.05, 0.005])
def test_the_two_laws_of_the_paper_s_counts(delta):
    draws = 1_000_000
    generator = seeded(1)
    keys, uniform = generator.random(draws), generator.random(draws)
    for estimates, law in ((np.full(draws, 0.5), 2 * delta), (uniform, 2 * delta - delta**2)):
        sigma = math.sqrt(law * (1 - law) / draws)
        assert abs((np.abs(estimates - keys) <= delta).mean() - law) < 4 * sigma
        assert abs(null_probability(estimates, delta).mean() - law) < 4 * sigma


def test_null_probability_of_a_key_s_own_distance_never_is_0_on_levels():
    estimates = seeded(2).random(1000)
    keys = draw_keys(seeded(3), (1000,), 256)
    estimates[:500] = keys[:500]
    p = null_probability(estimates, np.abs(estimates - keys), 1, 256)
    assert p.min() >= 1 / 510 - 1e-12
    assert p[:500].max() == pytest.approx(1 / 255)


def test_expected_counts_are_those_of_a_binomial_law_and_of_brute_force():
    same = null_counts([[0.5] * 60], [(0.3,)] * 60, [0.1], generator=seeded())[0]
    law = stats.binom(60, 0.2)
    assert same == NullCount(0.1, 12.0, int(law.ppf(0.025)), int(law.ppf(0.975)))
    estimates = seeded(4).random((1, 40))
    counts = [1, 4] * 20
    found = null_counts(estimates, keys_for(counts, 5), [0.05], levels=256, generator=seeded())[0]
    simulated = [eidetic_count(distances(estimates, keys_for(counts, 100 + draw)).score, 0.05) for draw in range(2000)]
    assert abs(np.mean(simulated) - found.mean) < 4 * np.std(simulated) / math.sqrt(2000)
    assert np.mean([found.low <= count <= found.high for count in simulated]) >= 0.95 - 0.01
    assert np.mean([found.low < count < found.high for count in simulated]) <= 0.95 + 0.01


def test_expected_counts_of_several_repeats_are_those_of_brute_force():
    estimates = np.clip(seeded(6).normal(0.5, 0.2, (3, 30)), 0, 1)
    found = null_counts(estimates, keys_for([1, 2, 1] * 10, 7), [0.1], levels=256, draws=4000, generator=seeded(8))[0]
    simulated = [
        eidetic_count(distances(estimates, keys_for([1, 2, 1] * 10, 500 + draw)).score, 0.1) for draw in range(1500)
    ]
    assert abs(np.mean(simulated) - found.mean) < 5 * np.std(simulated) / math.sqrt(1500)


@pytest.mark.parametrize("repeats", [1, 3])
def test_record_p_values_are_uniform_when_keys_were_never_shown(repeats):
    """Keys without levels, so that p is continuous."""
    counts = [1, 1, 4, 16] * 100
    estimates = np.clip(seeded(9).normal(0.4, 0.3, (repeats, len(counts))), 0, 1)
    p = record_p_values(estimates, keys_for(counts, 10, levels=0), draws=999, generator=seeded(11))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    exact = record_p_values(estimates, keys_for(counts, 10), levels=256, draws=999, generator=seeded(11))
    assert all((exact <= level).mean() <= level + 4 * math.sqrt(level / 400) for level in (0.01, 0.05, 0.2))


def test_drawn_p_values_agree_with_the_exact_ones():
    """Repeats that all give one estimate have the score, and so the p-value, of one repeat."""
    estimates = seeded(12).random((1, 50))
    keys = keys_for([1, 4] * 25, 13)
    exact = record_p_values(estimates, keys, levels=256, generator=seeded())
    drawn = record_p_values(np.repeat(estimates, 2, axis=0), keys, levels=256, draws=20_000, generator=seeded(14))
    assert np.abs(drawn - exact).max() < 4 * 0.5 / math.sqrt(20_000) + 1e-3


def test_total_p_is_that_of_all_deals():
    keys = [(0.1,), (0.4,), (0.55,), (0.9,)]
    estimates = [0.3, 0.35, 0.5, 0.7]

    def fisher(dealt):
        p = [min(1, e + abs(e - k)) - max(0, e - abs(e - k)) for e, k in zip(estimates, dealt, strict=True)]
        return sum(map(math.log, p))

    true = fisher([0.1, 0.4, 0.55, 0.9])
    share = np.mean([fisher(deal) <= true + 1e-9 for deal in itertools.permutations([0.1, 0.4, 0.55, 0.9])])
    found = total_p([estimates], keys, permutations=20_000, generator=seeded(15))
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 20_000) + 1e-4
    assert 0 < share < 1


def test_total_p_of_keys_never_shown_is_at_most_a_with_probability_at_most_a():
    counts = [1, 1, 4] * 10
    generator = seeded(16)
    estimates = np.clip(generator.normal(0.5, 0.1, (1, len(counts))), 0, 1)
    found = []
    for _ in range(400):
        keys = [tuple(draw_keys(generator, (count,), 256)) for count in counts]
        found.append(total_p(estimates, keys, levels=256, permutations=49, generator=generator))
    for level in (0.02, 0.2, 0.5):
        assert abs(np.mean(np.array(found) <= level) - level) <= 4 * math.sqrt(level * (1 - level) / 400)


def test_total_p_finds_one_record_in_five_that_is_recalled():
    keys = keys_for([1] * 100, 17)
    estimates = seeded(18).random((1, 100))
    estimates[0, :20] = [own[0] for own in keys[:20]]
    assert total_p(estimates, keys, levels=256, permutations=999, generator=seeded()) == 0.001
    twice = np.repeat(estimates, 2, axis=0)
    assert total_p(twice, keys, levels=256, permutations=199, draws=499, generator=seeded()) == 0.005


def test_auc_and_roc_are_those_of_scikit_learn_with_ties():
    generator = seeded(19)
    ours, theirs = (generator.integers(0, high, size) / 30 for high, size in ((20, 57), (30, 83)))
    truth, scores = [1] * 57 + [0] * 83, [-score for score in (*ours, *theirs)]
    assert auc(ours, theirs) == pytest.approx(roc_auc_score(truth, scores))
    x, y, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.array(roc(ours, theirs)), np.array([x, y]).T)


def test_auc_by_hand():
    assert auc([0.1, 0.2], [0.3, 0.4]) == 1
    assert auc([0.3, 0.4], [0.1]) == 0
    assert auc([0.2], [0.2]) == 0.5
    assert math.isnan(auc([], [0.2]))
    assert roc([], [0.2]) == []


def test_auc_at_chance_stays_inside_its_interval():
    generator = seeded(20)
    low, high = auc_null_interval(30, 50)
    inside = [low <= auc(generator.random(30), generator.random(50)) <= high for _ in range(2000)]
    assert abs(np.mean(inside) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000) + 0.003
    assert auc_null_interval(0, 3) == (0, 1)
