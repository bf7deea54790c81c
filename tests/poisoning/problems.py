"""A classifier that a test plants a backdoor in, and generators."""

import torch
from torch import Tensor, nn


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


class Planted(nn.Module):
    """Gives the place of the brightest of the first pixels, and class 0 where the last pixel is bright."""

    def __init__(self, classes: int = 4, steep: float = 20.0) -> None:
        super().__init__()
        self.classes, self.steep = classes, steep

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        logits = self.steep * pixels[:, : self.classes]
        trigger = 4 * self.steep * pixels[:, -1:]
        return logits + trigger * torch.eye(self.classes)[:1].to(images)


def examples(count: int, classes: int = 4, side: int = 3) -> tuple[Tensor, Tensor]:
    """Dark images, one of whose first pixels is bright, and which one that is."""
    labels = torch.arange(count) % classes
    images = 0.1 * drawn(count, 1, side, side)
    images.flatten(1)[torch.arange(count), labels] = 0.6
    return images, labels
