"""Images as clouds of points, a small network of such clouds, and what a sensor may do to them."""

from typing import final

import torch
from torch import Tensor, nn

__all__ = ["CORRUPTIONS", "PointNet", "corrupted", "points_of_images"]

CORRUPTIONS = ("lost points", "noise", "clutter", "sparse")
"""Half of the points lost; each moved at random; a fifth of them anywhere; three in four lost."""

_LOST = {"lost points": 0.5, "sparse": 0.75}


def points_of_images(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw points of images (N, C, H, W), the brighter a pixel, the more, anywhere in it: (N, count, 2) in [-1, 1]."""
    height, width = images.shape[2:]
    bright = images.mean(dim=1).flatten(1).clamp(min=0).cpu() + 1e-6
    pixels = torch.multinomial(bright, count, replacement=True, generator=generator)
    inside = torch.rand(len(images), count, 2, generator=generator)
    places = torch.stack([pixels % width, pixels // width], dim=2) + inside
    return (2 * places / torch.tensor([width, height]) - 1).to(images)


def corrupted(points: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Spoil clouds (N, points, 2) in one of the ways; a lost point becomes a copy of one that is left."""
    drawn = torch.rand(points.shape[:2], generator=generator).to(points)
    if kind in _LOST:
        kept = drawn.argsort(dim=1)[:, : max(1, round((1 - _LOST[kind]) * points.shape[1]))]
        place = torch.arange(points.shape[1], device=points.device) % kept.shape[1]
        return points.gather(1, kept[:, place, None].expand_as(points))
    if kind == "noise":
        return points + 0.15 * torch.randn(points.shape, generator=generator).to(points)
    anywhere = 2 * torch.rand(points.shape, generator=generator).to(points) - 1
    return torch.where((drawn < 0.2)[..., None], anywhere, points)


@final
class PointNet(nn.Module):
    """Features of each point by itself, the largest of all points, and a perceptron on them."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, width), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, points: Tensor) -> Tensor:
        """Give logits, (N, classes), of clouds, (N, points, 2)."""
        return self.all(self.each(points).amax(dim=1))
