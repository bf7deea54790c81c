"""Parquet files of images: their columns, and folders of them as data hubs lay them out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paperweight.data.parts import UNLABELLED, Part, Source, plain_labels, role
from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["parquet_file", "parquet_folder"]

SHARD = re.compile(r"(.*?)-?(\d+)-of-(\d+)(?:-[0-9a-f]+)?", re.IGNORECASE)
PIECE = re.compile(r"(?:part|data|shard|chunk)?[-_.]?\d+(?:[-_.].*)?", re.IGNORECASE)
PARTITION = re.compile(r"(label|labels|class|category|target)=(.+)", re.IGNORECASE)
IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")
SUSPICIOUS_BYTES, SUSPICIOUS_RATIO = 256 << 20, 500
REMEDY = "restore the file, or write it again"


def parquet_file(path: Path, *, labelled: bool) -> Source:
    """Return the source that one Parquet file is."""
    match = SHARD.fullmatch(path.stem)
    notes = ()
    if match and int(match[3]) > 1:
        notes = (f"{path.name} is one of {int(match[3])} shards; give the folder {path.parent} to read them all",)
    return Source({path.name: path}, (*notes, *_chosen(path)), lambda: {"train": [_part(path, labelled, None)]})


def parquet_folder(root: Path, files: Sequence[Path], *, labelled: bool) -> Source:
    """Return the source that the Parquet files below a folder are.

    The part that a file belongs to stands in its name (`train-00000-of-00002.parquet`) or in that of a folder
    (`train/0000.parquet`); folders such as `label=cat` name the class of what they hold.

    Raises:
        InputError: If a shard is missing, no file is for training, or the files belong to several sets.
    """
    named = {path.relative_to(root).as_posix(): path for path in files}
    _check_shards(root, files)
    parts: dict[str, list[Path]] = {}
    others: list[str] = []
    sets: dict[tuple[str, ...], None] = {}
    for name, path in named.items():
        split = next((word for word in (path.stem, *reversed(Path(name).parent.parts)) if role(word)), None)
        if split is None:
            others.append(name)
            continue
        parts.setdefault(role(split) or split, []).append(path)
        sets[tuple(word for word in Path(name).parent.parts if not role(word) and not PARTITION.fullmatch(word))] = None
    if not parts and (len(named) == 1 or all(PIECE.fullmatch(path.stem) for path in files)):
        parts, others = {"train": list(files)}, []
        folders = [tuple(Path(name).parent.parts) for name in named]
        sets = dict.fromkeys(tuple(w for w in words if not PARTITION.fullmatch(w)) for words in folders)
    if "train" not in parts:
        raise InputError(
            f"{root} holds {', '.join(named)}, but no train.parquet or train-00000-of-00001.parquet; "
            "rename one, or give the path of one file"
        )
    if len(sets) > 1:
        shown = ", ".join("/".join(words) or "." for words in sets)
        raise InputError(f"{root} holds Parquet files of several sets ({shown}); give the folder of one of them")
    notes = [f"{name} was ignored, having no name of a split" for name in others]
    if parts.pop("unlabelled", []):
        notes.append("files for predictions were left out, having no labels")
    used = {name: path for name, path in named.items() if any(path in group for group in parts.values())}
    notes += dict.fromkeys(note for path in used.values() for note in _chosen(path))

    def read() -> dict[str, list[Part]]:
        return {
            split: [_part(path, labelled, _class_of(path.relative_to(root))) for path in group]
            for split, group in parts.items()
        }

    return Source(used, tuple(notes), read)


def _check_shards(root: Path, files: Sequence[Path]) -> None:
    shards: dict[tuple[Path, str, int], list[Path]] = {}
    for path in files:
        match = SHARD.fullmatch(path.stem)
        if match:
            shards.setdefault((path.parent, match[1].lower(), int(match[3])), []).append(path)
    for (folder, _, count), paths in shards.items():
        if len(paths) != count:
            where = root if folder == root else folder
            raise InputError(f"{paths[0]} is one of {count} shards, but {where} holds {len(paths)}; add the others")


def _class_of(name: Path) -> str | None:
    from urllib.parse import unquote

    matches = (PARTITION.fullmatch(word) for word in name.parent.parts)
    return next((unquote(match[2]) for match in matches if match), None)


def _schema(path: Path) -> tuple[Any, Any]:
    """Return an open Parquet file and its schema, once its size is plausible."""
    import pyarrow.parquet as pq

    with refusing(str(path), "cannot be read as Parquet", REMEDY):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        declared = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
    if declared > SUSPICIOUS_BYTES and declared > SUSPICIOUS_RATIO * path.stat().st_size:
        raise InputError(f"{path} declares {declared:,} bytes, implausible for its size; {REMEDY}")
    return file, schema


def _columns(schema: Any) -> tuple[str | None, list[str]]:
    """Return the column of images and those that may hold labels, the chosen one first."""
    import pyarrow as pa

    features = _features(schema.metadata)
    kinds = {
        name: feature.get("_type")
        for name, feature in features.items()
        if name in schema.names and isinstance(feature, dict)
    }
    images = [name for name in IMAGE_COLUMNS if name in schema.names]
    images += [name for name, kind in kinds.items() if kind == "Image" and name not in images]
    for holds in (pa.types.is_struct, pa.types.is_binary):
        images += [name for name in schema.names if name not in images and holds(schema.field(name).type)]
    labels = [name for name in LABEL_COLUMNS if name in schema.names]
    labels += [name for name, kind in kinds.items() if kind == "ClassLabel" and name not in labels]
    return (images[0] if images else None), labels


def _chosen(path: Path) -> list[str]:
    """Say which columns were chosen, where their names leave a choice."""
    image, labels = _columns(_schema(path)[1])
    notes = [] if image in (None, "image") else [f"the images were taken from the column {image}"]
    if labels and labels[0] != "label":
        others = f", not from {' or '.join(labels[1:])}" if len(labels) > 1 else ""
        notes.append(f"the labels were taken from the column {labels[0]}{others}")
    return notes


def _part(path: Path, labelled: bool, partition: str | None) -> Part:
    import pyarrow as pa

    where = str(path)
    file, schema = _schema(path)
    image, candidates = _columns(schema)
    label = candidates[0] if candidates else None
    for column, kind in ((image, "image"), (label, "label")):
        if column is None and (kind == "image" or (labelled and partition is None)):
            raise InputError(
                f"{where} has no column {kind!r}, only {', '.join(schema.names) or 'none'}; rename the column"
            )
    kind = schema.field(image).type
    nested = pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]
    if not (nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InputError(
            f"{where}: column {image!r} must be binary or struct{{bytes, path}}, got {kind}; encode it as PNG"
        )
    names = None
    if partition is not None or label is None:
        values = np.array([partition or UNLABELLED] * file.metadata.num_rows)
    else:
        values, names = _labels(file, label, schema, where)
    if len(values) == 0:
        raise InputError(f"{where} has no rows; {REMEDY}")

    def entries() -> Iterator[tuple[str, bytes]]:
        row = 0
        batches = file.iter_batches(batch_size=1024, columns=[image])
        while True:
            with refusing(f"{where}, row {row} and after", "cannot be read as Parquet", REMEDY):
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
            raise InputError(f"{where} has {row} images but {len(values)} labels; {REMEDY}")

    return Part(where, values, names, entries)


def _labels(file: Any, label: str, schema: Any, where: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return the labels, -1 where all are missing, and the class names that the file declares for them."""
    import pyarrow as pa

    with refusing(where, f"has a column {label!r} that cannot be read", REMEDY):
        column = file.read(columns=[label]).column(label).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        nulls = np.asarray(column.is_null())
    if len(nulls) and nulls.all():
        return np.full(len(nulls), -1), None
    if nulls.any():
        raise InputError(f"{where}, row {int(nulls.argmax())}: the label is missing; remove the row or label it")
    whole = pa.types.is_integer(column.type)
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not (whole or text or pa.types.is_boolean(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"{where}: column {label!r} must hold integers or strings, got {column.type}; convert it")
    feature = _features(schema.metadata).get(label)
    declared = feature.get("names") if whole and isinstance(feature, dict) else None
    names = tuple(declared) if isinstance(declared, list) and all(isinstance(n, str) for n in declared) else None
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"{where} declares a class name twice: {', '.join(sorted(names))}; name each class once")
    with refusing(where, f"has a column {label!r} that cannot be read", REMEDY):
        values = np.array(column.to_pylist()) if text else column.to_numpy(zero_copy_only=False)
    return plain_labels(values, f"{where}, column {label!r}") if len(values) else values, names


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return what Hugging Face's schema metadata declares of the columns."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}
