"""Tensors on disk that are built once, and anew after a change of a definition that building them executed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from paperweight.provenance import Recording, changed, here, own_files, recording, running, unchanged_files

__all__ = ["kept_tensors"]


def kept_tensors(
    folder: Path, parts: tuple[object, ...], build: Callable[[], dict[str, Tensor]], device: torch.device
) -> dict[str, Tensor]:
    """Return tensors from a folder, or build and store them.

    Args:
        folder: Where tensors are stored, each as a safetensors file, with what building it executed beside it.
        parts: What they depend on beside code.
        build: Builds them, named.
        device: Where they are wanted.

    Returns:
        The tensors. A recording that is on takes note of what building them executed, whenever that was.
    """
    from filelock import FileLock
    from safetensors.torch import load_file, save_file

    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock"):
        number = 0
        while (about := folder / f"{key}-{number}.json").exists():
            notes = json.loads(about.read_text(encoding="utf-8"))
            if not changed(here(), notes["units"]) and unchanged_files(notes["own"]):
                break
            number += 1
        else:
            with recording(Recording(here().package)) as record:
                built = build()
            notes = {"units": here().used(record), "own": own_files()}
            partial = folder / f"{key}.partial"
            save_file({name: value.contiguous().cpu() for name, value in built.items()}, partial)
            partial.replace(about.with_suffix(".safetensors"))
            partial.write_text(json.dumps(notes), encoding="utf-8")
            partial.replace(about)
    for record in running():
        record.units |= notes["units"]
    return load_file(about.with_suffix(".safetensors"), device=str(device))
