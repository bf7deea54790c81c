"""Where each image of a set comes from, in words, in the order in which the set has them."""

import os
from pathlib import Path

from paperweight.data.embedded import embedded, is_embedded
from paperweight.data.named import find
from paperweight.data.parts import arranged
from paperweight.data.sources import open_source
from paperweight.errors import InputError

__all__ = ["image_names"]


def image_names(source: str | Path, *, labelled: bool = True) -> list[str]:
    """Return how messages name each image: its file below the source, or the file and the number of its row.

    Args:
        source: As `load_images` takes it.
        labelled: The same.

    Returns:
        One name an image, those of the training part first, as `load_images` orders them.

    Raises:
        InputError: If the source is missing or damaged.

    Example:
        >>> image_names("digits")[:2]
        ['train 0', 'train 1']
    """
    if is_embedded(source):
        arrays = embedded(str(source)).arrays
        parts = [part for part in ("train", "test") if f"{part}_labels" in arrays]
        return [f"{part} {number}" for part in parts for number in range(len(arrays[f"{part}_labels"]))]
    try:
        path = find(source)
        parts, _ = arranged(open_source(path, labelled=labelled).read())
        base = f"{path if path.is_dir() else path.parent}{os.sep}"
        everything = [part for group in parts.values() for part in group]
        return [name.removeprefix(base) for part in everything for name, _ in part.entries()]
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror or error}); correct that"
        ) from error
