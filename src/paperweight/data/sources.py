"""The three layouts of a set of labelled images: class folders, Parquet files, and NumPy archives.

A source is looked at first (`open_source`), so that its cache entry can be found, and read only if need be.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from paperweight.data.decoding import EXTENSIONS, to_8_bits
from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["Part", "Source", "open_source"]

IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
TEST_NAMES = ("test", "val", "valid", "validation")
SHARD = re.compile(r"(train|test|val|valid|validation)(?:-(\d+)-of-(\d+))?\.parquet", re.IGNORECASE)
FOREIGN = {
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".npy": "single-array NumPy",
    ".mat": "MATLAB",
    ".zip": "zip",
    ".tar": "tar",
    ".gz": "gzip",
    ".csv": "CSV",
}
MAX_BYTES = 4 << 30
SUSPICIOUS_BYTES, SUSPICIOUS_RATIO = 256 << 20, 500


@dataclass(frozen=True)
class Part:
    """The images of one part of a source, train or test, before decoding.

    `names` holds the class names that the labels index, where the source declares them; otherwise the labels are
    names or numbers themselves. `entries` yields, in the order of the labels, how messages name an image, and either
    the bytes of its file or its pixels, shape (H, W) or (H, W, 3).
    """

    where: str
    labels: np.ndarray
    names: tuple[str, ...] | None
    entries: Callable[[], Iterator[tuple[str, bytes | np.ndarray]]]


@dataclass(frozen=True)
class Source:
    """A source of labelled images: the files that it depends on, by name, and how to read its parts."""

    files: Mapping[str, Path]
    notes: tuple[str, ...]
    read: Callable[[], dict[str, list[Part]]]


def open_source(path: Path) -> Source:
    """Recognise the layout of a file or folder of labelled images, without decoding any.

    Raises:
        InputError: If it has none of the three layouts.
    """
    if path.is_dir():
        parquet = [p for p in _listed(path) if p.suffix.lower() == ".parquet"]
        return _parquet_folder(path, parquet) if parquet else _image_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Source({path.name: path}, (), lambda: {"train": [_parquet_part(path)]})
    if suffix == ".npz":
        return Source({path.name: path}, (), lambda: _read_npz(path))
    remedy = "give a folder of class folders, a Parquet file, or an .npz file with x and y"
    if suffix in EXTENSIONS:
        raise InputError(f"{path} is a single image; {remedy}")
    raise InputError(f"{path} is of a format that is not read ({FOREIGN.get(suffix, suffix or 'no suffix')}); {remedy}")


# --- class folders -----------------------------------------------------------------------------------------------


def _listed(folder: Path) -> list[Path]:
    """Return what a folder holds, in order of name, without hidden files."""
    entries = sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in IGNORED)
    for path in entries:
        if not (path.is_dir() or path.is_file()):
            raise InputError(f"{path} is neither a file nor a folder, maybe a broken link; restore or remove it")
    return entries


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield every file below a folder, following links."""
    real = folder.resolve()
    if real in above:
        raise InputError(f"{folder} leads back to {real}, which contains it; remove the link")
    for path in _listed(folder):
        if path.is_dir():
            yield from _files_below(path, (*above, real))
        else:
            yield path


def _image_folder(root: Path) -> Source:
    folders = [p for p in _listed(root) if p.is_dir()]
    by_name = {p.name.lower(): p for p in folders}
    parts: dict[str, list[Path]] = {"train": [root]}
    notes = []
    if "train" in by_name and set(by_name) <= {"train", *TEST_NAMES}:
        held_out = [by_name[name] for name in TEST_NAMES if name in by_name]
        parts = {"train": [by_name["train"], *held_out[1:]], "test": held_out[:1]}
        notes = [f"the images under {p.name} were joined to the training images" for p in held_out[1:]]
    images: dict[str, list[tuple[Path, str]]] = {}
    other: Counter[str] = Counter()
    for part, tops in parts.items():
        found = [(path, name) for top in tops for path, name in _labelled_files(top)]
        images[part] = [(path, name) for path, name in found if name and path.suffix.lower() in EXTENSIONS]
        other.update(
            path.suffix or path.name for path, name in found if not name or path.suffix.lower() not in EXTENSIONS
        )
    if other:
        kinds = ", ".join(sorted(other))
        notes.append(f"{other.total()} files were ignored, being outside the class folders or no images: {kinds}")
    files = {str(path.relative_to(root)): path for found in images.values() for path, _ in found}
    return Source(files, tuple(notes), lambda: {k: [_folder_part(root, v)] for k, v in images.items()})


def _labelled_files(top: Path) -> list[tuple[Path, str]]:
    """Return every file below a folder of class folders, with its class name, which is empty outside of them."""
    entries = _listed(top)
    folders = [p for p in entries if p.is_dir()]
    if not folders:
        raise InputError(
            f"{top} holds no class folders; make one folder for each class and put its images there"
            if entries
            else f"{top} is empty; it must hold one folder of images for each class"
        )
    found = [(path, "") for path in entries if not path.is_dir()]
    for folder in folders:
        below = list(_files_below(folder, (top.resolve(),)))
        if not any(path.suffix.lower() in EXTENSIONS for path in below):
            raise InputError(
                f"{folder} is a class folder without an image ({', '.join(sorted(EXTENSIONS))}); fill or remove it"
            )
        found += [(path, normalize("NFC", folder.name)) for path in below]
    return found


def _folder_part(root: Path, images: list[tuple[Path, str]]) -> Part:
    def entries() -> Iterator[tuple[str, bytes]]:
        for path, _ in images:
            yield str(path), path.read_bytes()

    return Part(str(root), np.array([name for _, name in images]), None, entries)


# --- Parquet -----------------------------------------------------------------------------------------------------


def _parquet_folder(root: Path, files: list[Path]) -> Source:
    shards: dict[str, list[Path]] = {}
    for path in files:
        match = SHARD.fullmatch(path.name)
        if match:
            split, _, count = match.groups()
            shards.setdefault(split.lower(), []).append(path)
            have = sum(p.name.lower().startswith(f"{split.lower()}-") for p in files)
            if count is not None and have != int(count):
                raise InputError(f"{path} is one of {int(count)} shards, but {root} holds {have}; add the others")
    if "train" not in shards:
        raise InputError(
            f"{root} holds {', '.join(p.name for p in files)}, but no train.parquet or train-00000-of-00001.parquet; "
            "rename one, or give the path of one file"
        )
    held_out = [name for name in TEST_NAMES if name in shards]
    parts = {"train": shards["train"] + [p for name in held_out[1:] for p in shards[name]]}
    if held_out:
        parts["test"] = shards[held_out[0]]
    notes = [f"the images of {name} were joined to the training images" for name in held_out[1:]]
    used = {path.name: path for paths in parts.values() for path in paths}
    ignored = [path.name for path in files if path.name not in used]
    notes += [f"{name} was ignored, having no name of a split" for name in ignored]
    return Source(used, tuple(notes), lambda: {k: [_parquet_part(p) for p in v] for k, v in parts.items()})


def _parquet_part(path: Path) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, remedy = str(path), "restore the file, or write it again"
    with refusing(where, "cannot be read as Parquet", remedy):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        declared = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
    if declared > SUSPICIOUS_BYTES and declared > SUSPICIOUS_RATIO * path.stat().st_size:
        raise InputError(f"{where} declares {declared:,} bytes, implausible for its size; {remedy}")
    for column in ("image", "label"):
        if column not in schema.names:
            raise InputError(
                f"{where} has no column {column!r}, only {', '.join(schema.names) or 'none'}; rename the column"
            )
    kind = schema.field("image").type
    nested = pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]
    if not (nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InputError(
            f"{where}: column 'image' must be binary or struct{{bytes, path}}, got {kind}; encode it as PNG"
        )
    with refusing(where, "has a column 'label' that cannot be read", remedy):
        labels = file.read(columns=["label"]).column("label").combine_chunks()
        if pa.types.is_dictionary(labels.type):
            labels = labels.dictionary_decode()
        nulls = np.asarray(labels.is_null())
    if len(labels) == 0:
        raise InputError(f"{where} has no rows; {remedy}")
    if not (
        pa.types.is_integer(labels.type) or pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type)
    ):
        raise InputError(f"{where}: column 'label' must hold integers or strings, got {labels.type}; convert it")
    if nulls.any():
        raise InputError(f"{where}, row {int(nulls.argmax())}: the label is missing; remove the row or label it")
    names = _declared_names(schema.metadata) if pa.types.is_integer(labels.type) else None
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"{where} declares a class name twice: {', '.join(sorted(names))}; name each class once")
    with refusing(where, "has a column 'label' that cannot be read", remedy):
        values = np.array(labels.to_pylist()) if names is None else labels.to_numpy(zero_copy_only=False)

    def entries() -> Iterator[tuple[str, bytes]]:
        row = 0
        batches = file.iter_batches(batch_size=1024, columns=["image"])
        while True:
            with refusing(f"{where}, row {row} and after", "cannot be read as Parquet", remedy):
                batch = next(batches, None)
                column: Any = [] if batch is None else batch.column(0).to_pylist()
            if batch is None:
                break
            for value in column:
                encoded = value["bytes"] if nested and value is not None else value
                if encoded is None:
                    raise InputError(
                        f"{where}, row {row}: the image bytes are missing; remove the row or embed the image"
                    )
                yield f"{where}, row {row}", encoded
                row += 1
        if row != len(values):
            raise InputError(f"{where} has {row} images but {len(values)} labels; {remedy}")

    return Part(where, values, names, entries)


def _declared_names(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's schema metadata declares for the column `label`, if any."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


# --- NumPy archives ----------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, list[Part]]:
    with (
        refusing(str(path), "cannot be read as .npz", "write it again with numpy.savez"),
        zipfile.ZipFile(path) as archive,
    ):
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = [("train", "x", "y"), ("test", "x_test", "y_test")]
        if not {"x_test", "y_test"} & set(members):
            wanted = wanted[:1]
        arrays = {}
        for key in (key for _, *keys in wanted for key in keys):
            if key not in members:
                raise InputError(f"{path} has no array {key!r}, only {', '.join(members) or 'none'}; add it")
            arrays[key] = _read_array(archive, members[key], f"{path}: {key}")
    return {part: [_npz_part(path, x, y, arrays[x], arrays[y])] for part, x, y in wanted}


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


def _npz_part(path: Path, x_name: str, y_name: str, x: np.ndarray, y: np.ndarray) -> Part:
    where = f"{path}: {x_name}"
    pixels = _pixels(x, where)
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: {y_name} must be one-dimensional, of integers or strings, got {y.dtype} of shape {y.shape}; "
            f"use {y_name}.ravel() or astype(int)"
        )
    if len(x) != len(y):
        raise InputError(f"{path}: {x_name} has {len(x)} rows but {y_name} has {len(y)}; they must have equally many")
    return Part(f"{path}: {y_name}", y, None, lambda: ((f"{where}[{i}]", image) for i, image in enumerate(pixels)))


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """Return an array of images as uint8, shape (N, H, W) or (N, H, W, 3)."""
    if x.ndim not in (3, 4) or x.size == 0:
        raise InputError(
            f"{where} must be (N, H, W), (N, H, W, C) or (N, C, H, W), not empty, got {x.shape}; reshape it"
        )
    if x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first == last:
            rule = "could be channels first or last" if first else "has no axis of 1 or 3 channels"
            raise InputError(f"{where} of shape {x.shape} {rule}; save it as (N, H, W, 3) or (N, H, W)")
        x = np.moveaxis(x, 1, 3) if first else x
        x = x[..., 0] if x.shape[3] == 1 else x
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "u" and x.dtype.itemsize == 2:
        return to_8_bits(x)
    if x.dtype.kind != "f":
        raise InputError(
            f"{where} must be uint8, uint16 or float, got {x.dtype}; use {where.split()[-1]}.astype('uint8')"
        )
    outside = ~((x >= 0) & (x <= 1)).reshape(len(x), -1).all(1)
    if outside.any():
        row = int(outside.argmax())
        raise InputError(
            f"{where}[{row}] holds NaN or values outside 0 to 1 (from {x[row].min():g} to {x[row].max():g}); "
            "scale floats to 0..1, or save uint8"
        )
    return np.rint(x * 255).astype(np.uint8)
