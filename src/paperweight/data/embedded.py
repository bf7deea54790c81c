"""The sets that need no files: scikit-learn's digits, and glyphs of any difficulty."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paperweight.data.cache import Entry, fingerprint, read_entry, write_entry
from paperweight.data.typesetting import CHARACTERS, MAKERS, glyphs
from paperweight.provenance import file_digest, running

__all__ = ["EMBEDDED", "embedded", "is_drawn", "is_embedded"]

EMBEDDED = ("digits", "glyphs", "glyphs-colour")
_GLYPHS = re.compile(r"glyphs(?:-(\d\d?|100))?(-colour)?")
_TRAIN, _TEST = 8_000, 4_000


def is_embedded(source: str | Path) -> bool:
    """Say whether a name is that of an embedded set.

    Args:
        source: A name: ``digits``, ``glyphs``, ``glyphs-75`` for a difficulty of 75 in 100 in place of 50, or either
            with ``-colour`` behind it.

    Example:
        >>> [is_embedded(name) for name in ("digits", "glyphs-75-colour", "glyphs-101", "images")]
        [True, True, False, False]
    """
    return isinstance(source, str) and (source == "digits" or _GLYPHS.fullmatch(source) is not None)


def is_drawn(source: str | Path) -> bool:
    """Say whether a name is that of an embedded set that is drawn when needed.

    The draw is arithmetic in floating point, so that another processor or version gives a few pixels another grey
    value, and the set another fingerprint.

    Args:
        source: A name.

    Example:
        >>> [is_drawn(name) for name in ("digits", "glyphs-75-colour", "images")]
        [False, True, False]
    """
    return isinstance(source, str) and _GLYPHS.fullmatch(source) is not None


def embedded(name: str) -> Entry:
    """Return an embedded set: the 1,797 digits, or 8,000 glyphs to train and 4,000 to test, drawn once and then kept.

    Args:
        name: The name of one, for which `is_embedded` holds.
    """
    if name == "digits":
        return _digits()
    import PIL

    makers = [file_digest(Path(__file__)), file_digest(Path(__file__).with_name("typesetting.py"))]
    key = hashlib.sha256(" ".join([name, PIL.__version__, torch.__version__, *makers]).encode()).hexdigest()
    for record in running():
        for maker in (_glyphs, *MAKERS):
            record.see(maker.__code__)
    return read_entry(key) or write_entry(key, _glyphs(name))


def _digits() -> Entry:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.rint(bunch["images"] * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch["target"].astype(np.int64)
    for array in (images, labels):
        array.setflags(write=False)
    arrays = {"train_images": images, "train_labels": labels}
    classes = tuple(str(name) for name in bunch["target_names"])
    return Entry(arrays, classes, (), fingerprint(arrays, classes))


def _glyphs(name: str) -> Entry:
    match = _GLYPHS.fullmatch(name)
    percent, colour = match.groups() if match is not None else (None, None)
    difficulty = 0.5 if percent is None else int(percent) / 100
    generator = torch.Generator().manual_seed(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", _TRAIN), ("test", _TEST)):
        drawn = glyphs(count, difficulty=difficulty, colour=colour is not None, generator=generator)
        arrays[f"{part}_images"] = (drawn.images * 255).round().to(torch.uint8).numpy()
        arrays[f"{part}_labels"] = drawn.labels.numpy()
    return Entry(arrays, tuple(CHARACTERS), (), fingerprint(arrays, tuple(CHARACTERS)))
