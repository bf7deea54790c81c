"""Types of latents by hand, total correlation and mutual information in closed form, and what passive means do."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from paperweight.representation.vae_variable_types import (
    averaged_mutual_information,
    compare_latents,
    total_correlation,
    variable_types,
)
from paperweight.testing import ExperimentSubject, FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
NOT_CODES = (normal(4), normal(0, 3), normal(4, 0), torch.ones(4, 2, dtype=torch.int64), normal(4, 2) / 0)
NONE = torch.full((4, 2), -math.inf)
NAMES = tuple(f"{of}{which}" for which in ("", " active", " kept") for of in ("mean", "sampled"))

CONTRACT = {
    "compare_latents": ExperimentSubject(
        make=compare_latents,
        arguments={"mean": normal(50, 3), "log_variance": normal(50, 3, seed=1)},
        fields=("types", "total_correlation", "mutual_information"),
        known=(
            (
                # Without variance samples are means, and all latents are active.
                {"mean": SIGNS, "log_variance": NONE},
                {"total_correlation": dict.fromkeys(NAMES, 0.0), "mutual_information": dict.fromkeys(NAMES, 0.0)},
            ),
            (
                {"mean": SIGNS[:, :1].repeat(1, 2), "log_variance": NONE, "bins": 4},
                {"mutual_information": dict.fromkeys(NAMES, math.log(2))},
            ),
        ),
        bad={
            "mean": (*NOT_CODES, normal(1, 3)),
            "log_variance": (normal(50, 2), normal(50), torch.full((50, 3), 800.0), normal(50, 3) * math.nan),
            "bins": (1, 0, 2.5, True),
            "error": (0.0, 0.5, -0.1, math.nan),
            "spread": (0.0, -1.0, math.inf, math.nan),
        },
    ),
    "variable_types": FunctionSubject(
        make=lambda variances, error=0.1, spread=0.1: [
            ("active", "mixed", "passive").index(each) for each in variable_types(variances, error, spread)
        ],
        arguments={"variances": normal(5, 2).square()},
        bad={
            "variances": (*NOT_CODES, -normal(4, 2).abs()),
            "error": (0.0, 0.5, -0.1, math.nan),
            "spread": (0.0, -1.0, math.inf, math.nan),
        },
    ),
    "total_correlation": FunctionSubject(
        make=total_correlation, arguments={"codes": normal(9, 3)}, bad={"codes": (*NOT_CODES, normal(1, 3))}
    ),
    "averaged_mutual_information": FunctionSubject(
        make=averaged_mutual_information,
        arguments={"codes": normal(9, 3)},
        bad={"codes": (*NOT_CODES, normal(1, 3)), "bins": (1, 0, 2.5, True)},
    ),
}


def test_types_by_hand():
    variances = torch.tensor(
        [
            # Active, at its bound, above it; passive at both bounds and beyond; far apart.
            [0.0, 0.1, 0.11, 0.91, 1.09, 0.88, 1.12, 0.02],
            [0.0, 0.1, 0.11, 0.91, 1.09, 0.88, 1.12, 1.0],
        ],
        dtype=torch.float64,
    )
    types = ("active", "active", "mixed", "passive", "passive", "mixed", "mixed", "mixed")
    assert variable_types(variances) == types
    # Half of the inputs at 0 and half at 2: the mean is 1, but no input is passive.
    assert variable_types(torch.tensor([[0.0], [2.0]])) == ("mixed",)
    # One of 20 inputs at 1: the mean is 0.05, and the variance 0.0475.
    rare = torch.zeros(20, 1)
    rare[0] = 1
    assert variable_types(rare) == ("active",)
    assert variable_types(rare, spread=0.04) == ("mixed",)
    assert variable_types(rare, error=0.04) == ("mixed",)
    # The variance is that of the data, (1/20)(19/20), not a sample's estimate.
    assert variable_types(rare, spread=0.0476) == ("active",)
    assert variable_types(torch.full((1, 1), 1.0)) == ("passive",)


@pytest.mark.parametrize("r", [-0.9, -0.3, 0.0, 0.5, 0.99])
def test_total_correlation_of_two_is_a_closed_form_at_any_scale(r):
    # Codes whose sample correlation is r exactly.
    first, second = SIGNS.double().unbind(dim=1)
    codes = torch.stack([first, r * first + (1 - r * r) ** 0.5 * second], dim=1)
    expected = -0.5 * math.log(1 - r * r)
    for scale in (1.0, 1e-30, 1e30):
        scaled = codes * torch.tensor([1.0, scale]).double() + torch.tensor([3.0, 0.0]).double()
        assert total_correlation(scaled) == pytest.approx(expected, abs=1e-9)


def test_total_correlation_by_the_formula_of_the_paper():
    codes = (normal(200, 4) @ normal(4, 4, seed=1)).double()
    covariance = np.cov(codes.numpy().T)
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    assert total_correlation(codes) == pytest.approx(expected, rel=1e-9)
    assert total_correlation(codes.float()) == pytest.approx(expected, rel=1e-3)
    # A latent that never varies, such as the mean of a dead one, is independent of all.
    for still in (0.0, 7.3, -1e20):
        with_still = torch.cat([codes, torch.full((200, 2), still).double()], dim=1)
        assert total_correlation(with_still) == pytest.approx(expected, rel=1e-9)
    assert total_correlation(codes[:, :1]) == 0
    assert total_correlation(codes[:, [0, 1, 0]]) > 15


@pytest.mark.parametrize("bins", [2, 7, 20])
def test_mutual_information_by_scikit_learn(bins):
    codes = (normal(300, 3) @ normal(3, 3, seed=1)).double()
    places = []
    for column in codes.numpy().T:
        edges = np.histogram(column, bins)[1][:-1]
        places.append(np.digitize(column, edges))
    pairs = [mutual_info_score(places[i], places[j]) for i in range(3) for j in range(3) if i != j]
    assert averaged_mutual_information(codes, bins) == pytest.approx(sum(pairs) / 6, rel=1e-9)
    scaled = codes * torch.tensor([1e-20, -3.0, 1e20]).double()
    assert averaged_mutual_information(scaled, bins) == pytest.approx(sum(pairs) / 6, abs=0.05)
    assert averaged_mutual_information(codes[:, :1]) == 0


def test_mutual_information_of_what_is_equal_and_of_what_never_varies():
    even = torch.arange(40.0)[:, None]
    assert averaged_mutual_information(even.repeat(1, 3), 4) == pytest.approx(math.log(4))
    assert averaged_mutual_information(torch.cat([even, torch.full((40, 1), 3.0)], dim=1)) == 0


def test_passive_means_that_follow_an_active_one_correlate_in_means_alone():
    count = 20_000
    active, tiny = normal(count, 2), 1e-2 * normal(count, 1, seed=1)
    mean = torch.cat([active, 1e-2 * active[:, :1] + tiny], dim=1)
    log_variance = torch.tensor([0.01, 0.02, 1.0]).log().expand(count, 3)
    found = compare_latents(mean, log_variance, generator=seeded())
    assert found.types == ("active", "active", "passive")
    total = found.total_correlation
    # The third mean has a correlation of sqrt(1/2) with the first; its sample has one of 0.01 / sqrt(1.0002).
    assert total["mean"] == pytest.approx(0.5 * math.log(2), abs=0.02)
    assert total["sampled"] == pytest.approx(0, abs=1e-3)
    assert total["mean active"] == total["mean kept"] == pytest.approx(0, abs=1e-3)
    assert found.mutual_information["mean"] > found.mutual_information["sampled"] + 0.03
    assert found.mutual_information["mean active"] == found.mutual_information["mean kept"]


def test_samples_have_the_variance_of_the_encoder_and_mixed_latents_are_kept():
    log_variance = torch.tensor([[0.04, 0.04, 0.04], [0.04, 0.04, 1.0]]).log().repeat(5_000, 1)
    shared = normal(10_000, 1)
    found = compare_latents(shared.repeat(1, 3), log_variance, generator=seeded())
    assert found.types == ("active", "active", "mixed")
    # Two samples of variance 1.04 that share a mean of variance 1.
    expected = -0.5 * math.log(1 - (1 / 1.04) ** 2)
    assert found.total_correlation["sampled active"] == pytest.approx(expected, abs=0.03)
    assert found.total_correlation["sampled kept"] == found.total_correlation["sampled"]
    assert found.total_correlation["sampled kept"] > found.total_correlation["sampled active"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_precision_and_latents_with_gradients(dtype):
    mean = normal(64, 3).to(dtype).requires_grad_(True)
    found = compare_latents(mean, torch.zeros(64, 3, dtype=dtype), generator=seeded())
    assert found.types == ("passive",) * 3
    assert found.total_correlation["mean active"] == found.mutual_information["mean kept"] == 0
    assert mean.grad is None
    assert math.isfinite(found.total_correlation["sampled"])
