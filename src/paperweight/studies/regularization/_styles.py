"""Images in four styles, of which one is kept for the test, and a control that drops channels at random."""

from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.regularization.domaindrop import drop_mask

__all__ = ["STYLES", "RandomDrop", "Stages", "Styled", "in_style", "styled"]

STYLES = ("plain", "inverted", "noisy", "edges")


def in_style(images: Tensor, style: str, generator: torch.Generator) -> Tensor:
    """Change images of grey levels from 0 to 1, (N, 1, H, W), to a style of `STYLES`.

    Example:
        >>> in_style(torch.full((1, 1, 2, 2), 0.25), "inverted", torch.Generator()).unique()
        tensor([0.7500])
    """
    if style == "inverted":
        return 1 - images
    if style == "noisy":
        noise = torch.rand(images.shape, generator=generator).to(images)
        return torch.maximum(images, 0.8 * noise)
    if style == "edges":
        down = images - F.pad(images, (0, 0, 1, 0))[..., :-1, :]
        right = images - F.pad(images, (1, 0, 0, 0))[..., :-1]
        return (down.square() + right.square()).sqrt().clamp(max=1)
    return images


class Styled(NamedTuple):
    """Parts of which the test is in the style kept for it, and the styles of the training images, 0 to 2, (N,)."""

    data: Splits
    domains: Tensor


def styled(data: Splits, kept: str, generator: torch.Generator) -> Styled:
    """Give training and validation images one of the other three styles each, in turn, and test images the kept one."""
    others = [style for style in STYLES if style != kept]

    def mixed(part: LabelledImages) -> tuple[LabelledImages, Tensor]:
        domains = torch.arange(len(part), device=part.images.device) % len(others)
        images = torch.stack([in_style(part.images, style, generator) for style in others])
        return LabelledImages(images[domains, torch.arange(len(part))], part.labels), domains

    (train, domains), (validation, _) = mixed(data.train), mixed(data.validation)
    test = LabelledImages(in_style(data.test.images, kept, generator), data.test.labels)
    return Styled(Splits(train, validation, test, data.classes, data.shape), domains)


@final
class Stages(nn.Module):
    """Three normalised convolutions of 8, 12 and 16 channels, ``first``, ``second``, ``third``, and a linear head."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2))
        self.third = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16 * (shape[1] // 4) * (shape[2] // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of images, (N, C, H, W)."""
        return self.head(self.third(self.second(self.first(x))).flatten(1))


@final
class RandomDrop(nn.Module):
    """A network of which one of several places, as often as in DomainDrop, drops channels that are drawn evenly."""

    def __init__(self, model: nn.Module, places: list[str], drop: float = 0.33, probability: float = 0.8) -> None:
        super().__init__()
        self.model = model
        self.places = places
        self.drop = drop
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits, in train mode with channels dropped."""
        if not self.training or torch.rand(()) >= self.probability:
            return self.model(x)
        place = self.places[int(torch.randint(len(self.places), ()))]

        def dropped(_part: nn.Module, _inputs: Any, features: Tensor) -> Tensor:
            return features * drop_mask(torch.ones(features.shape[:2]).to(features), self.drop)[:, :, None, None]

        hook = self.model.get_submodule(place).register_forward_hook(dropped)
        try:
            return self.model(x)
        finally:
            hook.remove()
