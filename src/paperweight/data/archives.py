"""NumPy archives of images, under the names that Keras, MedMNIST and people's own scripts give to arrays."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paperweight.data.parts import UNLABELLED, Part, brief, plain_labels, role
from paperweight.data.reading import refusing
from paperweight.errors import InputError
from paperweight.texts import visible

__all__ = ["array_part", "left_out", "read_npz"]

IMAGES = ("x", "image", "images", "img", "imgs", "data", "pixels", "inputs")
LABELS = ("y", "label", "labels", "target", "targets", "lbl", "class")
MAX_BYTES = 4 << 30
SUSPICIOUS_BYTES, SUSPICIOUS_RATIO = 256 << 20, 500


def read_npz(path: Path, *, labelled: bool) -> dict[str, list[Part]]:
    """Return the parts of an archive.

    Raises:
        InputError: If it is damaged, or its arrays are not images with labels.
    """
    with (
        refusing(str(path), "cannot be read as .npz", "write it again with numpy.savez"),
        zipfile.ZipFile(path) as archive,
    ):
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = _pairs(path, list(members), labelled)
        names = [name for pair in wanted.values() for name in pair if name]
        arrays = {name: _read_array(archive, members[name], f"{path}: {name}") for name in names}
    return {
        part: [array_part(f"{path}: {x}", arrays[x], f"{path}: {y}", arrays[y] if y else None)]
        for part, (x, y) in wanted.items()
    }


def left_out(path: Path, *, labelled: bool) -> tuple[str, ...]:
    """Return notes that name the arrays of an archive that are not read; none where it cannot be read at all."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        used = {name for pair in _pairs(path, names, labelled).values() for name in pair}
    except (InputError, OSError, zipfile.BadZipFile):
        return ()
    others = [name for name in names if name not in used]
    if not others:
        return ()
    return (f"{path.name}: {'array' if len(others) == 1 else 'arrays'} {visible(brief(others))} left out",)


def _pairs(path: Path, names: Sequence[str], labelled: bool) -> dict[str, tuple[str, str]]:
    """Return the names of images and labels of each part; that of the labels is empty where there are none."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        kinds = {kind for word in words for kind, known in (("x", IMAGES), ("y", LABELS)) if word in known}
        part = next((role(word) for word in words if word not in (*IMAGES, *LABELS) and role(word)), None)
        kind = "y" if "y" in kinds else "x"
        if kinds and (part or len(words) == 1):
            found.setdefault(part or "train", {}).setdefault(kind, name)
    positions = [f"arr_{index}" for index in range(4)]
    if not found and set(names) in (set(positions[:2]), set(positions)):
        found = {part: {"x": x, "y": y} for part, x, y in (("train", *positions[:2]), ("test", *positions[2:]))}
        found = {part: pair for part, pair in found.items() if pair["x"] in names}
    if found.get("train", {}).keys() <= {"x"} and not labelled and "x" in found.get("train", {}):
        return {part: (pair["x"], "") for part, pair in found.items() if "x" in pair}
    found.setdefault("train", {})
    for part, pair in found.items():
        for kind in ("x", "y"):
            if kind not in pair:
                name = kind if part == "train" else f"{kind}_{part}"
                raise InputError(f"{path} has no array {name!r}, only {brief(list(names)) or 'none'}; add it")
    return {part: (pair["x"], pair["y"]) for part, pair in found.items()}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> np.ndarray:
    """Read an array, unless its header declares what cannot be right, before memory is taken for it."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects, which only pickle could open; save plain numbers or strings")
    declared = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    ratio = declared / max(info.compress_size, 1)
    if declared > MAX_BYTES or (declared > SUSPICIOUS_BYTES and ratio > SUSPICIOUS_RATIO):
        raise InputError(
            f"{where} declares {declared:,} bytes in {info.compress_size:,} bytes of file, more than {MAX_BYTES:,} or "
            "implausible; save a smaller array, or use Parquet"
        )
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def array_part(
    where: str, images: np.ndarray, labels_where: str, labels: np.ndarray | None, names: tuple[str, ...] | None = None
) -> Part:
    """Return the part that an array of images and one of labels are.

    Args:
        where: How messages name the images.
        images: Shape (N, H, W), (N, H, W, C) or (N, C, H, W), of numbers or of true and false.
        labels_where: How messages name the labels.
        labels: As `plain_labels` takes them; of one class all if None.
        names: The class names that the labels index.

    Raises:
        InputError: If they cannot be images and their labels.
    """
    pixels = _pixels(images, where)
    known = np.full(len(pixels), UNLABELLED) if labels is None else plain_labels(labels, labels_where)
    if len(pixels) != len(known):
        raise InputError(
            f"{where} has {len(pixels)} rows but {labels_where.split(': ')[-1]} has {len(known)}; both must have the "
            "same number"
        )
    return Part(labels_where, known, names, lambda: ((f"{where}[{i}]", image) for i, image in enumerate(pixels)))


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """Return an array of images in shape (N, H, W) or (N, H, W, 3)."""
    if x.ndim not in (3, 4) or x.size == 0:
        raise InputError(
            f"{where} must be (N, H, W), (N, H, W, C) or (N, C, H, W), not empty, got {x.shape}; reshape it"
        )
    if x.dtype.kind not in "biuf":
        raise InputError(f"{where} must hold numbers, got {x.dtype}; save the pixels as whole numbers or floats")
    if x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first == last:
            rule = "could be channels first or last" if first else "has no axis of 1 or 3 channels"
            raise InputError(f"{where} of shape {x.shape} {rule}; save it as (N, H, W, 3) or (N, H, W)")
        x = np.moveaxis(x, 1, 3) if first else x
        x = x[..., 0] if x.shape[3] == 1 else x
    return x
