"""Named tensors with texts beside them in one safetensors file; nothing is ever unpickled.

What a file says is looked at before memory is taken for it.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paperweight.errors import InputError
from paperweight.files import check_file, room, write_failure
from paperweight.texts import brief

__all__ = ["Header", "Stored", "parsed", "read_file", "read_header", "write_file"]

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MOST_HEADER_BYTES = 1 << 20
_LARGEST = torch.finfo(torch.float32).max

Parsed = TypeVar("Parsed")


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """What a file says of a tensor.

    Args:
        dtype: Its type, as safetensors names it.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before its tensors are read.

    Args:
        tensors: Its tensors by name.
        texts: The texts beside them.
    """

    tensors: Mapping[str, Stored]
    texts: Mapping[str, str]


def write_file(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file, whole or not at all; folders on the way to it are made.

    Args:
        path: The file.
        tensors: What to write, on any device.
        metadata: Texts beside the tensors.

    Raises:
        InputError: If the file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"a checkpoint must have a file name, got {str(path)!r}; name a file")
    partial = path.with_name(f"{path.name}.partial")
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(whole, partial, metadata)
            partial.replace(path)
        finally:
            if partial.is_file():
                partial.unlink()
    except (OSError, SafetensorError) as error:
        words = write_failure(error, path) if isinstance(error, OSError) else f"{error}, {room(path)}"
        reason = words.removesuffix(", ")
        raise InputError(f"checkpoint {path} cannot be written ({reason}); choose another file") from error


def read_header(path: str | Path) -> Header:
    """Read what a safetensors file says of its tensors, and the texts beside them, but no tensor.

    Args:
        path: The file.

    Raises:
        InputError: If the file is missing, no ordinary one, damaged, a pickle, or has a header of more than a mebibyte
            or more holes than data.
    """
    path = Path(path)
    start, header = _opening(path)
    try:
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            tensors = {name: Stored(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
            texts: dict[str, str] = opened.metadata() or {}
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror or error}); name a file") from error
    except SafetensorError as error:
        if start.startswith(_PICKLES):
            raise InputError(
                f"checkpoint {path} is a pickle, which may run code when it is read, and is refused; "
                "write the weights as safetensors"
            ) from error
        raise InputError(
            f"checkpoint {path} is truncated or not a safetensors file ({brief(str(error), 300)}); write it again"
        ) from error
    names = json.loads(header, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    twice = len(names) - len(set(names))
    if twice:
        raise InputError(f"checkpoint {path} must name each tensor once, it repeats {twice}; write it again")
    return Header(tensors, texts)


def read_file(path: str | Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Args:
        path: The file.
        names: Which ones; all where left out.

    Raises:
        InputError: As `read_header`, or if a tensor is not finite in float32.
    """
    header = read_header(path)
    with safe_open(Path(path), framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in (header.tensors if names is None else names)}
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value.flatten())
            if not (low >= -_LARGEST and high <= _LARGEST):
                raise InputError(
                    f"checkpoint {path} must have finite weights, {brief(name, 100)!r} holds NaN or infinity; give one "
                    "of a training that did not diverge"
                )
    return tensors


def parsed(kind: TypeAdapter[Parsed], path: str | Path, header: Header, text: str) -> Parsed:
    """Read a text beside the tensors as JSON of a type, strictly.

    Args:
        kind: The type.
        path: The file, for the message.
        header: What the file says.
        text: Name of the text.

    Raises:
        InputError: If it is missing, no JSON, or has a field of another name, type or range.
    """
    try:
        return kind.validate_json(header.texts.get(text, ""), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join([text, *(brief(str(part), 60) for part in first["loc"])])
        raise InputError(
            f"the metadata of checkpoint {path} are damaged: {where}: {brief(first['msg'], 400)}; write it again"
        ) from error


def _opening(path: Path) -> tuple[bytes, bytes]:
    """Return the first eight bytes of a file, and its header where these give a length that it can have."""
    size = check_file(path, "checkpoint", "name a file")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if _MOST_HEADER_BYTES < length <= size and not start.startswith(_PICKLES):
                raise InputError(
                    f"checkpoint {path} must have a header of at most {_MOST_HEADER_BYTES:,} bytes, it has {length:,}; "
                    "write it again with fewer tensors or words"
                )
            header = file.read(length) if length <= min(size, _MOST_HEADER_BYTES) else b""
            if 2 * _data_bytes(file.fileno(), size) < size:
                raise InputError(
                    f"checkpoint {path} must hold data, of its {size:,} bytes most are holes; write it again"
                )
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror or error}); name a file") from error
    return start, header


def _data_bytes(file: int, size: int) -> int:
    """Return how many bytes of a file are no holes, or half of it as soon as there are so many."""
    if sys.platform == "win32":
        return size
    place, data = 0, 0
    while 2 * data < size:
        try:
            start = os.lseek(file, place, os.SEEK_DATA)
        except OSError:
            break  # nothing but a hole is left
        place = os.lseek(file, start, os.SEEK_HOLE)
        data += place - start
    return data
