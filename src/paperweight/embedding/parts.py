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
_FEWEST = 32


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

    Of copies of an image one is in one part, and the others are left out. Without labels of two classes there is
    nothing to judge by, and all images are for training.

    Args:
        data: The images.
        seed: Decides which ones.

    Raises:
        InputError: If there are fewer different images to learn from than that makes sense for.
    """
    pools = [pool for pool in (data.train, data.test) if pool is not None]
    images = np.concatenate([pool.images for pool in pools])
    labels = np.concatenate([pool.labels for pool in pools])
    first = first_of_each(images)
    of = np.full(len(images), LEFT_OUT, dtype=object)
    start = len(data.train) if data.test is not None else len(images)
    own, tested = np.unique(first[start:], return_index=True)
    rest = np.setdiff1d(np.unique(first[:start]), own)
    if len(data.classes) > 1:
        draw = np.random.default_rng(seed)
        free = draw.permutation(rest)
        if data.test is None:
            judging = free[: min(_MOST, len(free) // _SHARE)]
        else:
            judging = start + draw.permutation(tested)[:_MOST]
        free = np.setdiff1d(free, judging, assume_unique=True)
        choosing = free[: min(_MOST, len(free) // _SHARE)]
        of[judging], of[choosing] = TEST, VALIDATION
        of[free[len(choosing) :]] = TRAIN
    else:
        of[np.unique(first)] = TRAIN
    learned = int((of == TRAIN).sum())
    if learned < _FEWEST:
        raise InputError(
            f"{data.name} must hold at least {_FEWEST} different images to learn from, got {learned} that are not for "
            "tests; add images"
        )
    return Parts(images, labels, first, of)
