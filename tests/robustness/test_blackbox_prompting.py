"""Black-box prompting: tokens by a loop, the process against scikit-learn's, searches by what they ask about."""

import math

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from paperweight.robustness.blackbox_prompting import (
    fitted,
    matern,
    nearest_tokens,
    posterior,
    square_search,
    trust_region_search,
)
from paperweight.testing import ExperimentSubject, FunctionSubject


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


TABLE = torch.randn(9, 3, generator=seeded())
VECTORS = torch.randn(4, 2, 3, generator=seeded(1))
ALLOWED = torch.arange(9) % 3 > 0
LOW, HIGH = torch.tensor([-1.0, -2.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 3.0, 2.0])
TOP = torch.tensor([0.4, -1.0, 2.0, 0.5])


def bowl(points):
    return -(points - TOP).square().sum(dim=1)


SEARCH = {"queries": (0, 1.5, True), "batch": (0, 1.5, True)}

CONTRACT = {
    "nearest_tokens": FunctionSubject(
        make=nearest_tokens,
        arguments={"vectors": VECTORS, "table": TABLE, "allowed": ALLOWED},
        bad={
            "vectors": (VECTORS[..., :2], torch.tensor(1.0)),
            "table": (TABLE[0],),
            "allowed": (ALLOWED[:3], ALLOWED.float(), torch.zeros(9, dtype=torch.bool)),
        },
    ),
    "square_search": ExperimentSubject(
        make=square_search,
        arguments={"score": bowl, "mean": TOP * 0, "deviation": torch.ones(4), "spacing": 1.0, "queries": 30},
        fields=("best", "points", "scores"),
        bad={
            "mean": (torch.zeros(0), torch.zeros(2, 2)),
            "deviation": (torch.ones(3), -torch.ones(4)),
            "spacing": (0.0, math.nan, math.inf, True),
            "share": (0.0, 1.1, math.nan, True),
            **SEARCH,
        },
    ),
    "trust_region_search": ExperimentSubject(
        make=trust_region_search,
        arguments={"score": bowl, "lower": LOW, "upper": HIGH, "queries": 40},
        fields=("best", "points", "scores"),
        bad={
            "lower": (torch.zeros(0), HIGH, torch.zeros(2, 2)),
            "upper": (HIGH[:3], LOW),
            "length": (2**-7, 1.7, math.nan, True),
            **SEARCH,
        },
    ),
}


def test_nearest_tokens_are_those_of_a_loop_and_never_forbidden():
    found = nearest_tokens(VECTORS, TABLE, ALLOWED)
    for place in ((i, j) for i in range(4) for j in range(2)):
        distances = {n: (VECTORS[place] - TABLE[n]).norm().item() for n in range(9) if ALLOWED[n]}
        assert found[place].item() == min(distances, key=distances.__getitem__)
    assert nearest_tokens(TABLE, TABLE).tolist() == list(range(9))
    assert not torch.isin(nearest_tokens(TABLE, TABLE, ALLOWED), torch.arange(9)[~ALLOWED]).any()


def test_the_process_is_that_of_scikit_learn():
    points, asked = (torch.rand(n, 3, generator=seeded(n), dtype=torch.float64) for n in (12, 5))
    values = torch.sin(5 * points).sum(dim=1)
    for scale, noise in ((0.3, 0.01), (1.5, 0.1)):
        kernel = Matern(scale, "fixed", nu=2.5)
        peer = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(points.numpy(), values.numpy())
        mean, covariance = peer.predict(asked.numpy(), return_cov=True)
        found = posterior(points, values, asked, scale, noise)
        torch.testing.assert_close(found[0], torch.from_numpy(mean))
        torch.testing.assert_close(found[1], torch.from_numpy(covariance))
        torch.testing.assert_close(
            matern(points, asked, scale), torch.from_numpy(kernel(points.numpy(), asked.numpy()))
        )


def test_scale_and_noise_are_those_of_the_highest_marginal_likelihood():
    points = torch.rand(15, 3, generator=seeded(2), dtype=torch.float64)
    root = math.sqrt(3)
    for values in (torch.sin(9 * points).sum(dim=1), points.sum(dim=1), torch.randn(15, generator=seeded()).double()):
        best = {}
        for scale in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
            for noise in (1e-4, 1e-2, 1e-1):
                kernel = Matern(scale * root, "fixed", nu=2.5) + WhiteKernel(noise, "fixed")
                peer = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(points.numpy(), values.numpy())
                best[scale * root, noise] = peer.log_marginal_likelihood_value_
        assert fitted(points, values) == max(best, key=best.__getitem__)


@pytest.mark.parametrize("search", [square_search, trust_region_search])
def test_both_climb_a_bowl_and_ask_as_often_as_told(search):
    asked = []

    def score(points):
        asked.append(len(points))
        return bowl(points)

    if search is square_search:
        middle, spread = (LOW + HIGH) / 2, (HIGH - LOW) / 4
        found = search(score, middle, spread, spacing=2.0, share=0.5, queries=103, generator=seeded())
    else:
        found = search(score, LOW, HIGH, queries=103, generator=seeded())
    assert asked == [10] * 10 + [3]
    assert torch.equal(found.scores, bowl(found.points))
    assert torch.equal(found.best, found.points[found.scores.argmax()])
    assert found.scores.max() > found.scores[:10].max()
    if search is trust_region_search:
        assert found.scores.max() > bowl(LOW + (HIGH - LOW) * torch.rand(2_000, 4, generator=seeded(9))).max()
        assert (found.best - TOP).abs().max() < 0.2
        assert len({tuple(point) for point in found.points.tolist()}) == 103
        assert ((found.points >= LOW) & (found.points <= HIGH)).all()


def test_noise_is_on_a_share_of_the_entries_of_the_best_and_grows_where_scores_are_alike():
    mean, deviation = torch.full((40,), 3.0), torch.full((40,), 0.5)
    for slope in (0.01, 1.0):
        found = square_search(
            lambda points, slope=slope: slope * points.mean(dim=1),
            mean,
            deviation,
            spacing=0.2,
            queries=400,
            batch=200,
            generator=seeded(),
        )
        first, second = found.points[:200], found.points[200:]
        assert first.mean().item() == pytest.approx(3.0, abs=0.02)
        assert first.std().item() == pytest.approx(0.5, rel=0.03)
        change = second - first[found.scores[:200].argmax()]
        assert ((change != 0).sum(dim=1) == 4).all()
        expected = 0.2 / (10 * max(found.scores[:200].std().item(), 1e-4))
        assert change[change != 0].std().item() == pytest.approx(expected, rel=0.1)
    assert ((change != 0).sum(dim=0) > 5).all()


def test_the_box_shrinks_without_success_and_the_search_begins_anew():
    found = trust_region_search(
        lambda points: -points[:, 0] * 0, torch.zeros(4), torch.ones(4), queries=600, length=0.1, generator=seeded()
    )
    batches, middle = found.points.split(10), found.points[0]
    reach = [(batch - middle).abs().max().item() for batch in batches]
    for number, side in enumerate((0.1, 0.05, 0.025, 0.0125)):  # four batches each, after the first two
        within = reach[2 + 4 * number : 6 + 4 * number]
        assert all(side / 4 < r <= side / 2 + 1e-6 for r in within)
    assert reach[18] > 0.3  # drawn from everywhere again
    again = found.points[180]
    assert 0 < (batches[20] - again).abs().max() <= 0.05 + 1e-6


def test_the_box_grows_with_success():
    count = iter(range(10_000))
    found = trust_region_search(
        lambda points: torch.tensor([float(next(count)) for _ in points]),
        torch.zeros(4),
        torch.ones(4),
        queries=110,
        length=0.05,
        generator=seeded(),
    )
    batches = found.points.split(10)
    for number in range(2, 11):
        side = 0.05 * 2 ** ((number - 2) // 3)
        middle = batches[number - 1][-1]  # the last is the best
        reach = (batches[number] - middle).abs().max().item()
        assert side / 4 < reach <= side / 2 + 1e-6


def test_in_many_dimensions_few_entries_change():
    found = trust_region_search(
        lambda points: -points.square().sum(dim=1), torch.zeros(80), torch.ones(80), queries=60, generator=seeded()
    )
    best = found.points[:20][found.scores[:20].argmax()]
    changed = (found.points[20:30] != best).sum(dim=1).double()
    assert 8 < changed.mean() < 35
