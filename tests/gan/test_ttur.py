"""The Fréchet distance against closed forms, hand-computed cases, SciPy's root, and images that are disturbed."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from paperweight.data import gaussian_blur, load_images
from paperweight.gan.ttur import FrechetDistance, frechet_distance, gaussian_statistics
from paperweight.loops import fit_classifier
from paperweight.nets import LeNet
from paperweight.testing import FunctionSubject, MetricSubject

F64 = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def covariance(values: Tensor, axes: Tensor) -> Tensor:
    product = (axes * values) @ axes.T
    return (product + product.T) / 2


def points(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1)


FIRST, SECOND = normal(7, 3, dtype=torch.float32), 2 * normal(7, 3, seed=1, dtype=torch.float32) + 1
TURN = rotation(3).float()
MEAN, COV = normal(3), covariance(torch.tensor([1.0, 2.0, 3.0], dtype=F64), rotation(3))

CONTRACT = {
    "FrechetDistance": MetricSubject(
        make=FrechetDistance,
        inputs=(FIRST, SECOND),
        known=(
            # means 1 and 5, standard deviations sqrt 2 and 3 sqrt 2: 16 + 8
            ((points(0, 2), points(2, 8)), 24.0),
            # covariances [[2, 2], [2, 2]] and [[2, -2], [-2, 2]] of rank one: their product is 0
            ((torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])), 8.0),
            ((FIRST, FIRST.flip(0)), 0.0),
        ),
        range=(0.0, math.inf),
        symmetries={
            "swapping the sets": lambda first, second: (second, first),
            "reversing the samples of one set": lambda first, second: (first, second.flip(0)),
            "shifting both sets": lambda first, second: (first + 3, second + 3),
            "rotating both sets": lambda first, second: (first @ TURN, second @ TURN),
        },
        tolerance=1e-5,
        bad={"extractor_name": ("", " ")},
    ),
    "frechet_distance": FunctionSubject(
        make=frechet_distance,
        arguments={"mean1": MEAN, "cov1": COV, "mean2": 2 * MEAN, "cov2": COV @ COV},
        bad={
            "mean1": (torch.zeros(2), torch.zeros(3, 1), torch.zeros(0)),
            "cov1": (torch.eye(2), torch.ones(3)),
            "mean2": (torch.zeros(2), torch.zeros(1, 3)),
            "cov2": (torch.eye(4),),
        },
    ),
    "gaussian_statistics": FunctionSubject(
        make=gaussian_statistics,
        arguments={"features": FIRST},
        bad={"features": (torch.zeros(1, 3), torch.zeros(3), torch.zeros(4, 0), torch.zeros(3, 2, 1))},
    ),
}


@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), [(0.0, 1.0, 3.0, 2.0), (-1.5, 0.0, 2.0, 0.5), (4.0, 1e-9, 4.0, 7.0)])
def test_gaussians_on_the_line(m1, s1, m2, s2):
    mean1, cov1, mean2, cov2 = (torch.tensor(x, dtype=F64) for x in ([m1], [[s1**2]], [m2], [[s2**2]]))
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx((m1 - m2) ** 2 + (s1 - s2) ** 2, rel=1e-14)


def commuting(size: int, kind: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues of two covariances with common axes."""
    k = torch.arange(1, size + 1, dtype=F64)
    first, second = {
        "plain": (1 + k / size, 2 - k / size),
        "decaying": (k**-2, k**-1),
        "nearly singular": (10 ** (-10 * k / size), 10 ** (-12 * k / size)),
        "one large": (torch.where(k == size, 1.0, 1e-6), torch.where(k == size, 1.0, 1e-6)),
        "first singular": ((k <= size // 2) / k, k / size),
        "second singular": (k / size, (k <= size // 3) * 1.0),
        "both singular": ((k <= size // 2) / k, (k > size // 3) * 1.0),
        "of rank one": ((k == 1) * 3.0, (k == 1) * 2.0),
        "one zero": (0 * k, k),
    }[kind]
    return first.to(F64), second.to(F64)


@pytest.mark.parametrize("size", [3, 128])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "decaying",
        "nearly singular",
        "one large",
        "first singular",
        "second singular",
        "both singular",
        "of rank one",
        "one zero",
    ],
)
def test_commuting_covariances_have_the_sum_of_squared_differences_of_standard_deviations(kind, size):
    first, second = commuting(size, kind)
    axes, zero = rotation(size, seed=3), torch.zeros(size, dtype=F64)
    expected = (first.sqrt() - second.sqrt()).square().sum().item()
    for pair in ((first, second), (second, first)):
        value = frechet_distance(zero, covariance(pair[0], axes), zero, covariance(pair[1], axes))
        assert abs(value - expected) < 1e-11 * (first.sum() + second.sum()).item()


@pytest.mark.parametrize("rank", [5, 40])
def test_covariances_that_do_not_commute_against_the_optimal_map(rank):
    # Where T is symmetric without negative eigenvalues, x -> T x is optimal and costs Tr (T - 1) C (T - 1).
    size, values = 40, torch.arange(1, 41, dtype=F64)
    cov = covariance(values * (values <= rank), rotation(size))
    move = covariance(1 / values, rotation(size, seed=1))
    mean, other = normal(size), normal(size, seed=2)
    gap = move - torch.eye(size, dtype=F64)
    expected = ((mean - other).square().sum() + (gap @ cov @ gap).trace()).item()
    assert frechet_distance(mean, cov, other, move @ cov @ move) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(other, move @ cov @ move, mean, cov) == pytest.approx(expected, rel=1e-12)


def test_statistics_and_distance_against_numpy_and_scipy():
    first, second = normal(50, 8), normal(30, 8, seed=1) @ rotation(8) * torch.arange(1, 9) + 0.3
    statistics = [*gaussian_statistics(first), *gaussian_statistics(second)]
    for index, features in enumerate((first.numpy(), second.numpy())):
        np.testing.assert_allclose(statistics[2 * index], features.mean(axis=0), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(statistics[2 * index + 1], np.cov(features, rowvar=False), rtol=1e-12, atol=1e-13)
    m1, c1, m2, c2 = (part.numpy() for part in statistics)
    root = sqrtm(c1 @ c2)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-12)
    distance = FrechetDistance()
    distance.update(first, second)
    assert distance.compute() == pytest.approx(expected, rel=1e-12)


def test_far_from_the_origin_nothing_is_lost():
    first, second = normal(400, 5), 1.5 * normal(300, 5, seed=1)
    near, far = FrechetDistance(), FrechetDistance()
    near.update(first, second)
    for low in range(0, 400, 50):
        far.update(first[low : low + 50] + 1e6, None)
        far.update(None, second[low : low + 50] + 1e6)
    assert far.compute() == pytest.approx(near.compute(), rel=1e-7)


def test_half_precision_and_whole_numbers_are_summed_in_float64():
    features = torch.tensor([[2048.0], [2049.0], [2050.0], [2051.0]], dtype=F64)
    mean, cov = gaussian_statistics(features.half())
    assert (mean.dtype, cov.dtype) == (F64, F64)
    assert gaussian_statistics(features.long())[1].item() == pytest.approx(5 / 3, rel=1e-15)
    mean, cov = gaussian_statistics(torch.full((5000, 2), 1000.0, dtype=torch.bfloat16).requires_grad_())
    assert mean.tolist() == [1000.0, 1000.0]
    assert not cov.any()
    assert not mean.requires_grad


def test_a_set_has_no_distance_to_itself_and_what_is_not_finite_none_at_all():
    features = normal(20, 50)
    mean, cov = gaussian_statistics(features)
    assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-12
    features[3, 4] = math.nan
    distance = FrechetDistance()
    distance.update(features, normal(20, 50))
    assert math.isnan(distance.compute())


def test_the_name_tells_the_extractor():
    assert FrechetDistance().name == "Fréchet distance (inputs as features)"
    assert FrechetDistance(torch.sin, "sine").name == "Fréchet distance (sine)"
    assert FrechetDistance(extractor_name="pooled").name == "Fréchet distance (pooled)"
    with pytest.raises(ValueError, match="extractor_name must say"):
        FrechetDistance(torch.sin)


def test_faulty_features_are_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    distance = FrechetDistance(model, "a network")
    with pytest.raises(ValueError, match="eval mode"):
        distance.update(torch.zeros(4, 2), torch.zeros(4, 2))
    model.eval()
    distance.update(torch.zeros(4, 2), None)
    with pytest.raises(ValueError, match="second must have at least 2 samples, got 0"):
        distance.compute()
    distance.extractor = nn.Linear(2, 5).eval()
    with pytest.raises(ValueError, match="the same number in every call, got 3 and 5"):
        distance.update(None, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="as many samples as inputs, 4, got 2"):
        FrechetDistance(lambda inputs: inputs[:2], "half").update(torch.zeros(4, 2), None)
    with pytest.raises(ValueError, match="must have shape"):
        FrechetDistance().update(torch.zeros(4, 2, 1), None)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    """A small network trained on digits, and other digits."""
    digits = load_images("digits").train
    images, labels = torch.tensor(digits.images) / 255, torch.tensor(digits.labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LeNet((1, 8, 8), 10)
    fit_classifier(
        model,
        torch.optim.Adam(model.parameters(), lr=2e-3),
        images[:1000],
        labels[:1000],
        steps=150,
        batch_size=64,
        generator=torch.Generator().manual_seed(0),
    )
    return model.body.eval(), images[1000:]


def occluded(images: Tensor, side: int) -> Tensor:
    hidden = images.clone()
    hidden[:, :, :side, :side] = 0
    return hidden


@pytest.mark.parametrize(
    ("disturb", "strengths"),
    [
        (lambda images, sigma: images + sigma * normal(*images.shape, dtype=torch.float32), (0.0, 0.1, 0.2, 0.4, 0.8)),
        (lambda images, sigma: gaussian_blur(images, sigma) if sigma else images, (0.0, 0.5, 1.0, 1.5, 2.0)),
        (occluded, (0, 2, 4, 6)),
        (lambda images, count: torch.cat([images[count:], 1 - images[:count]]), (0, 50, 100, 200)),
    ],
    ids=["noise", "blur", "occlusion", "other images"],
)
def test_the_distance_grows_as_images_are_disturbed_more(trained, disturb, strengths):
    extractor, images = trained
    values = []
    for strength in strengths:
        distance = FrechetDistance(extractor, "LeNet trained on digits")
        distance.update(images, disturb(images, strength))
        values.append(distance.compute())
    with torch.no_grad():
        _, cov = gaussian_statistics(extractor(images))
    assert values[0] < 1e-11 * 2 * cov.trace().item()
    assert all(low < high for low, high in pairwise(values)), values
