"""Named tensors with texts beside them in one safetensors file; nothing is ever unpickled."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paperweight.errors import InputError

__all__ = ["read_file", "write_file"]

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


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
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"checkpoint {path} cannot be written ({reason}); choose another file") from error


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the texts of a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors, on the CPU, and the texts beside them.

    Raises:
        InputError: If the file is missing, damaged, or a pickle.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror or error}); name a file") from error
    try:
        with safe_open(path, framework="pt") as opened:
            names: list[str] = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        if start.startswith(_PICKLES):
            raise InputError(
                f"checkpoint {path} is a pickle, which may run code when it is read, and is refused; "
                "write the weights as safetensors"
            ) from error
        raise InputError(
            f"checkpoint {path} is truncated or not a safetensors file ({error}); write it again"
        ) from error
