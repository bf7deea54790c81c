"""Drawn characters of any number of classes, few-shot episodes and pairs of them, and images that are hard to see."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from paperweight.data import LabelledImages, gaussian_blur

__all__ = ["Episode", "Pairs", "disturbed", "drawn_characters", "episodes", "pairs", "side_by_side"]

_POINTS = 5


class Episode(NamedTuple):
    """Rows of the support images, (ways * shots,), and of the queries, (ways * queries,), and their classes there."""

    support: Tensor
    labels: Tensor
    query: Tensor
    expected: Tensor


class Pairs(NamedTuple):
    """Rows of two images each, (B,), and whether they are of one class, bool, (B,)."""

    first: Tensor
    second: Tensor
    same: Tensor


def drawn_characters(
    classes: int, each: int, side: int, generator: torch.Generator, spread: float = 1.0
) -> LabelledImages:
    """Draw characters: a stroke through a few points, the same for all images of a class but for a tremor.

    Images of one class differ in place, slant, size, thickness and tremor. Their mean is 0 and their standard
    deviation 1.

    Args:
        classes: How many, each with points of its own.
        each: Images of each class.
        side: Height and width in pixels.
        generator: Decides what is drawn; on the CPU.
        spread: How much images of one class differ in tremor, slant and place, at least 0.

    Returns:
        Images, (classes * each, 1, side, side), and their classes, in order.
    """
    own = 1.3 * torch.rand(classes, 1, _POINTS, 2, generator=generator) - 0.65
    points = own + 0.06 * spread * torch.randn(classes, each, _POINTS, 2, generator=generator)
    turned = torch.eye(2) + 0.15 * spread * torch.randn(classes, each, 2, 2, generator=generator)
    place = 0.12 * spread * torch.randn(classes, each, 1, 2, generator=generator)
    points = (points @ turned + place).flatten(0, 1)
    thickness = 0.09 + 0.06 * torch.rand(classes * each, 1, 1, generator=generator)
    line = torch.linspace(-1, 1, side)
    pixels = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)
    start, along = points[:, :-1, None, None], (points[:, 1:] - points[:, :-1])[:, :, None, None]
    at = (((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)).clamp(0, 1)
    distance = (pixels - start - at[..., None] * along).norm(dim=-1).amin(dim=1)
    images = ((thickness - distance) * side / 2 + 0.5).clamp(0, 1)[:, None]
    return LabelledImages((images - images.mean()) / images.std(), torch.arange(classes).repeat_interleave(each))


def episodes(
    labels: Tensor, count: int, ways: int, shots: int, queries: int, generator: torch.Generator
) -> list[Episode]:
    """Draw episodes: some classes, and of each some images for support and others for queries.

    Args:
        labels: Class numbers of all images, (N,); every class has at least ``shots + queries``.
        count: Episodes.
        ways: Classes in each; all there are, where there are fewer.
        shots: Support images of each class.
        queries: Queries of each class.
        generator: Decides the draw; on the CPU.
    """
    rows = [(labels == name).nonzero().flatten() for name in labels.unique()]
    ways = min(ways, len(rows))
    at = torch.arange(ways, device=labels.device)

    def drawn() -> Episode:
        chosen = torch.randperm(len(rows), generator=generator)[:ways].tolist()
        orders = [torch.randperm(len(rows[c]), generator=generator).to(labels.device) for c in chosen]
        images = torch.stack([rows[c][order[: shots + queries]] for c, order in zip(chosen, orders, strict=True)])
        return Episode(
            images[:, :shots].flatten(),
            at.repeat_interleave(shots),
            images[:, shots:].flatten(),
            at.repeat_interleave(queries),
        )

    return [drawn() for _ in range(count)]


def pairs(labels: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Pairs]:
    """Draw batches of pairs without end: half of two images of one class, half of two classes.

    Args:
        labels: Class numbers of all images, (N,); at least two classes of at least two images each.
        batch_size: Pairs a batch.
        generator: Decides the draw; on the CPU.
    """
    known = labels.cpu()
    alike = torch.arange(batch_size) % 2 == 0
    while True:
        first = torch.randint(len(known), (batch_size,), generator=generator)
        allowed = (known[first][:, None] == known) == alike[:, None]
        allowed[torch.arange(batch_size), first] = False
        second = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1).argmax(dim=1)
        yield Pairs(*(rows.to(labels.device) for rows in (first, second, alike)))


def side_by_side(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Put what represents two characters side by side, in an order that is drawn.

    Args:
        first: Features, (..., C).
        second: Features of the characters beside them, (..., C).
        generator: Decides which is on the left; on the CPU.

    Returns:
        Maps of one row and two columns, (..., C, 1, 2).
    """
    left = (torch.rand(first.shape[:-1], generator=generator) < 0.5).to(first.device)[..., None]
    return torch.stack([torch.where(left, first, second), torch.where(left, second, first)], dim=-1)[..., None, :]


def disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Make images hard to see: each by noise, by weak contrast and another brightness, or by blur.

    Args:
        images: Images of mean about 0 and standard deviation about 1, (N, C, H, W).
        generator: Decides what happens to which, and how strongly; on the CPU.
    """
    kind, strength, brightness = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    noisy = images + (0.5 + strength) * noise
    faint = (0.1 + 0.4 * strength) * images + 2 * brightness - 1
    blurred = torch.lerp(gaussian_blur(images, 1.0), gaussian_blur(images, 2.0), strength)
    return torch.where(kind < 1 / 3, noisy, torch.where(kind < 2 / 3, faint, blurred))
