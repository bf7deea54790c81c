"""Adaptive inflation: what a pass holds, by counting; views by hand, at their ends, and by their distribution."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from paperweight.data import adjust_colour
from paperweight.representation.adaptive_inflation import contrastive_view, inflated_index, real_share
from paperweight.testing import FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(6, 3, 8, 8, generator=seeded())
STILL = {"min_scale": 1.0, "max_ratio": 1.0, "jitter": 0.0, "grey_probability": 0.0, "flip_probability": 0.0}
COUNTS = {"real": (0, -1, 1.5, True), "generated": (-1, 0.5, False), "replication": (0, -1, 2.5, True)}


def drawn(images: Tensor, seed: int = 0, **given) -> Tensor:
    return contrastive_view(images, generator=seeded(seed), **given)


CONTRACT = {
    "inflated_index": FunctionSubject(
        make=inflated_index,
        arguments={"real": 3, "generated": 2},
        bad=COUNTS,
        null=lambda real, generated: inflated_index(real, 0, 1),
        baseline=lambda real, generated: torch.arange(real),
    ),
    "real_share": FunctionSubject(make=real_share, arguments={"real": 3, "generated": 2}, bad=COUNTS),
    "contrastive_view": FunctionSubject(
        make=drawn,
        arguments={"images": IMAGES},
        bad={
            "images": (IMAGES[0], IMAGES[:0], IMAGES[:, :2], (255 * IMAGES).byte()),
            "min_scale": (0.0, -1.0, 1.1, math.nan),
            "max_ratio": (0.9, 0.0, math.nan, math.inf),
            "jitter": (-0.1, math.nan, math.inf),
            "jitter_probability": (-0.1, 1.1, math.nan),
            "grey_probability": (-0.1, 1.1, math.nan),
            "flip_probability": (-0.1, 1.1, math.nan),
        },
        null=partial(drawn, **STILL),
        baseline=lambda images: images,
    ),
}


@pytest.mark.parametrize(("real", "generated", "replication"), [(3, 5, 4), (1, 0, 2), (4, 7, 1)])
def test_a_pass_by_counting(real, generated, replication):
    index = inflated_index(real, generated, replication)
    counts = index.bincount(minlength=real + generated)
    assert counts.tolist() == [replication] * real + [1] * generated
    share = (index < real).double().mean().item()
    assert real_share(real, generated, replication) == pytest.approx(share)


def test_it_goes_into_a_loader_of_two_sets_and_draws_real_images_at_their_share():
    real, generated = TensorDataset(torch.zeros(5, 1)), TensorDataset(torch.ones(30, 1))
    both = Subset(ConcatDataset([real, generated]), inflated_index(5, 30).tolist())
    seen = torch.cat([batch for (batch,) in DataLoader(both, batch_size=16, shuffle=True, generator=seeded())])
    assert len(seen) == 80
    assert (seen == 0).double().mean() == real_share(5, 30) == 50 / 80


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_any_change_it_is_the_identity_in_each_precision(dtype):
    images = IMAGES.to(dtype)
    assert torch.equal(drawn(images, **STILL), images)
    view = drawn(images)
    assert view.dtype == dtype
    assert view.shape == images.shape
    assert 0 <= view.min() <= view.max() <= 1


def test_parts_of_a_ramp_are_enlarged_as_their_size_and_place_say():
    # On a ramp x / 64 a part from a to b is a ramp of slope (b - a) / 64 a pixel, wherever it lies.
    size = 64
    ramp = (torch.arange(size) + 0.5) / size
    wide = ramp.expand(400, 1, size, size).contiguous()
    still = STILL | {"min_scale": 0.25, "max_ratio": 1.0}
    views = drawn(wide, **still)
    inner = views[:, 0, size // 2, size // 4 : -size // 4]
    sides = (inner[:, -1] - inner[:, 0]) * size / (inner.shape[1] - 1)
    assert sides.min() > 0.5 - 0.01
    assert sides.max() < 1 + 0.01
    torch.testing.assert_close((sides**2).mean(), torch.tensor(0.625), atol=0.03, rtol=0)
    middles = inner.mean(dim=1)
    assert (middles - 0.5 <= (1 - sides) / 2 + 0.01).all()
    assert (0.5 - middles <= (1 - sides) / 2 + 0.01).all()
    slack = (middles - 0.5)[sides < 0.8] / ((1 - sides[sides < 0.8]) / 2)
    assert slack.min() < -0.9
    assert slack.max() > 0.9
    tall = drawn(wide.mT.contiguous(), **still)[:, 0, size // 4 : -size // 4, size // 2]
    torch.testing.assert_close((tall[:, -1] - tall[:, 0]) * size / (tall.shape[1] - 1), sides, atol=0.01, rtol=0)
    # Of two ramps the ratio of the sides is between 3 / 4 and 4 / 3, and its logarithm about 0.
    both = STILL | {"min_scale": 0.25, "max_ratio": 4 / 3}
    across = drawn(wide, **both)[:, 0, 32, 16:-16]
    along = drawn(wide.mT.contiguous(), **both)[:, 0, 16:-16, 32]
    ratios = ((across[:, -1] - across[:, 0]) / (along[:, -1] - along[:, 0])).log()
    assert ratios.abs().max() < math.log(4 / 3) + 0.02
    assert ratios.abs().max() > math.log(4 / 3) - 0.05
    assert ratios.mean().abs() < 0.02


def test_jitter_grey_and_mirrors_come_as_often_as_they_are_told_to():
    images = IMAGES[:1].repeat(2_000, 1, 1, 1)
    mirrored = drawn(images, **STILL | {"flip_probability": 0.3})
    flips = (mirrored == images.flip(3)).flatten(1).all(dim=1)
    assert flips.double().mean() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(mirrored[~flips], images[~flips])
    grey = drawn(images, **STILL | {"grey_probability": 0.3})
    gone = (grey[:, 0] == grey[:, 1]).flatten(1).all(dim=1)
    assert gone.double().mean() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(grey[~gone], images[~gone])
    torch.testing.assert_close(grey[gone], adjust_colour(images[gone], saturation=0.0))
    changed = drawn(images, **STILL | {"jitter": 0.4, "jitter_probability": 0.3})
    other = (changed != images).flatten(1).any(dim=1)
    assert other.double().mean() == pytest.approx(0.3, abs=0.04)


def test_brightness_is_uniform_about_1():
    images = torch.full((3_000, 1, 2, 2), 0.25)
    factors = drawn(images, **STILL | {"jitter": 0.8, "jitter_probability": 1.0})[:, 0, 0, 0] / 0.25
    assert factors.min() > 0.2 - 1e-5
    assert factors.max() < 1.8 + 1e-5
    assert (factors.sort().values - torch.linspace(0.2, 1.8, 3_000)).abs().max() < 0.08
    dark = drawn(images, **STILL | {"jitter": 3.0, "jitter_probability": 1.0})
    assert dark.min() == 0


def test_views_draw_from_the_generator_alone_and_leave_images_as_they_are():
    kept, state = IMAGES.clone(), torch.get_rng_state()
    first, again, other = drawn(IMAGES), drawn(IMAGES), drawn(IMAGES, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(IMAGES, kept)
    assert torch.equal(state, torch.get_rng_state())
    assert drawn(IMAGES[:1, :1, :1, :1]).shape == (1, 1, 1, 1)
