"""Triggers by hand, and what they refuse."""

import math

import pytest
import torch
from tests.poisoning.problems import drawn

from paperweight.poisoning import Additive, Blend, Patch

IMAGES = drawn(3, 2, 4, 5)
PATTERN = drawn(2, 4, 5, seed=2)


@pytest.mark.parametrize(("top", "left", "rows", "columns"), [(0, 0, (0, 2), (0, 3)), (-2, -3, (2, 4), (2, 5))])
def test_a_patch_covers_its_place_and_nothing_else(top, left, rows, columns):
    pattern = drawn(2, 2, 3, seed=3)
    changed = Patch(pattern, top, left)(IMAGES)
    for number in range(3):
        for channel in range(2):
            for row in range(4):
                for column in range(5):
                    inside = rows[0] <= row < rows[1] and columns[0] <= column < columns[1]
                    expected = (
                        pattern[channel, row - rows[0], column - columns[0]]
                        if inside
                        else IMAGES[number, channel, row, column]
                    )
                    assert changed[number, channel, row, column] == expected


def test_a_blend_is_a_weighted_mean():
    expected = 0.7 * IMAGES.double() + 0.3 * PATTERN.double()
    torch.testing.assert_close(Blend(PATTERN, 0.3)(IMAGES).double(), expected, atol=1e-7, rtol=0)
    assert torch.equal(Blend(PATTERN, 1)(IMAGES), PATTERN.expand(3, 2, 4, 5))


def test_what_is_added_is_clipped():
    added = 2 * PATTERN - 1
    changed = Additive(added)(IMAGES)
    assert torch.equal(changed, torch.minimum(torch.maximum(IMAGES + added, torch.zeros(1)), torch.ones(1)))
    assert ((changed == 0) | (changed == 1)).any()


@pytest.mark.parametrize("trigger", [Patch(PATTERN, 0, 0), Blend(PATTERN, 0.3), Additive(PATTERN)])
def test_images_given_stay_and_their_precision_is_kept(trigger):
    before = IMAGES.clone()
    trigger(IMAGES)
    assert torch.equal(IMAGES, before)
    for dtype in (torch.float64, torch.bfloat16):
        assert trigger(IMAGES.to(dtype)).dtype == dtype
    assert trigger(IMAGES[:0]).shape == (0, 2, 4, 5)


@pytest.mark.parametrize("trigger", [Patch, Blend, Additive])
def test_the_pattern_is_a_copy(trigger):
    given = PATTERN.clone()
    made = {Patch: lambda: Patch(given, 0, 0), Blend: lambda: Blend(given, 0.3), Additive: lambda: Additive(given)}
    planted = made[trigger]()
    before = planted(IMAGES)
    given.zero_()
    assert torch.equal(planted(IMAGES), before)


@pytest.mark.parametrize(
    "pattern",
    [PATTERN[0], PATTERN + 1, PATTERN * math.nan, PATTERN.long(), PATTERN[:, :0], -0.1 - PATTERN],
    ids=["two dimensions", "too bright", "no number", "whole numbers", "empty", "negative"],
)
def test_bad_patterns_are_named(pattern):
    for make in (lambda: Patch(pattern, 0, 0), lambda: Blend(pattern, 0.5)):
        with pytest.raises(ValueError, match=r"^pattern must"):
            make()


def test_what_is_added_may_be_negative_but_not_beyond_the_range():
    Additive(-PATTERN)
    with pytest.raises(ValueError, match=r"^pattern must be within -1 and 1"):
        Additive(PATTERN - 1.5)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, math.nan, True])
def test_bad_shares_are_named(share):
    with pytest.raises(ValueError, match=r"^share must"):
        Blend(PATTERN, share)


@pytest.mark.parametrize(("top", "left"), [(1.0, 0), (True, 0)])
def test_bad_places_are_named(top, left):
    with pytest.raises(ValueError, match=r"^top must be a whole number"):
        Patch(PATTERN, top, left)


@pytest.mark.parametrize(("top", "left"), [(1, 0), (0, 1), (-5, 0)])
def test_a_patch_beyond_the_image_is_refused(top, left):
    with pytest.raises(ValueError, match=r"^pattern must lie within images of 4 x 5"):
        Patch(PATTERN, top, left)(IMAGES)


@pytest.mark.parametrize(
    "images", [IMAGES[0], IMAGES[:, :1], IMAGES.long()], ids=["one image", "another channel", "whole numbers"]
)
def test_bad_images_are_named(images):
    for trigger in (Patch(PATTERN[:, :1, :1], 0, 0), Blend(PATTERN, 0.5), Additive(PATTERN)):
        with pytest.raises(ValueError, match=r"^images must be floating"):
            trigger(images)


def test_a_blend_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"shape \(N, 2, 4, 5\)"):
        Blend(PATTERN, 0.5)(IMAGES[..., :3])
