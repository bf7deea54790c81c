"""The parts that a source names: which is trained on, which is tested on, and what a label of an image may be."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperweight.errors import InputError

__all__ = ["UNLABELLED", "Part", "Source", "arranged", "brief", "plain_labels", "role"]

UNLABELLED = "images"
"""The class of images that have none."""

ROLES = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "t10k", "holdout"),
    "eval": ("eval", "evaluation", "evaluate"),
    "validation": ("val", "valid", "validation", "dev", "devel", "development"),
    "unlabelled": ("pred", "predict", "prediction", "unlabelled", "unlabeled"),
}
HELD_OUT = ("test", "eval", "validation")
AFFIXES = ("set", "data", "images", "image", "imgs", "img", "split", "folder", "part")


@dataclass(frozen=True)
class Part:
    """Some images of one part of a source before decoding.

    `names` holds the class names that the labels index, where the source declares them; otherwise the labels are
    names or numbers themselves, -1 where they are held back. `entries` yields, in the order of the labels, how messages
    name an image, and either the bytes of its file or its pixels, shape (H, W) or (H, W, 3).
    """

    where: str
    labels: np.ndarray
    names: tuple[str, ...] | None
    entries: Callable[[], Iterator[tuple[str, bytes | np.ndarray]]]


@dataclass(frozen=True)
class Source:
    """A source of images: the files that it depends on, by name, what is said of them, and how to read its parts.

    `read` gives the parts by the names that the source gives them, each of which has a `role`.
    """

    files: Mapping[str, Path]
    notes: tuple[str, ...]
    read: Callable[[], dict[str, list[Part]]]


def role(name: str) -> str | None:
    """Return what a part of that name is for: "train", "test", "eval", "validation", "unlabelled", or None.

    Example:
        >>> [role(name) for name in ("Training", "seg_test", "valset", "train2017", "trainspotting", "fold_0")]
        ['train', 'test', 'validation', 'train', None, None]
    """
    for word in re.findall(r"t10k|[a-z]+", name.lower()):
        ends = [word, *(word.removesuffix(affix) for affix in AFFIXES), *(word.removeprefix(a) for a in AFFIXES)]
        for found, words in ROLES.items():
            if any(end in words for end in ends):
                return found
    return None


def arranged(parts: Mapping[str, Sequence[Part]]) -> tuple[dict[str, list[Part]], list[str]]:
    """Return the training part and, where there is one, the test part, and notes.

    Of several held-out parts the one for tests is the test part and the others join the training images. A held-out
    part whose labels are all held back is left out.

    Args:
        parts: The parts of a source by its own names for them.

    Raises:
        InputError: If no part is for training.
    """
    notes = []
    held_out: list[str] = []
    for name in sorted((n for n in parts if role(n) in HELD_OUT), key=lambda n: HELD_OUT.index(role(n) or "test")):
        if all(part.labels.dtype.kind == "i" and (part.labels < 0).all() for part in parts[name]):
            notes.append(f"the part {name} was left out, as its labels are held back")
        else:
            held_out.append(name)
    tested = [name for name in held_out if role(name) == role(held_out[0])]
    joined = [name for name in held_out if name not in tested]
    notes += [f"the images of {name} were joined to the training images" for name in joined]
    chosen = {
        "train": [name for name in parts if name not in (*tested, *joined) and role(name) not in HELD_OUT] + joined
    }
    if tested:
        chosen["test"] = tested
    if not chosen["train"]:
        where = next(part.where for group in parts.values() for part in group)
        raise InputError(f"{where} is for tests ({', '.join(parts)}), and no part is for training; add one")
    return {key: [part for name in names for part in parts[name]] for key, names in chosen.items()}, notes


def plain_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as int64 or as strings, shape (N,), from a column, from one-hot rows, or from another type.

    Args:
        labels: Whole numbers of any type, true and false, or strings; shape (N,) or (N, 1); or one-hot rows (N, K).
        where: How messages name them.

    Raises:
        InputError: If they are anything else.

    Example:
        >>> plain_labels(np.eye(3)[[2, 0]], "y"), plain_labels(np.array([[1.0], [0.0]]), "y")
        (array([2, 0]), array([1, 0]))
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{where} holds names that are not UTF-8; save the labels as numbers or text") from error
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and len(labels):
        hot = (labels == 1).sum(1) == 1
        wrong = ~(hot & ((labels == 0).sum(1) == labels.shape[1] - 1))
        if wrong.any():
            row = int(wrong.argmax())
            shown = brief([f"{value:g}" for value in labels[row].tolist()])
            raise InputError(
                f"{where}, row {row}: the label is ({shown}), neither a class number nor one 1 among zeros; give each "
                "image one class"
            )
        return labels.argmax(1)
    if labels.ndim != 1 or labels.dtype.kind not in "biufU":
        raise InputError(
            f"{where} must be one class for each image, as whole numbers, text or one-hot rows, got {labels.dtype} of "
            f"shape {labels.shape}; save it so"
        )
    if labels.dtype.kind == "b":
        return labels.astype(np.str_)
    if labels.dtype.kind == "f":
        wrong = ~(np.isfinite(labels) & (labels == np.floor(labels)))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"{where}, row {row}: the label {labels[row]:g} is no class number; give whole numbers")
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def brief(values: Sequence[object]) -> str:
    """Return the first five of some values in words, and how many more there are.

    Example:
        >>> brief([1, 2]), brief("abcdefg")
        ('1, 2', 'a, b, c, d, e and 2 more')
    """
    shown = ", ".join(str(value) for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
