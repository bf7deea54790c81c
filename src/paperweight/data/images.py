"""Labelled images from a name, a folder, a Parquet file or an archive, decoded once and memory-mapped afterwards."""

import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from paperweight.data.cache import Entry, entry_key, fingerprint, read_entry, write_entry
from paperweight.data.copies import copy_notes
from paperweight.data.decoding import decode, square
from paperweight.data.embedded import embedded, is_embedded
from paperweight.data.named import find
from paperweight.data.parts import Part, Source, arranged, brief
from paperweight.data.ranges import Extent, extent, scale, to_bytes
from paperweight.data.sources import open_source
from paperweight.errors import InputError

__all__ = ["ImageData", "ImageSet", "load_images"]


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 of shape (N, C, H, W) with C 1 or 3, and their labels, int64 of shape (N,), from 0 to K - 1."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A set of labelled images as its source gives it.

    `test` is the source's own test part, if it has one. `classes` holds the K class names. `fingerprint` is a SHA-256
    of pixels, labels and class names. `notes` says in sentences what was done to the source.
    """

    train: ImageSet
    test: ImageSet | None
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    notes: tuple[str, ...]


def load_images(
    source: str | Path,
    *,
    max_side: int = 64,
    labelled: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Load images and their labels.

    Images that share one size with no side above `max_side` keep it. Otherwise the centred square of each is resized
    with antialiasing, to `max_side`, or to the median shorter side if no image reaches `max_side`. There is one
    channel if every image is stored as grey, else three. Pixels of other depths than 8 bits are scaled by the range
    that the whole set uses, and a note says how. What is decoded is cached under `cache_root()`.

    Args:
        source: An embedded set, "digits", "glyphs" or as `is_embedded` says; the name of a folder under the folder
            that the environment variable `PAPERWEIGHT_DATA` names; or a path: a folder with one folder of images for
            each class, or with folders of such for training, tests and validation, under their usual names; a Parquet
            file, or a folder of them, as data hubs lay them out (columns `image` and `label` or their like); an `.npz`
            file with arrays `x` and `y`, and maybe `x_test` and `y_test`, or as Keras and MedMNIST name them; a folder
            of IDX files, as of MNIST, or of CIFAR's binary batches.
        max_side: The largest height and width, in pixels.
        labelled: Whether images without classes, or of only one, are refused; else those without are of one class.
        progress: Called now and then while images are decoded, with how many are done and how many there are.

    Raises:
        InputError: If the source is missing, damaged, or not labelled with at least two classes though it must be.

    Example:
        >>> data = load_images("digits")
        >>> data.train.images.shape, data.train.labels[:3].tolist(), len(data.classes)
        ((1797, 1, 8, 8), [0, 1, 2], 10)
    """
    if not isinstance(max_side, int) or max_side < 1:
        raise InputError(f"max_side must be a whole number of pixels, at least 1, got {max_side!r}")
    if is_embedded(source):
        return _data(str(source), embedded(str(source)))
    try:
        path = find(source)
        opened = open_source(path, labelled=labelled)
        key = entry_key(opened.files, max_side)
        entry = read_entry(key) or write_entry(key, _build(opened, path, max_side, progress))
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror or error}); correct that"
        ) from error
    if labelled and len(entry.classes) < 2:
        only = ", ".join(map(repr, entry.classes))
        raise InputError(f"{path} holds only one class ({only}); classification needs images of at least two")
    return _data(path.absolute().name, entry, opened.notes)


def _data(name: str, entry: Entry, notes: tuple[str, ...] = ()) -> ImageData:
    parts = {
        part: ImageSet(entry.arrays[f"{part}_images"], entry.arrays[f"{part}_labels"])
        for part in ("train", "test")
        if f"{part}_images" in entry.arrays
    }
    return ImageData(parts["train"], parts.get("test"), entry.classes, name, entry.fingerprint, (*notes, *entry.notes))


def _build(source: Source, path: Path, max_side: int, progress: Callable[[int, int], None] | None) -> Entry:
    """Read, decode and fit everything: what a cache entry holds."""
    parts, notes = arranged(source.read())
    labels, classes, more = _number_labels(parts)
    images, names, done = _decode_all([part for group in parts.values() for part in group], max_side, progress)
    base = f"{path if path.is_dir() else path.parent}{os.sep}"
    copies = copy_notes(images, labels, [name.removeprefix(base) for name in names])
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for name in parts:
        arrays[f"{name}_labels"] = labels[name]
        arrays[f"{name}_images"] = images[start : start + len(labels[name])]
        start += len(labels[name])
    return Entry(arrays, classes, (*notes, *more, *done, *copies), fingerprint(arrays, classes))


def _number_labels(
    parts: dict[str, list[Part]],
) -> tuple[dict[str, np.ndarray], tuple[str, ...], list[str]]:
    """Return the labels of each part as 0 to K - 1, the class names, and notes."""
    everything = list(chain.from_iterable(parts.values()))
    kinds = {(part.names is not None, part.labels.dtype.kind == "U") for part in everything}
    if len(kinds) > 1:
        raise InputError(
            f"{everything[-1].where} labels its images in another way than {everything[0].where} (numbers, strings, "
            "numbers with declared names); use one way"
        )
    values: dict[str, list[np.ndarray]] = {
        name: [_label_values(part) for part in group] for name, group in parts.items()
    }
    present = np.unique(np.concatenate([v for group in values.values() for v in group]))
    notes = []
    ordered: list[Any] = present.tolist()
    if any(part.names is not None for part in everything):
        declared = dict.fromkeys(chain.from_iterable(part.names or () for part in everything))
        used = set(ordered)
        ordered = [name for name in declared if name in used]
        if len(ordered) < len(declared):
            notes.append(f"{len(declared) - len(ordered)} of {len(declared)} declared classes have no image")
    elif present.dtype.kind != "U" and ordered != list(range(len(ordered))):
        notes.append(f"labels {brief(ordered)} were renumbered 0 to {len(ordered) - 1}")
    classes = tuple(str(value) for value in ordered)
    number = {value: index for index, value in enumerate(ordered)}
    labels = {
        name: np.array([number[v] for v in chain.from_iterable(a.tolist() for a in group)], np.int64)
        for name, group in values.items()
    }
    for one, other in (("train", "test"), ("test", "train")):
        if one in labels and other in labels:
            alone = sorted(set(labels[one].tolist()) - set(labels[other].tolist()))
            if alone:
                notes.append(f"classes in the {one} part only: {brief([classes[i] for i in alone])}")
    return labels, classes, notes


def _label_values(part: Part) -> np.ndarray:
    """Return the labels of a part: names where they are strings or declared, otherwise integers."""
    if part.labels.dtype.kind == "U":
        return part.labels
    numbers = part.labels.astype(np.int64)
    if numbers.min() < 0:
        row = int((numbers < 0).argmax())
        raise InputError(
            f"{part.where}, row {row}: the label is {numbers[row]}; remove unlabelled rows, labels start at 0"
        )
    if part.names is None:
        return numbers
    if numbers.max() >= len(part.names):
        row = int((numbers >= len(part.names)).argmax())
        raise InputError(
            f"{part.where}, row {row}: the label is {numbers[row]}, but only "
            f"{len(part.names)} class names are declared; correct the label or the names"
        )
    return np.array(part.names)[numbers]


def _decode_all(
    parts: list[Part], max_side: int, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return all images as one array of shape (N, C, H, W), how messages name them, and notes.

    An image with a side above `max_side` settles the size of all, so it is resized at once: memory
    holds no large one.
    """
    total = sum(len(part.labels) for part in parts)
    small: list[np.ndarray] = []
    names: list[str] = []
    extents: list[Extent] = []
    sizes: set[tuple[int, int]] = set()
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for where, content in chain.from_iterable(part.entries() for part in parts):
            pixels, done = decode(content, where) if isinstance(content, bytes) else (content, ())
            names.append(where)
            extents.append(extent(pixels, where))
            counts.update(done)
            size = (pixels.shape[0], pixels.shape[1])
            sizes.add(size)
            small.append(square(pixels, max_side) if max(size) > max_side else pixels)
            if progress is not None and (len(small) % 256 == 0 or len(small) == total):
                progress(len(small), total)
    notes = [f"{n} image{' was' if n == 1 else 's were'} {phrase}" for phrase, n in sorted(counts.items())]
    scales = {kind: scale([e for e in extents if e.kind == kind]) for kind in sorted({e.kind for e in extents})}
    notes += [note for _, _, note in scales.values() if note]
    small = [to_bytes(pixels, *scales[e.kind][:2]) for pixels, e in zip(small, extents, strict=True)]
    height, width = next(iter(sizes))
    if len(sizes) > 1 or max(height, width) > max_side:
        too_large = any(max(size) > max_side for size in sizes)
        side = max_side if too_large else int(np.median([min(pixels.shape[:2]) for pixels in small]))
        what = f"images of {len(sizes)} sizes" if len(sizes) > 1 else f"images of size {height} x {width}"
        notes.append(f"{what} were cut to their centred square and resized to {side} x {side}")
        height = width = side
    colour = any(pixels.ndim == 3 for pixels in small)
    out = np.empty((len(small), 3 if colour else 1, height, width), np.uint8)
    for target, pixels in zip(out, small, strict=True):
        fitted = pixels if pixels.shape[:2] == (height, width) else square(pixels, height)
        target[:] = fitted.transpose(2, 0, 1) if fitted.ndim == 3 else fitted
    return out, names, notes
