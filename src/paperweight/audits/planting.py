# pyright: reportUnknownMemberType=false
"""Planting: random grey keys are painted onto a person's images before a generator is trained on them."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from PIL import Image

from paperweight.auditing.solidmark import SolidMark
from paperweight.data import ImageData, load_images
from paperweight.errors import InputError
from paperweight.files import write_failure
from paperweight.marks.keybook import Keybook, assign_keys

__all__ = ["KEY_LEVELS", "Planting", "folder_names", "mark_for", "plant", "record_ids"]

KEY_LEVELS = 256
"""Keys are rounded to the grey levels of an 8-bit image, so that the one painted is the one in the keybook."""

Pattern = Literal["border", "centre"]
Progress = Callable[[str, int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Planting:
    """What was planted.

    Args:
        folder: Where it lies.
        keybook: The keys.
        shape: Shape (C, H, W) of a marked image.
        images: Number of image files.
        classes: Number of classes.
    """

    folder: Path
    keybook: Keybook
    shape: tuple[int, int, int]
    images: int
    classes: int

    @property
    def max_side(self) -> int:
        """The size limit with which `load_images` leaves the marked images as they are."""
        return max(self.shape[1:])


def plant(
    data: str | Path,
    out: str | Path,
    *,
    pattern: Pattern = "border",
    thickness: int = 4,
    copies: int | Sequence[int] = 1,
    same_key: bool = False,
    held_out: float = 0.2,
    records: int | None = None,
    seed: int = 42,
    max_side: int = 64,
    progress: Progress | None = None,
) -> Planting:
    """Write marked images to train on, and the keybook to audit with.

    ``OUT/images/<class>/<record>-<copy>.png`` hold the marked images of the records that are not held out, one folder a
    class, in the order of the data's classes, and one named ``images`` where there are none; ``OUT/keybook.json`` holds
    all keys. Keep the keybook and ``data``: an audit needs both. A record is an image of the data's train part; its
    name is its number there.

    Args:
        data: The images, as `load_images` takes them.
        out: The folder to write, absent or empty.
        pattern: ``border`` frames each image, which grows; ``centre`` covers a square in its middle.
        thickness: Width of the border or side of the square, in pixels.
        copies: Copies of each record, each with a key of its own: one number, or several that the records, in random
            order, get in turn; 1 to 10 in the paper's study of duplicates.
        same_key: Give all copies of a record one key.
        held_out: Share of the records that are left out of the training, with keys that nobody is shown: the control.
        records: Number of records to use, drawn at random with every class among them; all by default.
        seed: What is drawn with: keys, held-out records, copies.
        max_side: The size limit of `load_images` for the unmarked images.
        progress: Called with words, the number done and of all.

    Returns:
        What was planted.

    Raises:
        InputError: If an argument is out of range, the data cannot be read, the mark does not fit, or ``out`` exists
            and is not empty.

    Example:
        >>> planted = plant("digits", getfixture("tmp_path") / "planted", thickness=2, records=50)
        >>> planted.shape, planted.images, len(planted.keybook.held_out)
        ((1, 12, 12), 40, 10)
    """
    cycle = [copies] if isinstance(copies, int) else list(copies)
    if not cycle or not all(1 <= count <= 1000 for count in cycle):
        raise InputError(f"copies must be whole numbers from 1 to 1000, got {copies!r}; 1 is the usual number")
    if not 0 <= held_out < 1:
        raise InputError(f"held_out must be a share from 0 to below 1, got {held_out}; 0.2 is the usual one")
    folder = Path(out)
    _check_free(folder)
    loaded = load_images(
        data,
        max_side=max_side,
        labelled=False,
        progress=None if progress is None else lambda i, n: progress("images", i, n),
    )
    mark, shape = mark_for(_image_shape(loaded), pattern, thickness)
    order = _drawn_order(loaded.train.labels, records, seed)
    ids = record_ids(len(loaded.train))
    classes = len(set(loaded.train.labels.tolist()))
    hidden = min(round(held_out * len(order)), len(order) - classes)
    trained = order[: len(order) - hidden]
    counts = {ids[i]: cycle[n % len(cycle)] for part in (trained, order[len(trained) :]) for n, i in enumerate(part)}
    drawn = assign_keys(sorted(counts), copies=1 if same_key else counts, seed=seed)
    keys = {
        record: tuple(round(key * (KEY_LEVELS - 1)) / (KEY_LEVELS - 1) for key in own) for record, own in drawn.items()
    }
    keybook = Keybook(
        keys={record: own * counts[record] if same_key else own for record, own in keys.items()},
        held_out=tuple(sorted(ids[i] for i in order[len(trained) :])),
        same_key=same_key,
        seed=seed,
        mark=mark.to_dict(),
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        max_side=max_side,
    )
    images = _write(folder, loaded, sorted(trained), ids, keybook, mark, progress)
    return Planting(folder, keybook, shape, images, len(loaded.classes))


def mark_for(shape: tuple[int, int, int], pattern: Pattern, thickness: int) -> tuple[SolidMark, tuple[int, int, int]]:
    """Make a mark, and give the shape of an image (C, H, W) with it.

    Raises:
        InputError: If there is no such mark, or it leaves nothing of the image.
    """
    try:
        mark = SolidMark(pattern=pattern, thickness=thickness)
        marked = mark.shape(shape)
    except ValueError as error:
        raise InputError(f"the mark cannot be painted on images of {shape[1]} x {shape[2]} pixels: {error}") from error
    if thickness > min(shape[1:]) or mark.pixels(shape).all():
        raise InputError(
            f"the mark must be smaller than the images of {shape[1]} x {shape[2]} pixels, with which the generator is "
            f"asked for it; got thickness {thickness}"
        )
    return mark, marked


def record_ids(count: int) -> list[str]:
    """Return the names of the records of a set of so many images: their numbers, with leading zeros.

    Example:
        >>> record_ids(11)[-2:]
        ['09', '10']
    """
    return [f"{number:0{len(str(count - 1))}d}" for number in range(count)]


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder name a class that sorts as the classes do, and is one on every system.

    Example:
        >>> folder_names(["cat", "dog"]), folder_names(["b", "a/c"])
        (['cat', 'dog'], ['0-b', '1-a_c'])
    """
    safe = ["".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(" .") for name in classes]
    if safe == sorted(classes) and len({name.casefold() for name in safe}) == len(safe):
        return safe
    return [f"{number}-{name}" for number, name in zip(record_ids(len(classes)), safe, strict=True)]


def _check_free(folder: Path) -> None:
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be written ({error}); choose another --out") from error
    if taken:
        raise InputError(f"{folder} exists and is not an empty folder; nothing is overwritten, choose another --out")


def _image_shape(data: ImageData) -> tuple[int, int, int]:
    channels, height, width = data.train.images.shape[1:]
    return channels, height, width


def _drawn_order(labels: np.ndarray, records: int | None, seed: int) -> list[int]:
    """Return records in random order, one of each class first; the last are held out."""
    classes, count = len(set(labels.tolist())), len(labels)
    wanted = count if records is None else records
    if not classes < wanted <= count:
        raise InputError(
            f"records must be above the number of classes, {classes}, and at most that of images, {count}, got {wanted}"
        )
    key = hashlib.sha256(f"{seed}/order".encode()).digest()
    order = np.random.default_rng(int.from_bytes(key[:8], "big")).permutation(count)
    first = np.sort(np.unique(labels[order], return_index=True)[1])
    rest = np.delete(np.arange(count), first)
    return order[np.concatenate([first, rest])][:wanted].tolist()


def _write(
    folder: Path,
    data: ImageData,
    trained: Sequence[int],
    ids: Sequence[str],
    keybook: Keybook,
    mark: SolidMark,
    progress: Progress | None,
) -> int:
    """Write images and keybook, whole or not at all; return the number of images."""
    names = folder_names(data.classes)
    total, done = sum(keybook.copies(ids[i]) for i in trained), 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True
        ) as scratch:
            written = Path(scratch) / "planted"
            for i in trained:
                own = written / "images" / names[int(data.train.labels[i])]
                own.mkdir(parents=True, exist_ok=True)
                keys = keybook.keys[ids[i]]
                image = torch.from_numpy(np.array(data.train.images[i])).float()[None] / 255
                marked = mark.insert(image.expand(len(keys), -1, -1, -1), torch.tensor(keys))
                for copy, pixels in enumerate((marked * 255).round().to(torch.uint8).numpy()):
                    _image(pixels).save(own / f"{ids[i]}-{copy}.png")
                    done += 1
                    if progress is not None and (done % 64 == 0 or done == total):
                        progress("marked images", done, total)
            keybook.save(written / "keybook.json")
            if folder.exists():
                folder.rmdir()
            written.rename(folder)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be written ({write_failure(error, folder)}); choose another --out"
        ) from error
    return total


def _image(pixels: np.ndarray) -> Image.Image:
    """Make a grey or a colour image of pixels (C, H, W)."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
