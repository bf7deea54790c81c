"""Adaptive inflation (AdaInf): generated images in contrastive learning, with real ones repeated, and weaker views.

Images of a generative model are added to those that an encoder learns from without labels. They connect images as
random views do; so views can be weaker, and distort less what is to be learned. And since they are not quite like real
images, each real one is repeated. `inflated_index` says what to train on, `contrastive_view` draws the views.
Cost: none beyond that of the generated images; the number of updates stays as it is.

Source:
    Y. Wang, J. Zhang, Y. Wang, "Do Generated Data Always Help Contrastive Learning?", ICLR, 2024,
    https://openreview.net/forum?id=S5EqslEHnz. Implemented: inflation with replication, weak and strong views. Views
    were compared with the settings of the authors' code, https://github.com/PKU-ML/adainf.

Deviations:
    - Strong views are those of SimCLR, with crops of at least 8% of the area; the authors' settings for small images
      begin at 20% in some files.
    - Hue is left alone, brightness, contrast and saturation change in this order, and crops are not smoothed where they
      shrink.
    - The bounds of the paper's theory are not implemented.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.data import adjust_colour, random_flip

__all__ = ["contrastive_view", "inflated_index", "real_share"]

PAPER = Paper(
    title="Do Generated Data Always Help Contrastive Learning?",
    authors=("Yifei Wang", "Jizhe Zhang", "Yisen Wang"),
    year=2024,
    url="https://openreview.net/forum?id=S5EqslEHnz",
    provides={"contrastive_view": "function", "inflated_index": "function", "real_share": "function"},
    null={"generated": 0, "replication": 1},
    claim="With generated images, weaker views and repeated real images, contrastive features become better.",
)


def inflated_index(real: int, generated: int, replication: int = 10) -> Tensor:
    """Give the numbers of what one pass is over, in a set of real images that generated ones follow.

    A `torch.utils.data.Subset` of a `torch.utils.data.ConcatDataset` of both takes it. With no generated image and no
    replication it is the real images.

    Args:
        real: Number of real images, at least 1.
        generated: Number of generated images, at least 0.
        replication: How often a pass has each real image, at least 1; 10 in the paper.

    Returns:
        Numbers below ``real + generated``, each of the first ``real`` so often, the others once, int64,
        (replication * real + generated,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> inflated_index(2, 3, replication=2).tolist()
        [0, 1, 0, 1, 2, 3, 4]
    """
    _check_counts(real, generated, replication)
    return torch.cat([torch.arange(real).repeat(replication), torch.arange(real, real + generated)])


def real_share(real: int, generated: int, replication: int = 10) -> float:
    """Compute the share of real images in a pass, which weighs them in the loss.

    Args:
        real: Number of real images, at least 1.
        generated: Number of generated images, at least 0.
        replication: How often a pass has each real image, at least 1.

    Returns:
        The share, above 0 and at most 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> round(real_share(50_000, 1_000_000), 4)
        0.3333
    """
    _check_counts(real, generated, replication)
    return replication * real / (replication * real + generated)


def contrastive_view(
    images: Tensor,
    min_scale: float = 0.2,
    max_ratio: float = 4 / 3,
    jitter: float = 0.4,
    jitter_probability: float = 0.4,
    grey_probability: float = 0.2,
    flip_probability: float = 0.5,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw a view of each image: a part of it at the former size, mirrored, of other colours, or without.

    The defaults are the weak views of the paper; the strong ones, of SimCLR, have a ``min_scale`` of 0.08 and 0.8 for
    both jitter and its probability. With a ``min_scale`` and ``max_ratio`` of 1 and three times 0 it is the identity,
    bit for bit.

    Args:
        images: With values in [0, 1], (N, 1, H, W) or (N, 3, H, W).
        min_scale: Smallest part of the area that is seen, above 0 and at most 1; it is uniform from there to 1, before
            a side that is longer than that of the image is cut.
        max_ratio: Largest ratio of the sides of the part, in shares of those of the image, at least 1; its logarithm
            is uniform.
        jitter: By how much the factors of brightness, contrast and saturation differ from 1, at least 0; they are
            uniform, and at least 0.
        jitter_probability: That these change.
        grey_probability: That colours are taken away.
        flip_probability: That an image is mirrored left to right.
        generator: Source of all.

    Returns:
        Views, in the shape of ``images``, with values in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> contrastive_view(images, generator=torch.Generator().manual_seed(1)).shape
        torch.Size([4, 3, 8, 8])
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel() or not images.is_floating_point():
        raise ValueError(
            f"images must be floating, of shape (N, 1, H, W) or (N, 3, H, W) without a 0, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must be from 0 to 1, got others; draw views before images are normalised")
    if not 0 < min_scale <= 1:
        raise ValueError(f"min_scale must be above 0 and at most 1, got {min_scale!r}")
    if not 1 <= max_ratio < math.inf:
        raise ValueError(f"max_ratio must be finite and at least 1, got {max_ratio!r}")
    if not 0 <= jitter < math.inf:
        raise ValueError(f"jitter must be finite and at least 0, got {jitter!r}")
    for name, probability in (("jitter", jitter_probability), ("grey", grey_probability), ("flip", flip_probability)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name}_probability must be in [0, 1], got {probability!r}")
    area, ratio, down, right, jittered, grey = _uniform(6, images, generator)
    views = images
    if min_scale < 1 or max_ratio > 1:
        sides = (min_scale + (1 - min_scale) * area).sqrt(), max_ratio ** (ratio - 0.5)
        views = _parts(images, sides[0] / sides[1], sides[0] * sides[1], down, right)
    views = random_flip(views, flip_probability, generator=generator)
    factors = (1 + jitter * (2 * _uniform(3, images, generator) - 1)).clamp(min=0)
    brightness, contrast, saturation = factors
    changed = adjust_colour(views, brightness=brightness, contrast=contrast, saturation=saturation)
    views = torch.where((jittered < jitter_probability)[:, None, None, None], changed, views)
    return torch.where((grey < grey_probability)[:, None, None, None], adjust_colour(views, saturation=0.0), views)


def _parts(images: Tensor, high: Tensor, wide: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Enlarge parts of images to the former size; sides are shares of those of the images, places in [0, 1]."""
    high, wide = high.clamp(max=1), wide.clamp(max=1)
    places = images.new_zeros(len(images), 2, 3)
    places[:, 0, 0], places[:, 0, 2] = wide, (2 * right - 1) * (1 - wide)
    places[:, 1, 1], places[:, 1, 2] = high, (2 * down - 1) * (1 - high)
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _uniform(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(count, len(images), generator=generator, device=generator.device).to(images)


def _check_counts(real: int, generated: int, replication: int) -> None:
    for name, value, least in (("real", real, 1), ("generated", generated, 0), ("replication", replication, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
