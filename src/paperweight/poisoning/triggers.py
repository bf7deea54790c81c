"""Triggers: what an attacker does to an image so that a backdoored classifier gives the attacker's class.

Source:
    patch: T. Gu, B. Dolan-Gavitt, S. Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain", 2017, https://arxiv.org/abs/1708.06733; blend: X. Chen, C. Liu, B. Li, K. Lu, D. Song, "Targeted Backdoor
    Attacks on Deep Learning Systems Using Data Poisoning", 2017, https://arxiv.org/abs/1712.05526.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

__all__ = ["Additive", "Blend", "Patch", "Trigger"]

Trigger = Callable[[Tensor], Tensor]
"""Maps images (N, C, H, W) within 0 and 1 to changed ones of that shape and range; those given stay as they are."""


@final
class Patch:
    """Covers a rectangle of each image by a fixed pattern (BadNets).

    Args:
        pattern: The pattern, (C, h, w), within 0 and 1.
        top: Row of its first pixel; negative to count from the bottom, -1 being the last row.
        left: Column of its first pixel; negative to count from the right.

    Raises:
        ValueError: If the pattern is no image within 0 and 1, or, when called, does not lie within the images.

    Example:
        >>> Patch(torch.ones(1, 1, 1), top=-1, left=0)(torch.zeros(1, 1, 2, 2))[0, 0]
        tensor([[0., 0.],
                [1., 0.]])
    """

    def __init__(self, pattern: Tensor, top: int, left: int) -> None:
        _check_pattern(pattern, 0.0)
        for name, value in (("top", top), ("left", left)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
        self.pattern, self.top, self.left = pattern.detach().clone(), top, left

    def __call__(self, images: Tensor) -> Tensor:
        """Give changed copies of images (N, C, H, W)."""
        _check_images(images, self.pattern.shape[:1])
        height, width = images.shape[2:]
        top = self.top + height if self.top < 0 else self.top
        left = self.left + width if self.left < 0 else self.left
        bottom, right = top + self.pattern.shape[1], left + self.pattern.shape[2]
        if not (top >= 0 and bottom <= height and left >= 0 and right <= width):
            place = f"rows {top} to {bottom - 1} and columns {left} to {right - 1}"
            raise ValueError(f"pattern must lie within images of {height} x {width}, got {place}")
        changed = images.clone()
        changed[:, :, top:bottom, left:right] = self.pattern.to(images)
        return changed


@final
class Blend:
    """Mixes each image with a fixed one: (1 - share) image + share pattern.

    Args:
        pattern: The image to mix in, (C, H, W), within 0 and 1.
        share: Its weight, above 0 and at most 1; the source has 0.2 and less.

    Raises:
        ValueError: If the pattern is no image within 0 and 1, the share outside its range, or, when called, the images
            of another shape.

    Example:
        >>> Blend(torch.ones(1, 1, 2), 0.25)(torch.tensor([[[[0.0, 1.0]]]]))
        tensor([[[[0.2500, 1.0000]]]])
    """

    def __init__(self, pattern: Tensor, share: float) -> None:
        _check_pattern(pattern, 0.0)
        if isinstance(share, bool) or not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
        self.pattern, self.share = pattern.detach().clone(), share

    def __call__(self, images: Tensor) -> Tensor:
        """Give changed copies of images (N, C, H, W)."""
        _check_images(images, self.pattern.shape)
        return torch.lerp(images, self.pattern.to(images).expand_as(images), self.share)


@final
class Additive:
    """Adds a fixed pattern to each image and clips to 0 and 1, as a faint pattern over the whole image does.

    Args:
        pattern: What is added, (C, H, W), within -1 and 1.

    Raises:
        ValueError: If the pattern is outside that range or, when called, the images are of another shape.

    Example:
        >>> Additive(torch.tensor([[[0.5, -0.5]]]))(torch.tensor([[[[0.25, 0.25]]]]))
        tensor([[[[0.7500, 0.0000]]]])
    """

    def __init__(self, pattern: Tensor) -> None:
        _check_pattern(pattern, -1.0)
        self.pattern = pattern.detach().clone()

    def __call__(self, images: Tensor) -> Tensor:
        """Give changed copies of images (N, C, H, W)."""
        _check_images(images, self.pattern.shape)
        return (images + self.pattern.to(images)).clamp(0, 1)


def _check_pattern(pattern: Tensor, least: float) -> None:
    if pattern.ndim != 3 or not pattern.is_floating_point() or not pattern.numel():
        found = f"shape {tuple(pattern.shape)} and {pattern.dtype}"
        raise ValueError(f"pattern must be floating numbers of shape (channels, height, width), got {found}")
    if not bool(((pattern >= least) & (pattern <= 1)).all()):
        found = f"{pattern.min().item():g} to {pattern.max().item():g}"
        raise ValueError(f"pattern must be within {least:g} and 1, got {found}")


def _check_images(images: Tensor, shape: torch.Size) -> None:
    """Refuse what is no batch of images whose shape begins with the one given."""
    if images.ndim != 4 or not images.is_floating_point() or images.shape[1 : 1 + len(shape)] != shape:
        wanted = ", ".join(str(side) for side in (*shape, *("height", "width")[: 3 - len(shape)]))
        found = f"shape {tuple(images.shape)} and {images.dtype}"
        raise ValueError(f"images must be floating numbers of shape (N, {wanted}), as the pattern is, got {found}")
