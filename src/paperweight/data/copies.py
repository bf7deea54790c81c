"""Copies of an image within a set, found by the hash of its pixels."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

__all__ = ["copy_notes", "first_of_each"]


def first_of_each(*pools: np.ndarray) -> np.ndarray:
    """Return for each image the number of the first that has the same pixels, int64 of shape (N,).

    Args:
        pools: Images, shape (n, ...) each, N in all; they are numbered one pool after the other.

    Example:
        >>> first_of_each(np.array([[1, 2], [3, 4], [1, 2]], np.uint8)).tolist()
        [0, 1, 0]
    """
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(image, digest_size=16).digest() for pool in pools for image in _contents(pool))
    return np.fromiter((seen.setdefault(digest, n) for n, digest in enumerate(digests)), np.int64)


def _contents(images: np.ndarray) -> Iterator[memoryview]:
    if not images.size:
        return
    content = np.ascontiguousarray(images).data.cast("B")
    width = len(content) // len(images)
    for start in range(0, len(content), width):
        yield content[start : start + width]


def copy_notes(images: np.ndarray, labels: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Say which images are there more than once: in one part, under two classes, or in both parts.

    Args:
        images: Those of all parts, one part after the other.
        labels: The labels of each part, in the same order.
        names: How messages name each image.
    """
    first = first_of_each(images)
    classes = np.concatenate(list(labels.values()))
    ends = np.cumsum([len(values) for values in labels.values()], dtype=np.int64)
    part = np.searchsorted(ends, np.arange(len(first)), side="right")
    copies = np.flatnonzero(first != np.arange(len(first)))
    notes = []
    for found, what, remedy in (
        (
            copies[part[copies] == part[first[copies]]],
            "copies of others in their part",
            "a split takes each image once",
        ),
        (
            copies[part[copies] != part[first[copies]]],
            "in the test part and in the training part",
            "a split does not train on them",
        ),
        (copies[classes[copies] != classes[first[copies]]], "of two classes at once", "correct the labels"),
    ):
        if len(found):
            one = found[0]
            verb = "1 image is" if len(found) == 1 else f"{len(found)} images are"
            notes.append(f"{verb} {what}, such as {names[int(first[one])]} and {names[int(one)]}; {remedy}")
    return notes
