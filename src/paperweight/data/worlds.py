"""Small worlds of captioned images: coloured shapes and handwritten digits, with synonyms and styles.

Each concept has several names; a caption may leave a family of concepts open, whose value is drawn all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.data.captions import DIGIT_WORDS, SHAPE_WORDS, Vocabulary, draw_captions
from paperweight.data.images import load_images
from paperweight.data.labelled import LabelledImages
from paperweight.data.synthetic import COLOURS

__all__ = ["CaptionedImages", "captioned_digits", "captioned_shapes"]


@final
@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Images with a caption and the concepts that they show.

    Attributes:
        images: Images in [0, 1], float32, (N, C, H, W).
        captions: One caption an image.
        labels: By family the number of the concept that each image shows, int64, (N,), whether its caption says so or
            not.
        vocabulary: The words of the captions.
    """

    images: Tensor
    captions: tuple[str, ...]
    labels: dict[str, Tensor]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.captions)


def captioned_shapes(count: int, size: int = 12, *, generator: torch.Generator) -> CaptionedImages:
    """Draw antialiased shapes in a colour and a style on black, at random places and sizes, wholly inside the image.

    Args:
        count: Number of images, at least 1.
        size: Height and width in pixels, at least 12.
        generator: Draws concepts, places, sizes and captions, each independently uniform but for what a caption names.

    Returns:
        Images (count, 3, size, size), captions of `SHAPE_WORDS`, labels ``shape``, ``colour`` and ``style``.

    Raises:
        ValueError: If ``count`` is below 1 or ``size`` below 12.

    Example:
        >>> world = captioned_shapes(4, generator=torch.Generator().manual_seed(0))
        >>> world.images.shape, len(world.captions), sorted(world.labels)
        (torch.Size([4, 3, 12, 12]), 4, ['colour', 'shape', 'style'])
    """
    _check_count(count)
    if not isinstance(size, int) or size < 12:
        raise ValueError(f"size must be a whole number of at least 12, got {size!r}")
    labels = _labels(SHAPE_WORDS, count, generator)
    radius = size * (0.4 + 0.06 * torch.rand(count, 1, 1, generator=generator))
    x, y = radius + (size - 2 * radius) * torch.rand(2, count, 1, 1, generator=generator)
    samples = 4
    grid = (torch.arange(size * samples) + 0.5) / samples
    u, v = torch.broadcast_tensors((grid[None, None, :] - x) / radius, (grid[None, :, None] - y) / radius)
    depth = _depths(u, v)[labels["shape"], torch.arange(count)]
    inside = depth >= 0
    styles = torch.stack([inside, inside & (depth <= 0.24), inside & ((v * radius + 1).remainder(4) < 2)])
    cover = F.avg_pool2d(styles[labels["style"], torch.arange(count)][:, None].float(), samples)
    palette = torch.tensor([COLOURS[name] for name in SHAPE_WORDS.concepts["colour"]])
    images = cover * palette[labels["colour"]][:, :, None, None]
    return CaptionedImages(images, draw_captions(SHAPE_WORDS, labels, generator), labels, SHAPE_WORDS)


def _depths(u: Tensor, v: Tensor) -> Tensor:
    """Give how deep a point lies in each shape of half extent 1, below 0 outside, (5, N, H, W)."""
    high, low = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    slope = 5**-0.5
    return torch.stack(
        [
            1 - u.hypot(v),
            torch.minimum(1 - u.abs(), 0.5 - v.abs()),
            torch.minimum(0.9 - v, (1 + v - 2 * u.abs()) * slope),
            torch.minimum(1 - high, 0.36 - low),
            (1 - u.abs() - v.abs()) * 2**-0.5,
        ]
    )


def captioned_digits(
    count: int, digits: LabelledImages | None = None, *, generator: torch.Generator
) -> CaptionedImages:
    """Draw handwritten digits, each in a style.

    Half the images are ``plain``, the others have each style equally often: ``bold`` spreads a stroke to the right by a
    pixel, ``thin`` keeps the brightest of it at 0.6 of the brightness, ``outlined`` is the border around it,
    ``negative`` swaps black and white.

    Args:
        count: Number of images, at least 1.
        digits: Images in [0, 1], (N, 1, H, W), and their digits; by default all 1,797 of the embedded ones, 8 x 8.
        generator: Draws digits, with replacement, styles and captions.

    Returns:
        Images (count, 1, H, W), captions of `DIGIT_WORDS`, labels ``digit`` and ``style``.

    Raises:
        ValueError: If ``count`` is below 1, or the digits are none, not in grey, or labelled with other than 0 to 9.

    Example:
        >>> world = captioned_digits(4, generator=torch.Generator().manual_seed(0))
        >>> world.images.shape, sorted(world.labels)
        (torch.Size([4, 1, 8, 8]), ['digit', 'style'])
    """
    _check_count(count)
    if digits is None:
        embedded = load_images("digits").train
        digits = LabelledImages(torch.tensor(embedded.images) / 255, torch.tensor(embedded.labels))
    if not len(digits) or digits.images.shape[1] != 1 or not ((digits.labels >= 0) & (digits.labels <= 9)).all():
        raise ValueError(
            "digits must be grey images (N, 1, H, W), at least one, labelled 0 to 9; got images "
            f"{tuple(digits.images.shape)} and labels {digits.labels.unique().tolist()}"
        )
    chosen = torch.randint(len(digits), (count,), generator=generator)
    labels = {**_labels(DIGIT_WORDS, count, generator), "digit": digits.labels[chosen.to(digits.labels.device)].cpu()}
    labels["style"] = labels["style"].where(torch.rand(count, generator=generator) < 0.5, 0)
    plain = digits.images[chosen.to(digits.images.device)].float().cpu()
    images = torch.stack([style(plain) for style in _DIGIT_STYLES.values()])[labels["style"], torch.arange(count)]
    return CaptionedImages(images, draw_captions(DIGIT_WORDS, labels, generator), labels, DIGIT_WORDS)


def _bold(x: Tensor) -> Tensor:
    return torch.maximum(x, F.pad(x, (1, 0))[..., :-1])


def _thin(x: Tensor) -> Tensor:
    return (2 * x - 1).clamp(0, 1) * 0.6


def _outlined(x: Tensor) -> Tensor:
    return (F.max_pool2d(x, 3, stride=1, padding=1) - x).clamp(0, 1)


_DIGIT_STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "bold": _bold,
    "thin": _thin,
    "outlined": _outlined,
    "negative": lambda x: 1 - x,
}


def _check_count(count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a whole number of at least 1, got {count!r}")


def _labels(vocabulary: Vocabulary, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        family: torch.randint(len(groups), (count,), generator=generator)
        for family, groups in vocabulary.concepts.items()
    }
