"""The binary files of MNIST and its kin (IDX) and of CIFAR: bytes in a known order behind a known name."""

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paperweight.data.archives import array_part
from paperweight.data.parts import Part, Source, role
from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["binary_folder"]

IDX = re.compile(r"(.*?)[-_.]?(images?|labels?)[-_.]idx([13])(?:[-_.]u?byte)?(?:\.gz)?", re.IGNORECASE)
BATCH = re.compile(r"(?:data_batch_\d+|test_batch|train|test)\.bin", re.IGNORECASE)
PICKLED = re.compile(r"data_batch_\d+|test_batch|batches\.meta|train|test|meta", re.IGNORECASE)
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MAX_BYTES = 4 << 30
SIDE = 32


def binary_folder(root: Path, files: Sequence[Path]) -> Source | None:
    """Return the source that a folder of IDX files or CIFAR's binary batches is; None if it is neither.

    Raises:
        InputError: If images lack their labels, or the batches are pickles.
    """
    idx = [path for path in files if IDX.fullmatch(path.name)]
    if idx:
        return _idx_folder(root, idx)
    batches = [path for path in files if BATCH.fullmatch(path.name)]
    if batches:
        return _cifar_folder(root, batches, files)
    pickled = [path for path in files if PICKLED.fullmatch(path.name) and _starts_as_pickle(path)]
    if pickled:
        raise InputError(
            f"{pickled[0]} is a pickle, which may run any program when it is opened; take the binary version of the "
            "set (such as cifar-10-binary.tar.gz), or save its arrays with numpy.savez"
        )
    return None


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80"


# --- IDX ---------------------------------------------------------------------------------------------------------


def _idx_folder(root: Path, files: Sequence[Path]) -> Source:
    pairs: dict[str, dict[str, Path]] = {}
    for path in sorted(files, key=lambda p: (p.suffix.lower() == ".gz", p)):
        match = IDX.fullmatch(path.name)
        if match:
            name = (path.parent / match[1].lower()).relative_to(root).as_posix()
            pairs.setdefault(name, {}).setdefault(match[2].lower().rstrip("s"), path)
    for pair in pairs.values():
        for kind, other in (("image", "label"), ("label", "image")):
            if kind not in pair:
                raise InputError(f"{root} holds {pair[other].name}, but no file of its {kind}s; add it")
    roles = [role(name) for name in pairs]
    if len(pairs) > 1 and (None in roles or len(set(roles)) < len(roles)):
        raise InputError(f"{root} holds several sets ({', '.join(pairs)}); put each into a folder of its own")
    used = {path.relative_to(root).as_posix(): path for pair in pairs.values() for path in pair.values()}

    def read() -> dict[str, list[Part]]:
        return {
            role(name) or "train": [
                array_part(str(pair["image"]), _idx(pair["image"]), str(pair["label"]), _idx(pair["label"]))
            ]
            for name, pair in pairs.items()
        }

    return Source(used, (), read)


def _idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file, packed by gzip or not."""
    remedy = "restore the file"
    with refusing(str(path), "cannot be read as IDX", remedy), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
            raise InputError(f"{path} does not begin as an IDX file does; {remedy}")
        shape = np.frombuffer(stream.read(4 * head[3]), ">u4").astype(object)
        size = int(np.prod(shape)) * np.dtype(TYPES[head[2]]).itemsize
        if len(shape) < head[3] or size > MAX_BYTES:
            raise InputError(f"{path} declares {size:,} bytes, more than {MAX_BYTES:,} or cut off; {remedy}")
        content = stream.read(size + 1)
    if len(content) != size:
        raise InputError(
            f"{path} declares {size:,} bytes but holds {'more' if len(content) > size else 'fewer'}; {remedy}"
        )
    values = np.frombuffer(content, TYPES[head[2]]).reshape(shape.tolist())
    return values.astype(values.dtype.newbyteorder("="))


# --- CIFAR -------------------------------------------------------------------------------------------------------


def _cifar_folder(root: Path, batches: Sequence[Path], files: Sequence[Path]) -> Source:
    hundred = any(path.name.lower() in ("train.bin", "test.bin") for path in batches)
    tables = {"fine_label_names.txt": True, "batches.meta.txt": False}
    named = [path for path in files if tables.get(path.name.lower()) is hundred]
    parts: dict[str, list[Path]] = {}
    for path in batches:
        parts.setdefault("test" if path.name.lower().startswith("test") else "train", []).append(path)
    if "train" not in parts:
        raise InputError(f"{root} holds {batches[0].name}, but no batch to train on; add data_batch_1.bin or train.bin")
    used = {path.relative_to(root).as_posix(): path for path in (*batches, *named[:1])}
    notes = ("the labels are the fine ones",) if hundred else ()

    def read() -> dict[str, list[Part]]:
        names = None
        if named:
            with refusing(str(named[0]), "is not a list of class names", "restore the file"):
                names = tuple(line.strip() for line in named[0].read_text("utf-8").splitlines() if line.strip())
        return {part: [_batch(path, 2 if hundred else 1, names) for path in paths] for part, paths in parts.items()}

    return Source(used, notes, read)


def _batch(path: Path, labels: int, names: tuple[str, ...] | None) -> Part:
    width = labels + 3 * SIDE * SIDE
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % width:
        raise InputError(f"{path} holds {len(content):,} bytes, not records of {width:,}; restore the file")
    rows = content.reshape(-1, width)
    return array_part(str(path), rows[:, labels:].reshape(-1, 3, SIDE, SIDE), str(path), rows[:, labels - 1], names)
