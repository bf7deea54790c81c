"""Grey images tinted with a colour for each class, right in training as often as is said, and else by chance."""

from dataclasses import replace
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from paperweight.data import LabelledImages, Splits, channel_statistics, normalise

__all__ = ["Tinted", "tinted"]


class Tinted(NamedTuple):
    """Training images with mostly right colours, the others with colours by chance; and two parts as in training."""

    data: Splits
    shown: Tensor  # the class whose colour each test image has, (N,)
    validation_as_trained: LabelledImages
    test_as_trained: LabelledImages


def tinted(data: Splits, share: float, generator: torch.Generator, *, grey: bool = False) -> Tinted:
    """Tint images, and normalise them by the statistics of the training images.

    Args:
        data: The images, in [0, 1]; the mean of their channels is tinted.
        share: Share of the training images that get the colour of their class; the others get one drawn at random.
        generator: Source of the draws, on the CPU.
        grey: Whether all colours are one.

    Example:
        >>> part = LabelledImages(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
        >>> made = tinted(Splits(part, part, part, ("a", "b", "c"), (1, 8, 8)), 0.9, torch.Generator().manual_seed(0))
        >>> made.data.shape, made.data.train.images.shape
        ((3, 8, 8), torch.Size([6, 3, 8, 8]))
    """
    classes = len(data.classes)
    hues = torch.arange(classes)[:, None] / classes + torch.arange(3) / 3
    colours = torch.full((classes, 3), 0.5) if grey else 0.5 + 0.5 * (2 * pi * hues).cos()

    def tint(part: LabelledImages, share: float) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(classes, part.labels.shape, generator=generator).to(part.labels)
        right = (torch.rand(part.labels.shape, generator=generator) < share).to(part.labels.device)
        shown = torch.where(right, part.labels, drawn)
        return part.images.mean(dim=1, keepdim=True) * colours.to(part.images)[shown][:, :, None, None], shown

    train, _ = tint(data.train, share)
    statistics = channel_statistics(train)

    def scaled(part: LabelledImages, share: float) -> tuple[LabelledImages, Tensor]:
        images, shown = tint(part, share)
        return LabelledImages(normalise(images, *statistics), part.labels), shown

    validation, _ = scaled(data.validation, 0.0)
    test, shown = scaled(data.test, 0.0)
    made = replace(
        data,
        train=LabelledImages(normalise(train, *statistics), data.train.labels),
        validation=validation,
        test=test,
        shape=(3, *data.shape[1:]),
    )
    return Tinted(made, shown, scaled(data.validation, share)[0], scaled(data.test, share)[0])
