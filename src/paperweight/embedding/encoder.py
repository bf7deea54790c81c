"""The encoder: a network from images to features, with what it was trained on, in a file and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from paperweight.data import resize
from paperweight.errors import InputError
from paperweight.generators.checkpoint import read_file, read_header, write_file
from paperweight.nets import evaluating
from paperweight.studies import given_network
from paperweight.texts import brief

__all__ = ["DIM", "Encoder", "convolutions", "load_encoder"]

DIM = 128
"""Number of features."""

_CARD = "paperweight.encoder"
_CHUNK = 512
_LARGEST_SIDE = 4_096


def convolutions(shape: tuple[int, int, int], dim: int) -> nn.Sequential:
    """Return a small network of three convolutions and a linear layer, each with batch normalization and ReLU.

    Args:
        shape: Channels, height and width of an image, each side at least 4.
        dim: Number of features.

    Example:
        >>> convolutions((3, 8, 8), 16)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 16])
    """

    def block(before: int, after: int) -> Iterator[nn.Module]:
        yield from (nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(
        *(*block(shape[0], 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 128)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, dim), nn.BatchNorm1d(dim), nn.ReLU()),
    )


@final
class Encoder:
    """Maps images to features.

    Args:
        network: Maps images (N, *shape), each channel with mean 0 and standard deviation 1, to features (N, d).
        mean: The mean of each channel of the images that it learned, (C,).
        std: The standard deviation of each, (C,).
        shape: Channels, height and width.
        card: What it is and what it learned, in JSON's types.

    Example:
        >>> encoder = Encoder(nn.Flatten(), torch.zeros(1), torch.ones(1), (1, 2, 2), {})
        >>> encoder(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self, network: nn.Module, mean: Tensor, std: Tensor, shape: tuple[int, int, int], card: dict[str, Any]
    ) -> None:
        self.network = network
        self.mean = mean
        self.std = std
        self.shape = shape
        self.card = card

    def prepared(self, images: Tensor) -> Tensor:
        """Return images as the network takes them.

        Args:
            images: Shape (N, C, H, W), in [0, 1]. Of another size the centred square is resized, as of images that are
                learned; where those were all of one oblong size, the whole is.

        Raises:
            ValueError: If the shape or the number of channels is another one, or values are outside [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != self.shape[0] or not images.is_floating_point():
            raise ValueError(
                f"images must be floating, of shape (N, {self.shape[0]}, H, W), got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise ValueError("images must be from 0 to 1, got others; divide bytes by 255")
        images = images.to(self.mean)
        if images.shape[2:] != self.shape[1:]:
            if self.shape[1] == self.shape[2]:
                images = _squares(images)
            images = resize(images, self.shape[1:])
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features, (N, d), of images, as `prepared` takes them."""
        return encoded(self.network, self.prepared(images))

    def save(self, path: str | Path) -> None:
        """Write weights and card into a safetensors file.

        Raises:
            InputError: If the file cannot be written.
        """
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        write_file(path, {**state, "mean": self.mean, "std": self.std}, {_CARD: json.dumps(self.card)})


def _squares(images: Tensor) -> Tensor:
    """Return the centred square of each image."""
    high, wide = images.shape[2:]
    side = min(high, wide)
    top, left = (high - side) // 2, (wide - side) // 2
    return images[..., top : top + side, left : left + side]


def encoded(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features of images that are prepared, in evaluation mode and in parts, without gradients."""
    with evaluating(network), torch.no_grad():
        return torch.cat([network(part) for part in images.split(_CHUNK)])


def new_network(network: str | None, shape: tuple[int, int, int], seed: int) -> nn.Module:
    """Return a new network from images to features: the person's own, or three convolutions and a linear layer.

    Raises:
        InputError: If the person's cannot be used.
    """
    if network is not None:
        return given_network(network, shape, DIM, seed)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return convolutions(shape, DIM)


def load_encoder(path: str | Path, network: str | None = None) -> Encoder:
    """Read an encoder that `Encoder.save` wrote; nothing is unpickled.

    Args:
        path: The safetensors file.
        network: The person's own network as ``package.module:factory``, where it was trained with one.

    Raises:
        InputError: If the file is missing, damaged, or no encoder, or the network does not fit its weights.
    """
    header = read_header(path)
    try:
        card = json.loads(header.texts[_CARD])
        channels, height, width = (int(side) for side in card["shape"])
        own = card["network"]
        if channels not in (1, 3) or not all(4 <= side <= _LARGEST_SIDE for side in (height, width)):
            raise ValueError(f"a side of {(channels, height, width)}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no encoder that paperweight embed wrote; name such a file") from error
    if (own is None) != (network is None):
        rule = f"was trained with the network {own}; give it" if own else "has a network of its own; give none"
        raise InputError(f"encoder {path} {rule}")
    shape = channels, height, width
    model, state = new_network(network, shape, 0), read_file(path)
    try:
        mean, std = state.pop("mean").reshape(channels), state.pop("std").reshape(channels)
        model.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    except (KeyError, RuntimeError) as error:
        raise InputError(f"the weights in {path} do not fit the network: {brief(str(error), 300)}") from error
    return Encoder(model.eval(), mean, std, shape, cast(dict[str, Any], card))
