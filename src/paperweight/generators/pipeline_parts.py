"""The parts of a text-to-image pipeline, found by their usual names, and how they are called without a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.process import NoiseSchedule, Prediction

__all__ = ["find", "in_float32", "need", "place", "prediction", "schedule", "still", "tensor_of"]

_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def find(holder: Any, name: str) -> Any:
    """Give an attribute, or an entry of a mapping, or None."""
    if isinstance(holder, Mapping) and name in holder:
        return holder[name]
    return getattr(holder, name, None)


def need(holder: Any, name: str, owner: str) -> Any:
    """Give an attribute or entry, or raise an `InputError` that says what a pipeline must have."""
    part = find(holder, name)
    if part is None:
        raise InputError(
            f"{owner} must have {name}, and has none; give a text-to-image pipeline with encode_prompt, unet or "
            "transformer, scheduler (with alphas_cumprod and config.prediction_type) and, for latents, vae (with "
            "config.scaling_factor)"
        )
    return part


def tensor_of(output: Any, name: str, owner: str) -> Tensor:
    """Give the attribute ``name`` of an output, or the first of a tuple, or the output where it is a tensor."""
    tensor = output if isinstance(output, Tensor) else find(output, name)
    if tensor is None and isinstance(output, tuple | list) and output:
        tensor = output[0]
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"the output of {owner} must have {name}, or be a tuple that starts with it, and is a "
            f"{type(output).__name__}; give a pipeline whose {owner} returns one of the two"
        )
    return tensor


def place(module: Any, otherwise: Tensor | None = None) -> tuple[torch.device, torch.dtype]:
    """Give device and dtype of a module's first parameter of real numbers, or of a tensor where it has none."""
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    first = next((p for p in parameters if p.is_floating_point()), torch.empty(0) if otherwise is None else otherwise)
    return first.device, first.dtype


@contextmanager
def still(*modules: Any) -> Iterator[None]:
    """Hold modules in eval mode, without gradients; afterwards each submodule is in its own mode again."""
    held = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    modes = [part.training for part in held]
    try:
        for part in held:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(held, modes, strict=True):
            part.training = mode


@contextmanager
def in_float32(module: Any, wanted: bool) -> Iterator[None]:
    """Let a module compute in float32 where that is wanted; afterwards its own numbers are in place again."""
    tensors = [*module.parameters(), *module.buffers()] if wanted and isinstance(module, nn.Module) else []
    held = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
    try:
        for tensor, own in held:
            tensor.data = own.float()
        yield
    finally:
        for tensor, own in held:
            tensor.data = own


def prediction(scheduler: Any) -> Prediction:
    """Tell what the network of a scheduler predicts.

    Raises:
        InputError: If the scheduler does not tell, or it is none of noise, data and velocity.
    """
    named = need(need(scheduler, "config", "scheduler"), "prediction_type", "scheduler.config")
    if named not in _PREDICTIONS:
        raise InputError(
            f"prediction_type of the pipeline's scheduler.config must be one of {', '.join(_PREDICTIONS)}, "
            f"got {named!r}; give a pipeline that was trained to predict one of them"
        )
    return _PREDICTIONS[named]


def schedule(scheduler: Any) -> NoiseSchedule:
    """Give the shares of signal that a scheduler trains at, but for a last time that has none.

    At a share of zero the network sees noise alone: its noise is known, and says nothing of the image.

    Raises:
        InputError: If the scheduler has no such shares, or they do not fall from below 1 to above 0.
    """
    shares = find(scheduler, "alphas_cumprod")
    if shares is None:
        raise InputError(
            f"scheduler of the pipeline must have alphas_cumprod, and {type(scheduler).__name__} has none, as those of "
            "flow matching and of continuous noise levels; give a pipeline that was trained by denoising diffusion"
        )
    shares = torch.as_tensor(shares).detach().cpu().double()
    if shares.ndim == 1 and len(shares) > 1 and shares[-1] == 0:
        shares = shares[:-1]
    try:
        return NoiseSchedule(shares, torch.arange(shares.numel()))
    except ValueError as error:
        raise InputError(
            f"alphas_cumprod of the pipeline's scheduler cannot be used: {error}; give a scheduler whose shares of "
            "signal fall from below 1 to above 0, one a training time; the last alone may be 0"
        ) from error
