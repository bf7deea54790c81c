"""Accuracies with intervals, neighbours, and images that show the same, beside hand-computed cases and loops."""

import math

import numpy as np
import pytest
import torch

from paperweight.embedding.judging import compared, duplicates, neighbours, picked, scored, small_pixels


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    right, count, z = 45, 60, 1.959963984540054
    found = scored(torch.arange(count) < right)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    assert (found.value, found.low, found.high) == pytest.approx((share, middle - half, middle + half))


def test_the_interval_of_a_difference_covers_and_turns_with_the_sides() -> None:
    draw = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        luck = torch.rand(3, 200, generator=draw)
        one, other = luck[0] < 0.5, torch.where(luck[1] < 0.4, luck[2] < 0.3, luck[0] < 0.5)
        found, back = compared(one, other), compared(other, one)
        assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
        assert found.low < found.value < found.high
        covered += found.low <= 0.4 * (0.5 - 0.3) <= found.high
    assert 0.92 < covered / 400 < 0.99


def test_the_interval_of_a_difference_is_one_of_shares() -> None:
    right = torch.ones(8, dtype=torch.bool)
    assert compared(right, ~right).high == 1.0
    assert compared(~right, right).low == -1.0


def test_neighbours_by_a_loop() -> None:
    features = drawn(30, 4)
    others = torch.arange(5, 30)
    units = features - features.mean(dim=0)
    found = neighbours(features, torch.tensor([2, 7, 29]), others, 3)
    for query, row in zip([2, 7, 29], found.tolist(), strict=True):
        cosines = {int(o): float(torch.cosine_similarity(units[query], units[o], dim=0)) for o in others if o != query}
        assert row == sorted(cosines, key=lambda o, c=cosines: -c[o])[:3]
    assert neighbours(features, torch.tensor([0]), torch.arange(3), 9).shape == (1, 2)


def test_images_that_show_the_same_are_found_and_others_are_not() -> None:
    images = drawn(40, 3, 8, 8)
    images[17] = 0.7 * images[4] + 0.3 + 0.02 * drawn(3, 8, 8, seed=1)
    images[30] = images[9]
    images[39] = 0.0
    features = images.flatten(1)
    first = np.arange(40)
    first[30] = 9
    (pair,) = duplicates(images, features, first)
    assert (pair.one, pair.other) == (4, 17)
    assert pair.correlation == pytest.approx(float(torch.corrcoef(images[[4, 17]].flatten(1))[0, 1]), abs=1e-5)
    assert duplicates(images[:1], features[:1], np.zeros(1, np.int64)) == []


def test_pixels_are_resized_only_where_they_are_many() -> None:
    assert small_pixels(drawn(2, 1, 32, 32)).shape == (2, 1_024)
    assert small_pixels(drawn(2, 3, 64, 48)).shape[1] <= 1_024
    images = drawn(2, 3, 8, 8)
    assert torch.equal(small_pixels(images), images.flatten(1))


def test_samples_of_as_many_classes_as_there_are_take_turns() -> None:
    assert picked([0, 0, 1, 2, 1], [1, 0, 4, 2, 3], 4) == [1, 4, 3, 0]
    assert picked([0], [0], 8) == [0]
