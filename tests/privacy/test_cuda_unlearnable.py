"""CUDA against loops over every pixel, filters by hand, and SciPy's correlation."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from paperweight.privacy.cuda_unlearnable import CUDATransform, class_filters, convolve_by_class
from paperweight.testing import DataTransformSubject, FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


FILTERS = class_filters(3, generator=seeded())

CONTRACT = {
    "CUDATransform": DataTransformSubject(
        make=partial(CUDATransform, filters=FILTERS, fraction=0.5),
        range=(0, 1),
        random=True,
        bad={"filters": (FILTERS[0], FILTERS[:, :2], FILTERS[:0]), "fraction": (-0.1, 1.1, math.nan)},
        null=partial(CUDATransform, FILTERS, fraction=0.0),
        baseline=lambda: lambda images, labels, *, generator: (images, labels),
        expected_failures={},
    ),
    "class_filters": FunctionSubject(
        make=lambda **given: class_filters(**{"generator": seeded(), **given}),
        arguments={"classes": 3},
        bad={"classes": (0, 1.5), "k": (2, 0, 3.0), "blur": (-0.1, math.nan), "place": ("corner",)},
    ),
    "convolve_by_class": FunctionSubject(
        make=convolve_by_class,
        arguments={"images": drawn(3, 2, 4, 4), "labels": torch.tensor([2, 0, 2]), "filters": FILTERS},
        bad={
            "images": (drawn(2, 4, 4), torch.zeros(3, 2, 4, 4, dtype=torch.uint8)),
            "labels": (torch.tensor([0, 1]), torch.tensor([0, 1, 3]), torch.tensor([0, -1, 1]), torch.zeros(3)),
            "filters": (FILTERS[:, :, :2], FILTERS[0]),
        },
    ),
}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("place", ["random", "centre"])
def test_filters_hold_a_single_one_and_smaller_entries(k, place):
    filters = class_filters(200, k=k, blur=0.3, place=place, generator=seeded())
    ones = filters == 1
    assert ones.flatten(1).sum(1).tolist() == [1] * 200
    others = filters[~ones]
    assert ((others >= 0) & (others < 0.3)).all()
    if k > 1:
        assert abs(others.mean().item() - 0.15) < 0.01
    places = ones.flatten(1).int().argmax(1).unique().tolist()
    assert places == ([k * k // 2] if place == "centre" else list(range(k * k)))


def test_the_seed_is_the_secret():
    again, other = class_filters(3, generator=seeded()), class_filters(3, generator=seeded(1))
    assert torch.equal(FILTERS, again)
    assert not torch.equal(FILTERS, other)


def test_convolution_equals_a_loop_over_every_pixel_and_scipy():
    images, labels = drawn(5, 3, 6, 4).double(), torch.tensor([1, 0, 2, 1, 1])
    filters = class_filters(3, k=3, generator=seeded(4)).double()
    expected = torch.zeros_like(images)
    for n, c, y, x, i, j in itertools.product(range(5), range(3), range(6), range(4), range(3), range(3)):
        row, column = y + i - 1, x + j - 1
        if 0 <= row < 6 and 0 <= column < 4:
            expected[n, c, y, x] += filters[labels[n], i, j] * images[n, c, row, column]
    result = convolve_by_class(images, labels, filters)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    for n, c in itertools.product(range(5), range(3)):
        correlated = ndimage.correlate(images[n, c].numpy(), filters[labels[n]].numpy(), mode="constant")
        np.testing.assert_allclose(result[n, c].numpy(), correlated, rtol=1e-12)


def test_convolution_is_linear_and_by_class_alone():
    images, labels = drawn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(
        convolve_by_class(0.25 * images, labels, FILTERS), 0.25 * convolve_by_class(images, labels, FILTERS)
    )
    alone = torch.cat([convolve_by_class(images[i : i + 1], labels[i : i + 1], FILTERS) for i in range(4)])
    torch.testing.assert_close(alone, convolve_by_class(images, labels, FILTERS))


def test_without_blur_an_image_is_divided_by_its_maximum():
    images, labels = 0.7 * drawn(6, 3, 5, 5), torch.arange(6) % 3
    centre = class_filters(3, blur=0.0, place="centre", generator=seeded())
    changed, same = CUDATransform(centre)(images, labels)
    torch.testing.assert_close(changed, images / images.flatten(1).amax(1)[:, None, None, None])
    assert torch.equal(same, labels)


def test_each_image_reaches_1_and_channels_share_filter_and_maximum():
    images, labels = drawn(9, 3, 8, 8), torch.arange(9) % 3
    changed, _ = CUDATransform(FILTERS)(images, labels)
    assert changed.flatten(1).amax(1).tolist() == [1.0] * 9
    assert changed.min() >= 0
    scale = (changed / convolve_by_class(images, labels, FILTERS)).flatten(1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))


def test_a_black_image_stays_black_and_no_image_is_no_error():
    changed, _ = CUDATransform(FILTERS)(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    assert torch.equal(changed, torch.zeros(2, 1, 4, 4))
    changed, labels = CUDATransform(FILTERS)(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    assert (changed.shape, labels.shape) == ((0, 1, 4, 4), (0,))


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_a_share_of_the_images_is_changed_the_others_bit_for_bit_the_same(fraction, count):
    images, labels = drawn(12, 1, 6, 6), torch.arange(12) % 3
    whole, _ = CUDATransform(FILTERS)(images, labels)
    some, _ = CUDATransform(FILTERS, fraction)(images, labels, generator=seeded(5))
    same = (some == images).flatten(1).all(1)
    assert int((~same).sum()) == count
    torch.testing.assert_close(some[~same], whole[~same])


def test_who_is_changed_follows_the_generator():
    images, labels = drawn(40, 1, 4, 4), torch.zeros(40, dtype=torch.int64)
    half = CUDATransform(FILTERS, 0.5)
    first, again, other = (half(images, labels, generator=seeded(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="generator must be given where fraction is neither 0 nor 1"):
        half(images, labels)


@pytest.mark.parametrize("images", [-drawn(2, 1, 4, 4), 255 * drawn(2, 1, 4, 4), drawn(2, 1, 4, 4) / 0])
def test_entries_outside_0_and_1_are_refused(images):
    with pytest.raises(ValueError, match="images must have entries from 0 to 1"):
        CUDATransform(FILTERS)(images, torch.tensor([0, 1]))
