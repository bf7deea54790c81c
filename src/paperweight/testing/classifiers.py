"""Toy images and classifiers for checks: deterministic, and made without the global random state."""

import math

import torch
from torch import Tensor, nn

from paperweight.testing.randomness import seeded

__all__ = ["CLASSES", "IMAGE", "linear_classifier", "toy_classifier", "toy_images"]

IMAGE = (1, 4, 4)
CLASSES = 3


def toy_images(count: int, shape: tuple[int, ...] = IMAGE, *, seed: int = 0) -> Tensor:
    """Draw images of uniform noise.

    Args:
        count: How many.
        shape: Shape of one.
        seed: Another seed gives others.

    Returns:
        Entries within 0 and 1, shape ``(count, *shape)``.

    Example:
        >>> toy_images(2).shape
        torch.Size([2, 1, 4, 4])
    """
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def toy_classifier(shape: tuple[int, int, int] = IMAGE, dropout: float = 0.5) -> nn.Sequential:
    """Make a small network of convolution, batch norm, tanh, dropout and linear layer, in eval mode.

    Args:
        shape: Shape of an image.
        dropout: Share of what the dropout layer drops; at 0 it draws no random numbers.

    Returns:
        A network from images to the logits of three classes, every time with the same weights.

    Example:
        >>> toy_classifier()(toy_images(2)).shape
        torch.Size([2, 3])
    """
    channels, height, width = shape
    with seeded(0):
        network = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(4 * height * width, CLASSES),
        )
        network(toy_images(16, shape))
    return network.eval()


def linear_classifier(shape: tuple[int, ...] = IMAGE, centre: float = 0.5) -> nn.Sequential:
    """Make a linear classifier of two classes, whose boundary goes through the image that is constant.

    Args:
        shape: Shape of an image.
        centre: The constant.

    Returns:
        A network from images to the logits of two classes, every time with the same weights; the difference of the
        two is of order 1 for images of uniform noise.

    Example:
        >>> linear_classifier()(torch.full((1, 1, 4, 4), 0.5)).allclose(torch.zeros(1, 2), atol=1e-6)
        True
    """
    features = math.prod(shape)
    with seeded(0), torch.no_grad():
        linear = nn.Linear(features, 2)
        linear.weight.normal_(std=4 / math.sqrt(features))
        linear.bias.copy_(-centre * linear.weight.sum(1))
    return nn.Sequential(nn.Flatten(), linear).eval()
