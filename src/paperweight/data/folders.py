"""Folders of images: one folder for each class, with or without folders of splits above them."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np

from paperweight.data.decoding import EXTENSIONS
from paperweight.data.parts import UNLABELLED, Part, Source, brief, role
from paperweight.data.walking import is_left_by_a_system, listed
from paperweight.errors import InputError

__all__ = ["image_folder"]

UNREAD = frozenset(
    {".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".dcm", ".dicom", ".nii", ".svg", ".tga", ".exr", ".hdr"}
    | {".dng", ".nef", ".cr2", ".arw", ".raw", ".psd", ".npy", ".npz", ".h5"}
)
_WITHOUT = f"is a class folder without an image ({', '.join(sorted(EXTENSIONS))}); fill or remove it"
_NO_CLASSES = "holds no class folders; make one folder for each class and put its images there"
PARTITION = re.compile(r"(label|labels|class|category|target)=(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Tree:
    """The image files below a folder: those straight in it, and those of each folder in it."""

    folder: Path
    loose: tuple[Path, ...]
    below: dict[str, list[Path]]

    @property
    def classes(self) -> list[str]:
        return [] if self.loose else list(self.below)

    def inside(self, name: str) -> "_Tree":
        return _tree(self.folder / name, self.below[name])


def _tree(folder: Path, images: Sequence[Path]) -> _Tree:
    loose: list[Path] = []
    below: dict[str, list[Path]] = {}
    for path in images:
        inside = path.relative_to(folder).parts
        (below.setdefault(inside[0], []) if len(inside) > 1 else loose).append(path)
    return _Tree(folder, tuple(loose), below)


def _unwrapped(tree: _Tree) -> _Tree:
    """Return the tree in a folder that holds all images, and them in folders, as an archive unpacks them."""
    while len(tree.classes) == 1:
        inner = tree.inside(tree.classes[0])
        if inner.loose:
            break
        tree = inner
    return tree


def image_folder(root: Path, files: Sequence[Path], *, labelled: bool) -> Source:
    """Return the source that a folder of image files is.

    Args:
        root: The folder.
        files: All files below it, in order.
        labelled: Whether images without class folders are refused; else they are of one class.

    Raises:
        InputError: If there are no images, no class folders, or if folders may be classes as well as parts.
    """
    whole = _tree(root, [path for path in files if path.suffix.lower() in EXTENSIONS])
    if not whole.below and not whole.loose:
        _refuse_empty(root)
    tree = _unwrapped(whole)
    notes = [] if tree.folder == root else [f"the images are those of {tree.folder.relative_to(root).as_posix()}"]
    images, unlabelled = _parts(tree, labelled)
    homes = [
        *dict.fromkeys(root / above for above in _above(tree.folder, root)),
        *(tree.folder / n for n in images if n in tree.below),
    ]
    empty = [path for home in homes for path in _without_images(home, files)]
    left = [*unlabelled, *(path.relative_to(root).as_posix() for path in empty)]
    if left:
        notes.append(f"left out, holding no images of a class: {', '.join(left)}")
    used = {str(path.relative_to(root)): path for pairs in images.values() for path, _ in pairs}
    outside = (*empty, *(tree.folder / name for name in unlabelled))
    notes += _ignored([p for p in files if not any(p.is_relative_to(o) for o in outside)], set(used.values()))
    return Source(used, tuple(notes), lambda: {k: [_part(root, v)] for k, v in images.items()})


def _refuse_empty(root: Path) -> None:
    entries = listed(root)
    if not entries:
        raise InputError(f"{root} is empty; it must hold one folder of images for each class")
    folders = [path for path in entries if path.is_dir()]
    if folders:
        raise InputError(f"{folders[0]} {_WITHOUT}")
    raise InputError(f"{root} {_NO_CLASSES}")


def _parts(tree: _Tree, labelled: bool) -> tuple[dict[str, list[tuple[Path, str]]], list[str]]:
    """Return the images of each part with their classes, and the folders whose images have none.

    Raises:
        InputError: If folders may be classes as well as parts.
    """
    inner = {name: _unwrapped(tree.inside(name)) for name in tree.below}
    named = [name for name in inner if role(name)]
    trained = [name for name in named if role(name) == "train"]
    if trained and len(named) > 1 and (len(named) == len(inner) or all(inner[name].below for name in trained)):
        classless = not labelled and not any(inner[name].below for name in trained)
        used = [
            name for name in named if name in trained or (inner[name].below and role(name) != "unlabelled") or classless
        ]
        return {n: _with_classes(inner[n], labelled) for n in used}, [n for n in inner if n not in used]
    shared = _shared(list(inner.values()))
    if shared and all(role(name) for part in inner.values() for name in part.below):
        parts: dict[str, list[tuple[Path, str]]] = {}
        for name, part in inner.items():
            for split, paths in part.below.items():
                parts.setdefault(split, []).extend((path, _class_name(name)) for path in paths)
        return parts, []
    if len(shared) > 1 or any(len(inner[name].classes) > 1 for name in named if len(inner) > 1):
        within = brief(sorted(shared) or inner[named[0]].classes)
        raise InputError(
            f"{tree.folder} holds the folders {brief(list(inner))}, which hold the folders {within}: name them train, "
            "test and validation if they are parts of one set, or give the path of one of them; if they are the "
            "classes, put the images of each straight into its folder"
        )
    return {"train": _with_classes(tree, labelled)}, []


def _shared(parts: Sequence[_Tree]) -> set[str]:
    """Return the names of the folders that each of several folders holds beside no image."""
    return set[str].intersection(*(set(part.classes) for part in parts)) if len(parts) > 1 else set()


def _with_classes(tree: _Tree, labelled: bool) -> list[tuple[Path, str]]:
    """Return the images of a folder of class folders, each with its class."""
    if tree.below:
        return [(path, _class_name(name)) for name, paths in tree.below.items() for path in paths]
    if labelled:
        raise InputError(f"{tree.folder} {_NO_CLASSES}")
    return [(path, UNLABELLED) for path in tree.loose]


def _class_name(folder: str) -> str:
    """Return the class that a folder's name stands for: of `label=cat`, as columns are written to folders, `cat`."""
    match = PARTITION.fullmatch(folder)
    return normalize("NFC", unquote(match[2]) if match else folder)


def _above(folder: Path, root: Path) -> list[Path]:
    """Return the ways from a root to a folder inside it, the root's own first."""
    return [folder.relative_to(root), *folder.relative_to(root).parents][::-1]


def _without_images(home: Path, files: Sequence[Path]) -> list[Path]:
    """Return the folders in a folder that hold no image.

    Raises:
        InputError: If one is that of a part, is empty, or holds images of a format that is not read.
    """
    inside: dict[Path, list[Path]] = {}
    for path in files:
        if path.is_relative_to(home) and len(path.relative_to(home).parts) > 1:
            inside.setdefault(home / path.relative_to(home).parts[0], []).append(path)
    found = []
    for folder in sorted(path for path in home.iterdir() if path.is_dir() and path.name[0] != "."):
        suffixes = {path.suffix.lower() for path in inside.get(folder, [])}
        if suffixes & EXTENSIONS:
            continue
        if not is_left_by_a_system(folder):
            if role(folder.name):
                raise InputError(f"{folder} is empty of images; it must hold one folder of images for each class")
            if not suffixes or suffixes & UNREAD:
                raise InputError(f"{folder} {_WITHOUT}")
        found.append(folder)
    return found


def _ignored(files: Sequence[Path], used: set[Path]) -> list[str]:
    """Say how many files were not read, by the ends of their names."""
    other = Counter(path.suffix or path.name for path in files if path not in used)
    count = other.total()
    verb = "1 file was" if count == 1 else f"{count} files were"
    kinds = ", ".join(sorted(other))
    return [f"{verb} ignored, being outside the class folders or no images: {kinds}"] if count else []


def _part(root: Path, images: list[tuple[Path, str]]) -> Part:
    def entries() -> Iterator[tuple[str, bytes]]:
        for path, _ in images:
            yield str(path), path.read_bytes()

    return Part(str(root), np.array([name for _, name in images]), None, entries)
