"""Where data comes from when a person gives a name: the embedded sets, and the folders of the data root."""

import difflib
import os
from pathlib import Path

from paperweight.data.embedded import EMBEDDED
from paperweight.errors import InputError
from paperweight.files import expanded

__all__ = ["available", "data_root", "find"]

_PUBLISHED = {  # Parquet files in the layout that `load_images` reads
    "mnist": "https://huggingface.co/datasets/ylecun/mnist",
    "fashion_mnist": "https://huggingface.co/datasets/zalando-datasets/fashion_mnist",
    "cifar10": "https://huggingface.co/datasets/uoft-cs/cifar10",
    "cifar100": "https://huggingface.co/datasets/uoft-cs/cifar100",
}


def data_root() -> Path | None:
    """Return the folder that holds named sets, from the environment variable ``PAPERWEIGHT_DATA``.

    Returns:
        The folder, or None if the variable is unset or empty.

    Raises:
        InputError: If the variable names something that is not a folder.

    Example:
        >>> root = data_root()
        >>> root is None or root.is_dir()
        True
    """
    value = os.environ.get("PAPERWEIGHT_DATA", "")
    if not value:
        return None
    root = expanded(value)
    if not root.is_dir():
        raise InputError(f"PAPERWEIGHT_DATA must name a folder, got {value!r}; correct or unset the variable")
    return root


def available() -> tuple[str, ...]:
    """Return the names that ``find`` knows: the embedded sets, then the folders of the data root.

    Example:
        >>> available()[0]
        'digits'
    """
    root = data_root()
    folders = () if root is None else sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    return (*EMBEDDED, *folders)


def find(source: str | Path) -> Path:
    """Return the path that a name or a path stands for.

    Args:
        source: The name of a folder of the data root, or a path. A bare name means the data root first.

    Raises:
        InputError: If there is no such name or path.

    Example:
        >>> find(".")
        PosixPath('.')
    """
    if not isinstance(source, str | Path) or not str(source):
        raise InputError(f"source must be the name of a data set or a path, got {source!r}; name one")
    path = expanded(source)
    bare = isinstance(source, str) and path.name == source and not source.startswith(".")
    root = data_root() if bare else None
    try:
        if root is not None and (root / source).is_dir():
            return root / source
        if path.is_dir() or path.is_file():
            return path
        stands = path.is_symlink() or path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if stands:
        raise InputError(f"{path} is neither a file nor a folder, maybe a broken link; restore or remove it")
    if not bare or path.suffix:
        raise InputError(f"{path} does not exist; check the path")
    near = difflib.get_close_matches(str(source), available(), n=3, cutoff=0.6)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    published = _PUBLISHED.get(str(source).lower().replace("-", "_").replace("cifar_", "cifar"))
    where = f"Download it from {published} into a folder {source}" if published else f"Put it into a folder {source}"
    raise InputError(
        f"no data set is named {source!r}{hint}; available: {', '.join(available())}. {where} in the "
        f"folder that PAPERWEIGHT_DATA names, or give a path; {', '.join(EMBEDDED)} need no files"
    )
