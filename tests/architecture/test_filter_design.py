"""Filter design: orthonormal banks, patches by slices, components against eigenvectors, centroids of few patches."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperweight.architecture.filter_design import (
    dct_bank,
    gabor_bank,
    hebbian_filters,
    init_conv_,
    kmeans_filters,
    pca_filters,
    random_patches,
)
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.studies.architecture.filter_design import RECIPE
from paperweight.testing import FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def convolution(channels: int = 2, filters: int = 3, side: int = 2, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, filters, side, groups=groups, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        conv.weight.copy_(normal(*conv.weight.shape, seed=5))
        conv.bias.copy_(normal(filters, seed=6))
    return conv


PATCHES = normal(12, 2, 3, 3)
UNFIT = (PATCHES[0], PATCHES[:0], PATCHES.long())
SPREAD = torch.tensor([3.0, 2.0, 1.0, 0.5])


def tilted(count: int) -> tuple[Tensor, Tensor]:
    """Give patches of 2 channels and 2 x 2 pixels, centred, whose principal components are known."""
    basis = torch.linalg.qr(normal(8, 8, seed=3) - normal(8, 8, seed=3).mean(dim=0)).Q.T[:4]
    return (normal(count, 4, seed=4) * SPREAD @ basis).reshape(count, 2, 2, 2), basis.reshape(4, 2, 2, 2)


CONTRACT = {
    "dct_bank": FunctionSubject(
        make=dct_bank,
        arguments={"count": 5, "side": 3},
        bad={"count": (0, 10, 2.5, True), "side": (0, -1, 2.5)},
    ),
    "gabor_bank": FunctionSubject(
        make=gabor_bank,
        arguments={"count": 5, "side": 5},
        bad={"count": (0, 2.5, True), "side": (2, 0, 2.5)},
    ),
    "random_patches": FunctionSubject(
        make=lambda images, count, side, seed=0: random_patches(images, count, side, generator=seeded(seed)),
        arguments={"images": normal(2, 3, 6, 5), "count": 4, "side": 3},
        bad={"images": (normal(3, 6, 5), normal(0, 3, 6, 5)), "count": (0, 1.5), "side": (0, 6, 2.5)},
    ),
    "pca_filters": FunctionSubject(
        make=pca_filters, arguments={"patches": PATCHES, "count": 3}, bad={"patches": UNFIT, "count": (0, 19, 1.5)}
    ),
    "kmeans_filters": FunctionSubject(
        make=lambda patches, count, steps=3, whiten=0.1, seed=0: kmeans_filters(
            patches, count, steps, whiten, generator=seeded(seed)
        ),
        arguments={"patches": PATCHES, "count": 3},
        bad={
            "patches": UNFIT,
            "count": (0, 13, 1.5),
            "steps": (0, 1.5),
            "whiten": (0.0, -1.0, math.inf, math.nan),
        },
    ),
    "hebbian_filters": FunctionSubject(
        make=lambda patches, count, lr=0.1, passes=1, seed=0: hebbian_filters(
            patches, count, lr, passes, generator=seeded(seed)
        ),
        arguments={"patches": PATCHES, "count": 3},
        bad={
            "patches": UNFIT,
            "count": (0, 19, 1.5),
            "lr": (0.0, 1.0, -0.1, math.nan),
            "passes": (0, 1.5),
        },
    ),
    "init_conv_": FunctionSubject(
        make=lambda bank: dict(init_conv_(convolution(), bank).state_dict()),
        arguments={"bank": normal(3, 2, 2, 2)},
        bad={
            "bank": (
                normal(3, 3, 2, 2),
                normal(3, 2, 3, 3),
                normal(2, 2, 2),
                torch.zeros(1, 2, 2, 2),
                math.nan * normal(3, 2, 2, 2),
            )
        },
    ),
}


@pytest.mark.parametrize("side", [1, 2, 5])
def test_cosines_are_orthonormal_and_the_first_is_constant(side):
    bank = dct_bank(side * side, side).flatten(1).double()
    torch.testing.assert_close(bank @ bank.T, torch.eye(side * side, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(bank[0], torch.full((side * side,), 1 / side, dtype=torch.float64))


def test_cosines_by_hand_and_in_order():
    bank = dct_bank(9, 3)
    half = 1 / math.sqrt(2)
    third = 1 / math.sqrt(3)
    torch.testing.assert_close(bank[1, 0], torch.tensor([[half, 0, -half]] * 3) * third)
    torch.testing.assert_close(bank[2, 0], torch.tensor([[half] * 3, [0] * 3, [-half] * 3]) * third)
    # Changes of sign along rows and columns never become fewer.
    changes = [
        int((one.sign().diff(dim=0)[:, 0] != 0).sum() + (one.sign().diff(dim=1)[0] != 0).sum()) for one in bank[:, 0]
    ]
    assert changes[0] == 0
    assert changes[-1] == max(changes)


def test_waves_are_even_and_odd_and_turn():
    bank = gabor_bank(8, 7)[:, 0]
    turned = bank.flip(1, 2)
    assert torch.allclose(turned[::2], bank[::2], atol=1e-6)
    assert torch.allclose(turned[1::2], -bank[1::2], atol=1e-6)
    torch.testing.assert_close(bank.flatten(1).norm(dim=1), torch.ones(8))
    assert bank.mean(dim=(1, 2)).abs().max() < 1e-6
    # The first wave runs along rows, the third, a quarter of a turn on with the same length, along columns.
    assert torch.allclose(bank[4], bank[0].T, atol=1e-6)
    along, across = bank[1].diff(dim=1).abs().sum(), bank[1].diff(dim=0).abs().sum()
    assert along > 2 * across
    assert bank[0, 3, 3] == bank[0].max()
    # Wavelengths: cos(2 pi x / 3) is -1/2 at one pixel off, under a bell.
    bell = math.exp(-1 / (2 * (7 / 4) ** 2))
    mean_off = bank[0] - bank[0, 0, 0]
    raw = torch.cos(2 * math.pi * torch.arange(-3, 4) / 3) * torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * (7 / 4) ** 2))
    corner = raw[0] * math.exp(-9 / (2 * (7 / 4) ** 2))
    ratio = (mean_off[3, 4] / mean_off[3, 3]).item()
    assert ratio == pytest.approx(((-0.5 * bell - corner) / (1 - corner)).item(), rel=1e-4)


def test_patches_are_slices_of_images_and_all_places_occur():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    patches = random_patches(images, 400, 3, generator=seeded())
    places = {
        tuple(images[n, :, i : i + 3, j : j + 3].flatten().tolist())
        for n in range(2)
        for i in range(2)
        for j in range(3)
    }
    assert {tuple(patch.flatten().tolist()) for patch in patches} == places


def test_components_are_those_of_the_covariance():
    patches, basis = tilted(4_000)
    found = pca_filters(patches + 7.0, 3)
    cosines = (found.flatten(1) @ basis.flatten(1).T).abs()
    assert (cosines.diagonal() > 0.99).all()
    flat = found.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(3), atol=1e-5, rtol=0)
    assert (flat.gather(1, flat.abs().argmax(dim=1, keepdim=True)) > 0).all()
    # Their variances fall, and are those of the patches along them.
    variances = ((patches.flatten(1)) @ flat.T).var(dim=0)
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)
    assert variances.sqrt().tolist() == pytest.approx(SPREAD[:3].tolist(), rel=0.05)


def test_as_many_centroids_as_patches_are_these_patches():
    patches = normal(6, 1, 3, 3)
    centred = patches.flatten(1) - patches.flatten(1).mean(dim=1, keepdim=True)
    expected = centred / centred.norm(dim=1, keepdim=True)
    found = kmeans_filters(patches, 6, whiten=None, generator=seeded()).flatten(1)
    cosines = found @ expected.T
    torch.testing.assert_close(cosines.abs().max(dim=1).values, torch.ones(6))
    assert sorted(cosines.abs().argmax(dim=1).tolist()) == list(range(6))


def test_centroids_find_directions_whatever_the_sign():
    directions = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]])
    directions /= directions.norm(dim=1, keepdim=True)
    signs = torch.tensor([1.0, -1.0]).repeat(30)[:, None]
    patches = torch.cat([signs * direction for direction in directions]) + 0.02 * normal(180, 4)
    start = torch.randperm(180, generator=seeded(2))[:3] // 60
    assert len(set(start.tolist())) == 3  # one of each to start from
    found = kmeans_filters(patches.reshape(180, 1, 2, 2), 3, whiten=None, generator=seeded(2)).flatten(1)
    assert ((found @ directions.T).abs().max(dim=0).values > 0.999).all()


def test_one_iteration_by_hand():
    patches = torch.tensor([[3.0, -3.0, 0, 0], [1.0, -1.0, 0, 0], [-2.0, 1.0, 1.0, 0]]).reshape(3, 1, 2, 2)
    flat = patches.flatten(1)
    start = torch.randperm(3, generator=seeded(1))[:1]
    centroid = flat[start] / flat[start].norm()
    moved = centroid + sum((row @ centroid[0]) * row for row in flat)
    found = kmeans_filters(patches, 1, steps=1, whiten=None, generator=seeded(1)).flatten(1)
    torch.testing.assert_close(found, moved / moved.norm())


def test_a_whitened_iteration_by_its_definition():
    # ZCA: patches times C^(-1/2), with half of the mean variance on each, and centroids times the same.
    patches = normal(40, 1, 2, 2).double()
    flat = patches.flatten(1) - patches.flatten(1).mean(dim=1, keepdim=True)
    covariance = flat.T @ flat / 40
    covariance += 0.5 * covariance.trace() / 4 * torch.eye(4)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ values.sqrt().diag() @ vectors.T
    torch.testing.assert_close(root @ root, covariance)
    white = flat @ torch.linalg.inv(root)
    start = torch.randperm(40, generator=seeded(1))[:2]
    centroids = white[start] / white[start].norm(dim=1, keepdim=True)
    moved = centroids.clone()
    for row in white:
        nearest = int((centroids @ row).abs().argmax())
        moved[nearest] += (centroids[nearest] @ row) * row
    expected = moved / moved.norm(dim=1, keepdim=True) @ torch.linalg.inv(root)
    found = kmeans_filters(patches, 2, steps=1, whiten=0.5, generator=seeded(1)).flatten(1)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_whitening_gives_weak_directions_a_centroid():
    # Nine patches in ten are along the first direction, long; without whitening both centroids can end there.
    strong, weak = torch.tensor([10.0, -10, 0, 0]), torch.tensor([0, 0, 0.1, -0.1])
    patches = torch.cat([strong.repeat(450, 1), weak.repeat(50, 1)]) * normal(500, 1, seed=1).sign()
    patches = (patches + 0.001 * normal(500, 4, seed=2)).reshape(500, 1, 2, 2)
    order = torch.randperm(500, generator=seeded(3))
    start = order[:2]
    assert {bool(number < 450) for number in start.tolist()} == {True, False}
    found = kmeans_filters(patches, 2, whiten=1e-4, generator=seeded(3)).flatten(1)
    expected = torch.stack([strong / strong.norm(), weak / weak.norm()])
    assert ((found @ expected.T).abs().max(dim=0).values > 0.9).all()


def test_hebbian_units_become_principal_components():
    patches, basis = tilted(3_000)
    found = hebbian_filters(5.0 * patches, 2, lr=0.02, passes=4, generator=seeded()).flatten(1)
    cosines = found @ basis.flatten(1)[:2].T / found.norm(dim=1, keepdim=True)
    assert (cosines.abs().diagonal() > 0.99).all()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=0.1, rtol=0)


def test_hebbian_steps_written_out():
    patches = normal(3, 1, 2, 2)
    flat = patches.flatten(1) - patches.flatten(1).mean(dim=1, keepdim=True)
    flat /= flat.square().sum(dim=1).mean().sqrt()
    draw = seeded(1)
    weights = torch.randn(2, 4, generator=draw)
    weights /= weights.norm(dim=1, keepdim=True)
    orders = []
    for _ in range(3):
        orders.append(torch.randperm(3, generator=draw).tolist())
        for number in orders[-1]:
            x = flat[number]
            y = [float(row @ x) for row in weights]
            first = weights[0] + 0.1 * y[0] * (x - y[0] * weights[0])
            second = weights[1] + 0.1 * y[1] * (x - y[0] * weights[0] - y[1] * weights[1])
            weights = torch.stack([first, second])
    assert orders[0] != orders[1]
    found = hebbian_filters(patches, 2, lr=0.1, passes=3, generator=seeded(1))
    torch.testing.assert_close(found.flatten(1), weights)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_convolution_is_turned_and_keeps_its_lengths(count):
    conv, bank = convolution(), normal(count, 2, 2, 2)
    before = copy.deepcopy(conv)
    assert init_conv_(conv, bank) is conv
    lengths = before.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(conv.weight.flatten(1).norm(dim=1), lengths)
    for number in range(3):
        if number < count:
            cosine = torch.cosine_similarity(conv.weight[number].flatten(), bank[number].flatten(), dim=0)
            assert cosine.item() == pytest.approx(1, abs=1e-6)
        else:
            assert torch.equal(conv.weight[number], before.weight[number])
    assert torch.equal(conv.bias, before.bias)
    assert conv.weight.requires_grad


def test_a_grey_bank_is_put_on_each_channel_and_groups_are_refused():
    conv = init_conv_(convolution(channels=3).double(), dct_bank(3, 2))
    assert torch.equal(conv.weight[1, 0], conv.weight[1, 2])
    assert torch.cosine_similarity(conv.weight[1, 0].flatten(), dct_bank(3, 2)[1].flatten().double(), dim=0) > 0.999999
    with pytest.raises(ValueError, match="conv must be without groups and parametrizations"):
        init_conv_(convolution(channels=4, filters=4, groups=2), normal(4, 2, 2, 2))


@pytest.mark.parametrize(("build", "reason"), [(LeNet, ""), (ResNet, ""), (MLP, "no two-dimensional convolution")])
def test_the_recipe_changes_the_first_convolution_alone_where_it_fits(build, reason):
    torch.manual_seed(0)
    model = build((1, 8, 8), 3)
    data = SimpleNamespace(train=SimpleNamespace(images=normal(2, 1, 8, 8)))
    assert reason in RECIPE.fits(model, data)
    assert bool(RECIPE.fits(model, data)) is bool(reason)
    if not reason:
        before = copy.deepcopy(model.state_dict())
        RECIPE.pretraining(model, normal(30, 1, 8, 8), 10, seeded())
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == ["body.0.weight"]


def test_centroids_do_not_start_from_patches_of_one_value():
    flat = torch.ones(50, 1, 2, 2)
    uneven = normal(6, 1, 2, 2)
    for seed in range(5):
        found = kmeans_filters(torch.cat([flat, uneven]), 6, generator=seeded(seed))
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(6))
    with pytest.raises(ValueError, match="count must be a whole number from 1 to 6, got 7"):
        kmeans_filters(torch.cat([flat, uneven]), 7, generator=seeded())


def test_a_parametrized_convolution_is_refused():
    conv = nn.utils.parametrizations.weight_norm(convolution())
    with pytest.raises(ValueError, match="conv must be without groups and parametrizations"):
        init_conv_(conv, normal(3, 2, 2, 2))
    data = SimpleNamespace(train=SimpleNamespace(images=normal(2, 1, 8, 8)))
    wrapped = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), nn.Flatten(), nn.Linear(144, 2))
    assert "first convolution" in RECIPE.fits(wrapped, data)
    small = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(16, 2))
    assert "not smaller than its filters" in RECIPE.fits(small, data)
