"""Finding what a person names as ``package.module:name``."""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from paperweight.errors import InputError
from paperweight.processes import allow_name

__all__ = ["load_named", "load_object", "object_hash"]


def load_object(spec: str, argument: str) -> Callable[..., object]:
    """Return the callable that ``package.module:name`` names.

    Args:
        spec: Where it is.
        argument: Name of the argument, for the message.

    Raises:
        InputError: If the module fails or does not exist, or the name does not exist or is not callable.

    Example:
        >>> load_object("torch.nn:Linear", "network").__name__
        'Linear'
    """
    loaded = load_named(spec, argument)
    if not callable(loaded):
        raise InputError(f"{argument} {spec!r} must be callable, it is {type(loaded).__name__}")
    return loaded


def load_named(spec: str, argument: str) -> object:
    """Return what ``package.module:name`` names.

    Args:
        spec: Where it is.
        argument: Name of the argument, for the message.

    Raises:
        InputError: If the module fails or does not exist, or the name does not exist.

    Example:
        >>> load_named("math:pi", "number")
        3.141592653589793
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise InputError(f"{argument} must be written package.module:name, got {spec!r}")
    allow_name(module)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{argument} {spec!r} cannot be imported: {error}; is its folder on PYTHONPATH?") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{argument} {spec!r} fails on import: {type(error).__name__}: {error}; mend its module"
        ) from error


def object_hash(spec: str, argument: str) -> str:
    """Return the SHA-256 of the file in which ``package.module:name`` is defined.

    Args:
        spec: Where the object is.
        argument: Name of the argument, for the message.

    Raises:
        InputError: If the module cannot be found, or is not a file.

    Example:
        >>> len(object_hash("json:loads", "network"))
        64
    """
    allow_name(spec.partition(":")[0])
    try:
        module = importlib.util.find_spec(spec.partition(":")[0])
    except (Exception, SystemExit):
        module = None  # a package above it fails, too
    if module is None or module.origin is None or not Path(module.origin).is_file():
        raise InputError(f"{argument} {spec!r} cannot be found; write package.module:name, its folder on PYTHONPATH")
    return hashlib.sha256(Path(module.origin).read_bytes()).hexdigest()
