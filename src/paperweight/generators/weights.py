"""A model with the weights of a file, built only once the file is known to hold them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paperweight.errors import InputError
from paperweight.generators.checkpoint import Header, Stored, read_file
from paperweight.texts import brief

__all__ = ["check_layers", "load_weights"]

_FLOATING = ("F16", "BF16", "F32", "F64")

Model = TypeVar("Model", bound=nn.Module)


def load_weights(path: str | Path, header: Header, names: Mapping[str, str], build: Callable[[], Model]) -> Model:
    """Build a model with the weights of a file, once the file is known to hold them.

    Args:
        path: The file.
        header: What it says.
        names: Names in the model to names in the file.
        build: Makes the model; it is called without memory for weights first.

    Returns:
        The model in eval mode and without gradients, in the types that it was built with.

    Raises:
        InputError: If it cannot be built, or the weights do not fit or are not finite.
    """
    try:
        with torch.device("meta"), _Unfilled():
            planned = build()
    except (InputError, RuntimeError, OverflowError) as error:
        raise InputError(f"checkpoint {path} cannot be used: {brief(str(error), 400)}; write it again") from error
    _check_fit(path, {name: header.tensors[stored] for name, stored in names.items()}, planned)
    tensors = read_file(path, names.values())
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict({name: tensors[stored] for name, stored in names.items()})
    return model.eval().requires_grad_(False)


def _check_fit(path: str | Path, tensors: Mapping[str, Stored], model: nn.Module) -> None:
    """Check that a file has the tensors of a model, in number, shape and kind."""
    wanted: dict[str, Tensor] = model.state_dict()
    reasons: list[str] = []
    for name, value in wanted.items():
        stored = tensors.get(name)
        if stored is not None and stored.shape != tuple(value.shape):
            reasons.append(f"size mismatch for {name}: {stored.shape}, wanted {tuple(value.shape)}")
        elif stored is not None and value.is_floating_point() and stored.dtype not in _FLOATING:
            reasons.append(f"{name} must be one of {', '.join(_FLOATING)}, it is {stored.dtype}")
        elif stored is not None and not value.is_floating_point() and stored.dtype in _FLOATING:
            reasons.append(f"{name} must be of whole numbers, it is {stored.dtype}")
    reasons += [f"{name} is missing" for name in wanted if name not in tensors]
    reasons += [f"{brief(name, 100)} is none of its" for name in tensors if name not in wanted]
    if reasons:
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise InputError(
            f"the weights in checkpoint {path} do not fit the network: {brief(reasons[0], 400)}{more}; give the "
            "checkpoint of this network"
        )


def check_layers(path: str | Path, header: Header, arguments: Mapping[str, int]) -> None:
    """Check that a network to be built has at most as many blocks as a file has tensors.

    Args:
        path: The file, for the message.
        header: What it says.
        arguments: Those of the network.

    Raises:
        InputError: If there are more.
    """
    blocks, most = arguments.get("blocks", 0), len(header.tensors)
    if blocks > most:
        raise InputError(
            f"blocks in checkpoint {path} must be at most the number of its tensors, {most:,}, got "
            f"{brief(str(blocks), 60)}; write it again"
        )


@final
class _Unfilled(TorchFunctionMode):
    """Leaves initial values out while a model is built without memory, which would load a compiler for them."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else given["tensor"]
        if func in (Tensor.mul, Tensor.__mul__, Tensor.__rmul__):
            return args[0]
        return torch.empty(*args, **given) if func is torch.randn else func(*args, **given)
