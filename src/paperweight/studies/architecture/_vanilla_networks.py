"""The networks of VanillaNet's study: the method's, with the course of deep training, and a plain one of equal cost."""

from collections.abc import Callable
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from paperweight.architecture.vanillanet import VanillaNet
from paperweight.nets import count_multiplications

__all__ = ["REACH", "Dims", "Shape", "as_costly", "fading", "vanilla"]

Shape = tuple[int, int, int]
Dims = tuple[int, int, int]

REACH = 3

_STRIDES = (2, 2)
_DEEP_SHARE = 1 / 3  # of the epochs, until lam is 1


def vanilla(shape: Shape, classes: int, dims: Dims, act_num: int = 0, deep: bool = False) -> partial[nn.Module]:
    """Return what makes the method's network, with a reach and with or without deep training."""
    return partial(VanillaNet, shape, classes, dims, _STRIDES, _patch(shape), act_num, deep)


def as_costly(shape: Shape, classes: int, dims: Dims) -> partial[nn.Module]:
    """Return what makes a plain network as wide as has about the multiplications of the method."""

    def multiplications(build: Callable[[], nn.Module]) -> int:
        return count_multiplications(build(), torch.zeros(1, *shape))

    def wide(width: int) -> partial[nn.Module]:
        return partial(_plain, shape, classes, width)

    with torch.random.fork_rng(devices=[]):
        wanted = multiplications(vanilla(shape, classes, dims, REACH))
        above = next(width for width in count(2) if multiplications(wide(width)) >= wanted)
        return wide(min((above - 1, above), key=lambda width: abs(multiplications(wide(width)) - wanted)))


def fading(model: nn.Module, steps: int, steps_per_epoch: int) -> Callable[[int, Tensor], None] | None:
    """Return what raises lam epoch by epoch, from 0 to 1, after each of so many steps; nothing for a plain network."""
    if not isinstance(model, VanillaNet):
        return None
    epochs = max(1, round(_DEEP_SHARE * steps / steps_per_epoch))

    def on_step(step: int, _: Tensor) -> None:
        if (step + 1) % steps_per_epoch == 0:
            model.set_lambda(min(1.0, (step + 1) // steps_per_epoch / epochs))

    return on_step


def _plain(shape: Shape, classes: int, width: int) -> nn.Sequential:
    """Make a network of as many layers as the method has deployed, those of its stages 3x3 convolutions."""
    patch = _patch(shape)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, patch, stride=patch, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    for stride in _STRIDES:
        layers += [nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)]
        layers += [nn.MaxPool2d(stride), nn.ReLU()]
        width *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _patch(shape: Shape) -> int:
    """Choose the paper's patches of 4 x 4 pixels, or 2 x 2 where images are too small for these."""
    return 4 if min(shape[1:]) >= 16 else 2
