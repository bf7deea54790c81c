"""Which images an encoder learns, which ones choose a probe, and which ones judge it."""

from typing import NamedTuple

import numpy as np

from paperweight.data import ImageData
from paperweight.data.copies import first_of_each
from paperweight.errors import InputError

__all__ = ["LEFT_OUT", "TEST", "TRAIN", "VALIDATION", "Parts", "divided"]

TRAIN, VALIDATION, TEST, LEFT_OUT = "train", "validation", "test", "left out"

_SHARE = 5
_MOST = 2_000
_FEWEST = 40


class Parts(NamedTuple):
    """All images of a set, those of its training part first, and what each is for.

    Args:
        images: Shape (N, C, H, W), uint8.
        labels: From 0, (N,), int64.
        first: The number of the first image with the same pixels, (N,).
        of: What each is for, (N,), strings.
    """

    images: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    of: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        """Return the numbers of the images of a part."""
        return np.flatnonzero(self.of == part)


def divided(data: ImageData, seed: int) -> Parts:
    """Divide a set: a fifth of it, or up to 2,000 images of its own test part, are for the test, as many choose.

    Copies of an image are all in one part, and those of a test image in none beside. Without labels of two classes
    there is nothing to judge by, and all images are for training.

    Args:
        data: The images.
        seed: Decides which ones.

    Raises:
        InputError: If there are fewer images than that makes sense for.
    """
    pools = [pool for pool in (data.train, data.test) if pool is not None]
    images = np.concatenate([pool.images for pool in pools])
    labels = np.concatenate([pool.labels for pool in pools])
    first = first_of_each(images)
    if len(np.unique(first)) < _FEWEST:
        raise InputError(
            f"{data.name} must hold at least {_FEWEST} different images to learn from, got {len(np.unique(first))}"
        )
    of = np.full(len(images), TRAIN, dtype=object)
    if len(data.classes) > 1:
        draw = np.random.default_rng(seed)
        if data.test is not None:
            rest, own = np.unique(first[: len(data.train)]), np.unique(first[len(data.train) :])
            rest = np.setdiff1d(rest, own)
            of[len(data.train) :] = LEFT_OUT
        else:
            rest = own = np.unique(first)
        tested = draw.permutation(own)[: min(_MOST, len(own) if data.test is not None else len(own) // _SHARE)]
        free = draw.permutation(np.setdiff1d(rest, tested))
        chosen = free[: min(_MOST, len(free) // _SHARE)]
        of[np.isin(first, own) & (data.test is not None)] = LEFT_OUT
        of[np.isin(first, tested)] = TEST
        of[np.isin(first, chosen)] = VALIDATION
    return Parts(images, labels, first, of)
