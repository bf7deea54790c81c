"""Scenes of coloured shapes with a class for every pixel, and what segments them: a small backbone and a pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data.synthetic import SHAPES, shapes

__all__ = ["CLASSES", "Pyramid", "Scenes", "ShapeClassifier", "channels_of", "draw_scenes", "draw_single", "mean_iou"]

CLASSES = len(SHAPES) + 1
"""Background, which is 0, and the shapes."""

_NOISE = 0.2


@final
@dataclass(frozen=True, eq=False)
class Scenes:
    """Images and the class of each pixel.

    Attributes:
        images: (N, 3, H, W).
        labels: int64, (N, H, W).
    """

    images: Tensor
    labels: Tensor


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + _NOISE * torch.randn(images.shape, generator=generator)


def draw_single(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images of one shape each, with noise, and the numbers of the shapes."""
    images, attributes = shapes(count, size, generator=generator)
    return _noisy(images, generator), attributes["shape"]


def draw_scenes(count: int, size: int, overlaid: int, *, generator: torch.Generator) -> Scenes:
    """Draw shapes on top of each other, each wholly inside the image, and add noise.

    Args:
        count: Number of images.
        size: Height and width in pixels.
        overlaid: Shapes in an image; later ones hide earlier ones.
        generator: Draws them.
    """
    images, labels = torch.zeros(count, 3, size, size), torch.zeros(count, size, size, dtype=torch.int64)
    for _ in range(overlaid):
        drawn, attributes = shapes(count, size, generator=generator)
        inside = drawn.amax(1) > 0.5
        images = torch.where(inside[:, None], drawn, images)
        labels = torch.where(inside, attributes["shape"][:, None, None] + 1, labels)
    return Scenes(_noisy(images, generator), labels)


def channels_of(width: int) -> tuple[int, int, int, int]:
    """Give the channels of the four stages of a backbone."""
    return width, width, 2 * width, 4 * width


@final
class ShapeClassifier(nn.Module):
    """Four stages, each a 3x3 convolution with batch normalization and ReLU, the last two of stride 2; then a head.

    Args:
        width: Channels of the first stage.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = channels_of(width)

        def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        sizes = zip((3, *channels[:-1]), channels, (1, 1, 2, 2), strict=True)
        self.stages = nn.Sequential(*(stage(*each) for each in sizes))
        self.head = nn.Linear(channels[-1], len(SHAPES))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, shapes)."""
        return self.head(self.stages(x).mean((2, 3)))


@final
class Pyramid(nn.Module):
    """Sums maps of several sizes from the smallest to the largest, as a feature pyramid, and classifies each pixel.

    Args:
        channels: Channels of the maps, from the largest map to the smallest.
        width: Channels of the sum.
        classes: Scores of a pixel.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(number, width, 1) for number in channels)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map maps, each (N, C, H, W), to scores of the pixels of the largest, (N, classes, H, W)."""
        levels = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        total = levels[-1]
        for level in reversed(levels[:-1]):
            total = level + F.interpolate(total, size=level.shape[2:], mode="nearest")
        return self.head(total)


def mean_iou(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Compute the mean over classes of pixels in intersection over those in union of prediction and label."""
    pairs = torch.bincount(classes * labels.flatten() + predicted.flatten(), minlength=classes**2)
    counts = pairs.view(classes, classes).double()
    both = counts.diagonal()
    return (both / (counts.sum(0) + counts.sum(1) - both).clamp(min=1)).mean().item()
