"""The user's network: checked, built twice to be sure that it starts anew each time, and known by its start weights."""

import hashlib
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from paperweight.catalogue import load_object
from paperweight.errors import InputError

__all__ = ["given_network", "load_factory"]


@contextmanager
def _streams_from(stream: int) -> Generator[None]:
    """Seed the global random streams, and have them go on as before at the end."""
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        np.random.seed(stream % 2**32)
        random.seed(stream)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


def load_factory(spec: str) -> Callable[..., object]:
    """Return the user's factory; what its module draws from the global random streams does not depend on the trial.

    Args:
        spec: The factory, as ``package.module:factory``.

    Raises:
        InputError: If it cannot be imported.
    """
    with _streams_from(0):
        return load_object(spec, "network")


def given_network(
    spec: str, shape: tuple[int, int, int], classes: int, stream: int, known: str | None = None
) -> tuple[nn.Module, str]:
    """Return a new network of the user's, with a hash of the weights that it starts from.

    Args:
        spec: The factory, as ``package.module:factory``.
        shape: Shape (C, H, W) of one input.
        classes: Number of classes.
        stream: What the global random streams are seeded with while it is built; they go on as before.
        known: The hash that this start had earlier in the trial. Where it is left out, the network is built twice.

    Raises:
        InputError: If the factory cannot be imported or fails, its network does not map (N, C, H, W) to logits
            (N, classes), while it trains and else, none of its weights can be trained, or the factory returns the same
            network or shared weights again, or weights that differ.
    """
    factory = load_factory(spec)

    def build() -> nn.Module:
        with _streams_from(stream):
            try:
                model = factory(shape, classes)
            except Exception as error:
                raise InputError(
                    f"network {spec} cannot be built for images of shape {shape} and {classes} classes: "
                    f"{type(error).__name__}: {error}; give another with --network package.module:factory"
                ) from error
            return _checked(model, spec, shape, classes, training=False)

    model = build()
    start = _weights_hash(model)
    if known is None:
        second = build()
        if _places(model) & _places(second) or model is second:
            raise InputError(
                f"network {spec} returned the same weights twice: a trial would train on from the one before; "
                "have the factory make a new network at each call"
            )
        known = _weights_hash(second)
        with _streams_from(stream):
            _checked(second, spec, shape, classes, training=True)
    if start != known:
        raise InputError(
            f"network {spec} started with other weights the second time: both arms of a pair must start alike; have "
            "the factory draw from the global streams of torch, numpy or random alone, or read the same weights"
        )
    return model, start


def _checked(model: object, spec: str, shape: tuple[int, int, int], classes: int, *, training: bool) -> nn.Module:
    """Return a network that gives logits; one that is tried while it trains is no more as it was."""
    rule = f"network {spec} must return a module that maps (N, {', '.join(map(str, shape))}) to logits"
    mode = " while it trains" if training else ""
    if not isinstance(model, nn.Module):
        raise InputError(f"{rule}; its factory returned {type(model).__name__}")
    try:
        with torch.set_grad_enabled(training):
            logits = cast(Callable[[Tensor], object], model.train(training))(torch.zeros(2, *shape))
    except Exception as error:
        raise InputError(f"{rule} (N, {classes}); it failed on zeros of that shape{mode}: {error}") from error
    finally:
        model.train()
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{rule} (N, {classes}); for N = 2 it returned {got}{mode}")
    if logits.min() >= 0 and (logits.sum(dim=1) - 1).abs().max() < 1e-4:
        raise InputError(
            f"{rule} (N, {classes}); it returned probabilities, which add up to 1: leave its last softmax out"
        )
    if training and not logits.requires_grad:
        raise InputError(f"{rule} that can be trained; none of its weights wants a gradient")
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _places(model: nn.Module) -> set[int]:
    """Return where in memory the parameters lie."""
    return {value.untyped_storage().data_ptr() for value in model.parameters() if value.numel() > 0}


def _weights_hash(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in _tensors(model).items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
