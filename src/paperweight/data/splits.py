"""Stratified random parts of a set of labelled images, as tensors."""

from dataclasses import dataclass

import numpy as np
import torch

from paperweight.data.copies import first_of_each
from paperweight.data.images import ImageData, ImageSet
from paperweight.data.labelled import LabelledImages
from paperweight.data.parts import brief
from paperweight.errors import InputError

__all__ = ["Splits", "split_images"]


@dataclass(frozen=True)
class Splits:
    """Three parts without overlap, the class names, and the shape (C, H, W) of an image."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    shape: tuple[int, int, int]


def split_images(data: ImageData, *, train: int, validation: int, test: int, generator: torch.Generator) -> Splits:
    """Draw random parts in which every class has its share.

    Where the source has a test part, `test` is drawn from it, and `train` and `validation` from the rest; otherwise
    all three come from the one pool. Where a pool holds fewer images than asked for, its parts shrink in proportion.
    An image that is there several times is drawn once at most, and not for training if it is in the source's test part.

    Args:
        data: The images to draw from.
        train: How many training images, at least one for each class.
        validation: How many validation images: none, or at least one for each class.
        test: How many test images: none, or at least one for each class.
        generator: Decides which images are drawn, and their order. On the CPU.

    Returns:
        The parts, each in random order.

    Raises:
        InputError: If a size is below the number of classes, or a class has too few images to be in every part.

    Example:
        >>> from paperweight.data import load_images
        >>> draw = torch.Generator().manual_seed(0)
        >>> splits = split_images(load_images("digits"), train=100, validation=50, test=50, generator=draw)
        >>> len(splits.train), splits.shape, torch.bincount(splits.test.labels).tolist()
        (100, (1, 8, 8), [5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for part, size in sizes.items():
        least = 1 if part == "train" else 0
        if not isinstance(size, int) or size < least or 0 < size < len(data.classes):
            rule = f"at least {len(data.classes)}, one for each class" + ("" if least else ", or 0")
            room = min((n for n in sizes.values() if isinstance(n, int) and n > 0), default=0)
            raise InputError(
                f"{part} must be {rule}, got {size!r} where {data.name} has {len(data.classes)} classes; ask for more "
                f"images, as a larger budget does, or give at most {room} classes, as a folder of links to so many does"
            )
    if data.test is None:
        drawn = _draw(
            data.train, first_of_each(data.train.images) == np.arange(len(data.train)), sizes, data.classes, generator
        )
    else:
        first = first_of_each(data.test.images, data.train.images)
        free = first == np.arange(len(first))
        asked = {"train": train, "validation": validation}
        drawn = _draw(data.train, free[len(data.test) :], asked, data.classes, generator)
        drawn |= _draw(data.test, free[: len(data.test)], {"test": test}, data.classes, generator)
    _, channels, height, width = data.train.images.shape
    return Splits(drawn["train"], drawn["validation"], drawn["test"], data.classes, (channels, height, width))


def _draw(
    pool: ImageSet, free: np.ndarray, sizes: dict[str, int], classes: tuple[str, ...], generator: torch.Generator
) -> dict[str, LabelledImages]:
    """Draw parts of the given sizes from the free images of one pool."""
    counts = np.bincount(pool.labels[free], minlength=len(classes))
    asked = {part: size for part, size in sizes.items() if size > 0}
    few = [
        f"{name!r} has {n} image{'' if n == 1 else 's'}"
        for name, n in zip(classes, counts, strict=True)
        if n < len(asked)
    ]
    if few:
        copies = " (an image counts once, and not for training if it is in the test part)" if not free.all() else ""
        raise InputError(
            f"class {brief(few)} to draw {', '.join(asked)} from, but needs at least {len(asked)}{copies}; add "
            "images, leave such classes out, or ask for fewer parts"
        )
    wanted = np.array(list(asked.values()))
    total = min(int(wanted.sum()), int(counts.sum()))
    least = np.full(len(wanted), len(classes))
    shrunk = _share(total, wanted, least, wanted) if asked else wanted
    order = [torch.randperm(int(n), generator=generator).numpy() for n in counts]
    members = [np.flatnonzero(free & (pool.labels == index))[order[index]] for index in range(len(classes))]
    used = np.zeros_like(counts)
    drawn = {}
    for index, part in enumerate(asked):
        room = counts - used - (len(asked) - index - 1)
        quota = _share(int(shrunk[index]), counts, np.ones_like(counts), room)
        rows = np.concatenate([m[u : u + q] for m, u, q in zip(members, used, quota, strict=True)])
        used += quota
        drawn[part] = _tensors(pool, rows[torch.randperm(len(rows), generator=generator).numpy()])
    nothing = np.zeros(0, np.int64)
    return {part: drawn[part] if part in drawn else _tensors(pool, nothing) for part in sizes}


def _share(total: int, weights: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return whole numbers between `least` and `most` that add up to `total`, as near to proportion as they can be."""
    ideal = total * weights / weights.sum()
    share = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while share.sum() != total:
        step = 1 if share.sum() < total else -1
        free = share < most if step > 0 else share > least
        share[np.where(free, (ideal - share) * step, -np.inf).argmax()] += step
    return share


def _tensors(pool: ImageSet, rows: np.ndarray) -> LabelledImages:
    return LabelledImages(
        torch.from_numpy(pool.images[rows]).to(torch.float32) / 255,
        torch.from_numpy(np.asarray(pool.labels[rows], dtype=np.int64)),
    )
