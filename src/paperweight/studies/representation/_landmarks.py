"""Drawn landmarks by day and by night: a sky and five coloured parts, which floodlights turn over; and retrieval."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Landmarks", "drawn_landmarks", "mean_average_precision"]

_PARTS = 5


class Landmarks(NamedTuple):
    """Views of landmarks, (landmarks, views, 3, side, side) with entries in [0, 1], by day and by night; no pairs."""

    day: Tensor
    night: Tensor


def drawn_landmarks(landmarks: int, views: int, side: int, generator: torch.Generator) -> Landmarks:
    """Draw landmarks: ellipses and rectangles of a shape, place and colour of their own, one before the other.

    By day they stand darker before a bright sky. By night the sky is dark, some parts are floodlit, the same in all
    views of a landmark, others hardly seen; lamps shine anywhere, and there is more noise. Views differ in place, size
    and brightness.

    Args:
        landmarks: How many.
        views: Views of each by day, and as many others by night.
        side: Height and width in pixels.
        generator: Decides what is drawn.
    """

    def uniform(*size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    places = uniform(landmarks, _PARTS, 2, low=-0.6, high=0.6)
    sizes = uniform(landmarks, _PARTS, 2, low=0.15, high=0.5)
    round_ = uniform(landmarks, _PARTS) < 0.5
    colours = uniform(landmarks, _PARTS, 3, low=0.0, high=0.7)
    floodlights = 0.4 + uniform(landmarks, _PARTS, 1)
    warm = torch.tensor([1.0, 0.8, 0.5])
    skies = torch.tensor([[0.65, 0.8, 0.95], [0.10, 0.10, 0.20]])
    line = torch.linspace(-1, 1, side)
    v, u = torch.meshgrid(line, line, indexing="ij")
    drawn: list[Tensor] = []
    for sky, paint, noise in zip(skies, (colours, (colours + 0.1) * floodlights * warm), (0.03, 0.05), strict=True):
        moved = uniform(landmarks, views, 2, low=-0.15, high=0.15)[..., None, None]
        size = uniform(landmarks, views, low=-0.15, high=0.15).exp()[..., None, None]
        x, y = (u - moved[:, :, 0]) * size, (v - moved[:, :, 1]) * size
        images = sky[:, None, None].expand(landmarks, views, 3, side, side)
        for part in range(_PARTS):
            own = (slice(None), part, None, None, None)
            a, b = ((z - places[..., i][own]) / sizes[..., i][own] for i, z in enumerate((x, y)))
            reach = torch.where(round_[own], (a.square() + b.square()).sqrt(), torch.maximum(a.abs(), b.abs()))
            cover = (8 * (1 - reach)).sigmoid()[:, :, None]
            images = images + cover * (paint[:, None, part, :, None, None] - images)
        images = images * (1 + 0.2 * uniform(landmarks, views, 1, 1, 1, low=-1))
        if len(drawn):
            images = images + _lamps(uniform(landmarks, views, 3, 3, low=-1), u, v) * warm[:, None, None]
        drawn.append((images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1))
    return Landmarks(*drawn)


def _lamps(draws: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Give the light of lamps, (..., lamps, 3) draws from -1 to 1 of their places and strengths: (..., 1, H, W)."""
    x, y, strength = draws[..., None, None].unbind(dim=-3)
    far = (u - x).square() + (v - y).square()
    return (strength.relu() * (-far / 0.03).exp()).sum(dim=-3, keepdim=True)


def mean_average_precision(queries: Tensor, gallery: Tensor, same: Tensor) -> float:
    """Compute how well a gallery is ranked for each query by the cosine of embeddings.

    Args:
        queries: Embeddings, (Q, d).
        gallery: Embeddings, (G, d).
        same: Whether both show one landmark, bool, (Q, G), some for each query.

    Returns:
        The mean over queries of the average precision, from 0 to 1.
    """
    order = (F.normalize(queries) @ F.normalize(gallery).T).argsort(dim=1, descending=True)
    found = same.gather(1, order).double()
    precision = found.cumsum(dim=1) / torch.arange(1, found.shape[1] + 1, device=found.device)
    return ((precision * found).sum(dim=1) / found.sum(dim=1)).mean().item()
