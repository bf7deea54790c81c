"""Dual randomized smoothing (DRS): certify an image by smoothing two disjoint halves of its pixels.

Randomized smoothing lets a classifier vote on many noisy copies of an input; a majority that is clear enough cannot be
overturned by a perturbation of small norm 2. DRS gives each of two classifiers every other pixel: a perturbation must
divide its norm between them, and each has the noise of half of the pixels only.
Cost: as many forward passes for one certificate as for plain smoothing; two networks to train and to store.

Source:
    S. Xia, Y. Yu, X. Jiang, H. Ding, "Mitigating the Curse of Dimensionality for Certified Robustness via Dual
    Randomized Smoothing", ICLR 2024, https://arxiv.org/abs/2404.09586. Implemented: the split, the dual classifier, its
    certificate. Plain smoothing: J. Cohen, E. Rosenfeld, Z. Kolter, "Certified Adversarial Robustness via Randomized
    Smoothing", ICML 2019, https://arxiv.org/abs/1902.02918, its algorithm CERTIFY.

Deviations:
    - The radius is derived as follows. Let a_i be the normal quantile of the probability p_i of class A in branch i,
      and t_i the norm of the perturbation of its pixels in units of its noise. The class holds while
      Phi(a_1 - t_1) + Phi(a_2 - t_2) > 1, and so while t_1 + t_2 < a_1 + a_2: up to the sum of the two plain radii by
      the square root of 2. The authors' scripts for ImageNet return just that; their script for CIFAR returns the root
      of the sum of squares, which is larger unless both are equal, and not sound.
    - Each branch has half of the probability of failure, so that both bounds hold together with 1 - alpha, and one in
      which the class has less than half of the votes counts against the other. The authors' code gives the whole
      probability to each, and takes the radius of such a branch as 0.
    - Training is the caller's; the authors fine-tune both classifiers from one trained on whole images.
    - The pixels are split by a checkerboard. In the authors' code each row begins with two of the row before.
    - A missing pixel becomes the largest of the kept ones in its cell of 2 x 2 pixels. The authors' code adds that
      value to the kept pixels, at least 0, and leaves the missing ones at 0.
"""

import math
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.robustness._smoothing import Classifier, RandomizedSmoothing, Smoothing, certified_radius, require

__all__ = ["DualRandomizedSmoothing", "RandomizedSmoothing", "checkerboard", "dual_radius", "sub_image"]

PAPER = Paper(
    title="Mitigating the Curse of Dimensionality for Certified Robustness via Dual Randomized Smoothing",
    authors=("Song Xia", "Yi Yu", "Xudong Jiang", "Henghui Ding"),
    year=2024,
    url="https://arxiv.org/abs/2404.09586",
    provides={
        "DualRandomizedSmoothing": "defense",
        "RandomizedSmoothing": "defense",
        "checkerboard": "function",
        "dual_radius": "function",
        "sub_image": "function",
    },
    null={"sigma": 0.0},
    claim="Smoothing two halves of the pixels certifies more images, and larger radii, than smoothing the whole image.",
)


def dual_radius(p_left: Tensor, p_right: Tensor, sigma_left: float, sigma_right: float) -> Tensor:
    """Compute the radius within which the mean of two smoothed classifiers of disjoint pixels keeps its class.

    R = (a_left + a_right) / sqrt(1 / sigma_left^2 + 1 / sigma_right^2), where a is the normal quantile of p.

    Args:
        p_left: Lower bounds of the class's probability in the left branch, in [0, 1), any shape.
        p_right: Those in the right branch, of the same shape.
        sigma_left: Standard deviation of the left branch's noise, above 0.
        sigma_right: That of the right branch's, above 0.

    Returns:
        Radii in norm 2 of the whole image, float64, of the same shape; 0 where the sum of both is at most 1.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> dual_radius(torch.tensor([0.9, 0.4]), torch.tensor([0.9, 0.5]), sigma_left=0.5, sigma_right=0.5)
        tensor([0.9062, 0.0000], dtype=torch.float64)
    """
    for name, p in (("p_left", p_left), ("p_right", p_right)):
        require(bool(((p >= 0) & (p < 1)).all()), name, "at least 0 and below 1", p.tolist())
    for name, sigma in (("sigma_left", sigma_left), ("sigma_right", sigma_right)):
        require(0 < sigma < math.inf, name, "finite and above 0", sigma)
    return certified_radius((p_left, p_right), (sigma_left, sigma_right))


def checkerboard(height: int, width: int) -> Tensor:
    """Mark every other pixel of an image; the rest is the complementary pattern.

    Args:
        height: Height in pixels, at least 1.
        width: Width in pixels, at least 1.

    Returns:
        Mask, bool, (height, width), true where the sum of row and column is even, as at the first pixel.

    Raises:
        ValueError: If a side is below 1.

    Example:
        >>> checkerboard(2, 3).int()
        tensor([[1, 0, 1],
                [0, 1, 0]], dtype=torch.int32)
    """
    for name, side in (("height", height), ("width", width)):
        require(side >= 1, name, "at least 1", side)
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0


def sub_image(images: Tensor, mask: Tensor) -> Tensor:
    """Keep some pixels of images; the others become the largest kept one in their cell of 2 x 2 pixels, or 0.

    Args:
        images: Images, floating, (N, C, H, W), with the noise in them already.
        mask: Which pixels are kept, in all channels, bool, (H, W).

    Returns:
        Images of the same shape, which depend on the kept pixels alone.

    Raises:
        ValueError: If ``images`` or ``mask`` is not as above.

    Example:
        >>> sub_image(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), checkerboard(2, 2))
        tensor([[[[1., 4.],
                  [4., 4.]]]])
    """
    given = f"{images.dtype} of shape {tuple(images.shape)}"
    require(images.ndim == 4 and images.is_floating_point(), "images", "floating, of shape (N, C, H, W)", given)
    fits = mask.dtype == torch.bool and mask.shape == images.shape[2:]
    require(fits, "mask", f"bool, of shape {tuple(images.shape[2:])}", f"{mask.dtype} of shape {tuple(mask.shape)}")
    mask = mask.to(images.device)
    cells = F.max_pool2d(images.masked_fill(~mask, -math.inf), 2, ceil_mode=True)
    filled = cells.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., : mask.shape[0], : mask.shape[1]]
    return torch.where(mask, images, filled.masked_fill(filled == -math.inf, 0))


@final
class DualRandomizedSmoothing(Smoothing):
    """Two classifiers vote, each on noisy copies of its own half of the pixels; the class has the most votes of both.

    Each should be trained on `sub_image` of images with noise of the same ``sigma``, the left one with the mask, the
    right one with its complement, and be in eval mode. `certify` gives the radius of `dual_radius`. At ``sigma=0`` a
    call gives the mean of what the classifiers give.

    Args:
        left: Classifies sub-images of the pixels in the mask; maps (N, C, H, W) to logits (N, classes).
        right: The same for the other pixels.
        sigma: Standard deviation of the noise, in units of the images, at least 0; the authors have 0.18 where plain
            smoothing has 0.25, so that both can certify radii of the same size.
        draws: Votes of each classifier for an image in a call, at least 1.
        mask: Which pixels the left classifier sees, bool, (H, W); by default a checkerboard.
        generator: Source of the noise.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> flat, generator = torch.nn.Flatten(), torch.Generator().manual_seed(0)
        >>> DualRandomizedSmoothing(flat, flat, generator=generator)(torch.tensor([[[[9.0], [5.0]]]]))
        tensor([[1., 0.]])
    """

    def __init__(
        self,
        left: Classifier,
        right: Classifier,
        sigma: float = 0.18,
        draws: int = 100,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator,
    ) -> None:
        branches = partial(_branch, left, mask, True), partial(_branch, right, mask, False)
        super().__init__(branches, sigma, draws, generator)
        self.left, self.right, self.mask = left, right, mask


def _branch(model: Classifier, mask: Tensor | None, inside: bool, images: Tensor) -> Tensor:
    """Classify the sub-images of the pixels inside or outside a mask."""
    seen = checkerboard(*images.shape[-2:]) if mask is None else mask
    return model(sub_image(images, seen if inside else ~seen))
