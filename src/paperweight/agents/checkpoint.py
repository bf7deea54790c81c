"""A nested state, of weights, optimizer and counts, in one safetensors file; nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paperweight.errors import InputError

__all__ = ["read_state", "write_state"]


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all; folders on the way to the file are made.

    Args:
        path: The file.
        state: Dictionaries, lists and tuples, in any depth, of tensors, numbers, texts and None.

    Raises:
        InputError: If the file cannot be written.
        ValueError: If the state holds something else.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(state, tensors))
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {"state": text})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path} cannot be written ({error}); choose another file") from error


def read_state(path: str | Path) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Args:
        path: The file.

    Returns:
        The state, its tensors on the CPU.

    Raises:
        InputError: If the file cannot be read, or was not written by `write_state`.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no dict
            text = (opened.metadata() or {})["state"]
        return _decoded(json.loads(text), tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} cannot be read, or was not written by an agent ({error}); "
            "name another, or delete it to start anew"
        ) from error


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn a state into what JSON can hold, and put its tensors aside under numbers."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _encoded(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encoded(entry, tensors) for entry in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"state must hold tensors, numbers, texts and None, got {type(value).__name__}")


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decoded(entry, tensors) for key, entry in content}
    entries = [_decoded(entry, tensors) for entry in content]
    return tuple(entries) if kind == "tuple" else entries
