"""EfficientTrain: training begins with the low frequencies of images, as smaller images, and ends with whole ones.

A network learns low frequencies first, whatever it is shown. Cut out of an image's spectrum they are an image of fewer
pixels, in which they all are and nothing else, and which costs less to train on. In evaluation images are whole.
Cost: two products with small matrices a batch, and in convolutions the share of the pixels that is left: with the
paper's sizes 0.51 of the pixels in three fifths of the steps, 0.73 in another fifth, 0.65 on average.

Source:
    Y. Wang, Y. Yue, R. Lu, T. Liu, Z. Zhong, S. Song, G. Huang, "EfficientTrain: Exploring Generalized Curriculum
    Learning for Training Visual Backbones", ICCV 2023, https://arxiv.org/abs/2211.09703. Implemented: low-frequency
    cropping, and the schedule of sizes that the greedy search of the paper found, as the authors' code has them,
    https://github.com/LeapLabTHU/EfficientTrain. Left out: the search, and the strength of RandAugment, which grows by
    stages beside the size.

Deviations:
    - The crop is computed as two matrix products, each a part of the discrete Fourier transform. The authors' code
      transforms the image, takes the middle of the spectrum and transforms back; the values are the same.
    - A side of odd length keeps as many frequencies on either side of 0. Theirs is rounded down to an even one.
    - Sides are shares of the image's, rounded: 5/7, 6/7 and 1, which are the paper's 160, 192 and 224 of 224 pixels.
    - The size changes between steps. In their code it changes between epochs, and so does the number of images that go
      through the network at once, not that of an update.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["EfficientTrain", "curriculum_share", "low_frequency_crop"]

PAPER = Paper(
    title="EfficientTrain: Exploring Generalized Curriculum Learning for Training Visual Backbones",
    authors=("Yulin Wang", "Yang Yue", "Rui Lu", "Tianjiao Liu", "Zhao Zhong", "Shiji Song", "Gao Huang"),
    year=2022,
    url="https://arxiv.org/abs/2211.09703",
    provides={"EfficientTrain": "network", "low_frequency_crop": "function", "curriculum_share": "function"},
    null={"shares": (1.0,), "milestones": ()},
    claim="Training that begins with low frequencies as smaller images takes less time and is as accurate.",
)

_SHARES = (5 / 7, 6 / 7, 1.0)
_MILESTONES = (0.6, 0.8)


def low_frequency_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the lowest frequencies out of the spectrum of images, as images of fewer pixels with the same mean.

    Along a side of b pixels they are -b/2 to b/2 - 1, or for odd b -(b - 1)/2 to (b - 1)/2, in periods a side; of what
    the inverse transform gives, it is the real part.

    Args:
        images: Floating, (..., H, W).
        size: The new height and width, from 1 to H and to W.

    Returns:
        (..., *size), and for a size of (H, W) the images themselves.

    Raises:
        ValueError: If the images are not floating or have fewer than two dimensions, or a side is outside its range.

    Example:
        >>> wave = torch.cos(2 * math.pi * torch.arange(8) / 8).expand(8, 8)
        >>> low_frequency_crop(wave, (4, 4))[0].round(decimals=4).abs()
        tensor([1., 0., 1., 0.])
    """
    if images.ndim < 2 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating, of shape (..., H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    sides = images.shape[-2:]
    if len(size) != 2 or not all(type(new) is int and 1 <= new <= side for new, side in zip(size, sides, strict=True)):
        raise ValueError(f"size must be two whole numbers from 1 to {tuple(sides)}, got {size!r}")
    if tuple(size) == tuple(sides):
        return images
    rows, columns = (
        _crop_matrix(side, new, images.dtype, images.device) for side, new in zip(sides, size, strict=True)
    )
    product = rows @ images @ columns.mT
    alternating = _alternating(size[0], images)[:, None] * _alternating(size[1], images)
    return product[..., :-1, :-1] - product[..., -1:, -1:] * alternating


def _alternating(length: int, like: Tensor) -> Tensor:
    return 1 - 2 * (torch.arange(length, device=like.device) % 2).to(like.dtype)


@lru_cache(maxsize=64)
def _crop_matrix(side: int, new: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Compute what crops along one side, (new + 1, side).

    The map from x_m to sum over f of exp(2 pi i f (n / new - m / side)) / side has its real part in the first rows. Its
    imaginary part, which comes from the frequency -new/2 without a partner alone, is (-1)^n times the last row.
    """
    with torch.inference_mode(False):  # what is kept must serve where gradients are taken, too
        n, m = (torch.arange(length, dtype=torch.float64) for length in (new, side))
        frequencies = torch.arange(-(new // 2), (new + 1) // 2, dtype=torch.float64)
        phases = 2 * math.pi * frequencies[:, None, None] * (n[:, None] / new - m / side)
        real = phases.cos().sum(dim=0)
        alone = (math.pi * new * m / side).sin() * (new % 2 == 0 and new < side)
        return (torch.cat([real, alone[None]]) / side).to(device, dtype)


def curriculum_share(
    progress: float, shares: Sequence[float] = _SHARES, milestones: Sequence[float] = _MILESTONES
) -> float:
    """Give the share of a side that is trained on: the first one until the first milestone, and so on.

    Args:
        progress: Share of the training that is done, at least 0; 1 at the end.
        shares: One for each stage, above 0 and at most 1; the paper's are 160, 192 and 224 of 224 pixels.
        milestones: Progress at which each stage but the first begins, ascending, from 0 to 1; the paper's are 0.6, 0.8.

    Raises:
        ValueError: If a value is outside its range, or there is not one milestone less than shares.

    Example:
        >>> [round(curriculum_share(progress), 2) for progress in (0.0, 0.59, 0.6, 0.8, 1.0)]
        [0.71, 0.71, 0.86, 1.0, 1.0]
    """
    if not 0 <= progress < math.inf:
        raise ValueError(f"progress must be finite and at least 0, got {progress}")
    _check_curriculum(shares, milestones)
    return shares[bisect_right(milestones, progress)]


def _check_curriculum(shares: Sequence[float], milestones: Sequence[float]) -> None:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares must be above 0 and at most 1, at least one, got {shares!r}")
    if list(milestones) != sorted(milestones) or not all(0 <= milestone <= 1 for milestone in milestones):
        raise ValueError(f"milestones must be ascending, from 0 to 1, got {milestones!r}")
    if len(milestones) != len(shares) - 1:
        raise ValueError(f"milestones must be one less than the {len(shares)} shares, got {milestones!r}")


@final
class EfficientTrain(nn.Module):
    """A network that is trained on the low frequencies of images, of which it is shown more as training goes on.

    In train mode, images are cropped by `low_frequency_crop` to the share of `curriculum_share`, rounded to whole
    pixels, before the network sees them. One pass with gradients in train mode counts as one step, and the number of
    passes stands in the state. In eval mode images are whole. With one share of 1 it is the network, bit for bit.

    The network must take images of any size, as one does that ends in a mean over all pixels
    (`torch.nn.AdaptiveAvgPool2d`). Augment images before.

    Args:
        model: Maps images, (N, C, H, W), to what it may.
        steps: Number of steps that training will have, at least 1.
        shares: Share of each side in each stage, above 0 and at most 1; the paper's by default.
        milestones: Share of the steps at which each stage but the first begins, ascending; 0.6 and 0.8 in the paper.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        passes: Number of passes counted.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> model = EfficientTrain(body, steps=10)
        >>> model(torch.zeros(5, 1, 28, 28)).shape, model.passes, model.size(28, 28)
        (torch.Size([5, 2]), 1, (20, 20))
        >>> network = model.model  # after training
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        shares: Sequence[float] = _SHARES,
        milestones: Sequence[float] = _MILESTONES,
    ) -> None:
        super().__init__()
        if type(steps) is not int or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        _check_curriculum(shares, milestones)
        self.model = model
        self.steps = steps
        self.shares = shares
        self.milestones = milestones
        self.passes = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Give the size to which the next batch of images is cropped in train mode, of the size of the images."""
        share = curriculum_share(self.passes / self.steps, self.shares, self.milestones)
        return max(1, round(share * height)), max(1, round(share * width))

    def forward(self, images: Tensor) -> Tensor:
        """Crop the images, in train mode, and call the network.

        Args:
            images: Floating, (N, C, H, W).

        Returns:
            What the network gives.
        """
        if not self.training:
            return self.model(images)
        if images.ndim != 4:
            raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
        output = self.model(low_frequency_crop(images, self.size(*images.shape[-2:])))
        self.passes += torch.is_grad_enabled()
        return output

    def get_extra_state(self) -> Tensor:
        """Give what stands in the state beside parameters: the number of passes."""
        return torch.tensor(self.passes)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the number of passes."""
        self.passes = int(state)
