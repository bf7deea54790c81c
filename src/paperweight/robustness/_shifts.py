"""Shifted test sets made of small images: sketches, renditions, a hard subset, and corruptions of five severities.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821, measure on four shifts of ImageNet: a new sample (V2), sketches, renditions (R)
    and images that a fixed network misclassifies (A). Corruptions of five severities follow D. Hendrycks and T.
    Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019,
    https://arxiv.org/abs/1903.12261.

Deviations:
    - The shifts are computed from images, as stand-ins for sets that were collected: edges for sketches, other tones
      and thicknesses for renditions. A new sample has to be given.
    - Strengths are ours, for images of 8 to 32 pixels.
"""

from collections.abc import Callable
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, adjust_colour, cutout, gaussian_blur, resize
from paperweight.nets import evaluating

__all__ = ["Corruption", "ShiftSuite", "corrupt", "hard_subset", "rendition", "sketch"]

Corruption = Literal["noise", "blur", "contrast", "brightness", "resolution", "occlusion"]

_STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "noise": (0.04, 0.08, 0.13, 0.2, 0.3),
    "blur": (0.01, 0.02, 0.03, 0.045, 0.06),
    "contrast": (0.75, 0.55, 0.4, 0.25, 0.15),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "resolution": (0.8, 0.65, 0.5, 0.4, 0.3),
    "occlusion": (0.15, 0.25, 0.35, 0.45, 0.55),
}
_EDGES = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def sketch(images: Tensor) -> Tensor:
    """Draw the edges of images as dark lines on white, by the gradients of Sobel of the mean of channels.

    Args:
        images: In [0, 1], (N, C, H, W).

    Returns:
        Images of the same shape, all channels alike; white where an image is of one colour.

    Example:
        >>> sketch(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]] * 3]]))[0, 0, 1].tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    _check_images(images)
    along = images.new_tensor(_EDGES)
    kernels = torch.stack([along, along.T])[:, None]
    grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slope = F.conv2d(grey, kernels).square().sum(dim=1, keepdim=True).sqrt()
    steepest = slope.amax(dim=(2, 3), keepdim=True)
    return (1 - slope / steepest.clamp(min=1e-3)).clamp(0, 1).expand_as(images).clone()


def rendition(images: Tensor, generator: torch.Generator) -> Tensor:
    """Show each image in one of four styles, drawn at random: inverted, bright parts thicker, thinner, or other tones.

    Other tones take black and white to random levels, for each channel by itself, at least 0.3 apart.

    Args:
        images: In [0, 1], (N, C, H, W).
        generator: Draws styles and tones, on the CPU.

    Returns:
        Images of the same shape.

    Example:
        >>> rendition(torch.rand(8, 1, 4, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 1, 4, 4])
    """
    _check_images(images)
    count, channels = images.shape[:2]
    style = torch.randint(4, (count,), generator=generator).to(images.device)
    levels = torch.rand(2, count, channels, 1, 1, generator=generator).to(images)
    low, high = 0.35 * levels[0], 0.65 + 0.35 * levels[1]
    thicker = F.max_pool2d(images, 3, stride=1, padding=1)
    thinner = 1 - F.max_pool2d(1 - images, 3, stride=1, padding=1)
    ways = torch.stack([1 - images, thicker, thinner, low + (high - low) * images])
    return ways[style, torch.arange(count, device=images.device)]


def corrupt(images: Tensor, corruption: Corruption, severity: int, generator: torch.Generator) -> Tensor:
    """Corrupt images: Gaussian noise, blur, less contrast, more brightness, fewer pixels, or a black square.

    Args:
        images: In [0, 1], (N, C, H, W), C 1 or 3.
        corruption: Which.
        severity: From 1 to 5.
        generator: Draws noise and places, on the CPU.

    Returns:
        Images in [0, 1] of the same shape.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> corrupt(torch.zeros(1, 1, 4, 4), "brightness", 3, torch.Generator().manual_seed(0)).unique()
        tensor([0.3000])
    """
    _check_images(images)
    if corruption not in _STRENGTHS:
        raise ValueError(f"corruption must be one of {', '.join(_STRENGTHS)}, got {corruption!r}")
    _check_severity(severity)
    strength = _STRENGTHS[corruption][severity - 1]
    height, width = images.shape[2:]

    def noise() -> Tensor:
        drawn = torch.randn(images.shape, generator=generator, dtype=torch.float32)
        return images + strength * drawn.to(images)

    def resolution() -> Tensor:
        small = resize(images, (max(1, round(height * strength)), max(1, round(width * strength))))
        return resize(small, (height, width))

    ways: dict[str, Callable[[], Tensor]] = {
        "noise": noise,
        "blur": lambda: gaussian_blur(images, 0.3 + strength * min(height, width)),
        "contrast": lambda: adjust_colour(images, contrast=strength),
        "brightness": lambda: images + strength,
        "resolution": resolution,
        "occlusion": lambda: cutout(images, max(1, round(strength * min(height, width))), generator=generator),
    }
    return ways[corruption]().clamp(0, 1)


def hard_subset(reference: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Find the images that a fixed classifier gets wrong.

    Args:
        reference: Maps images (N, C, H, W) to logits; left as it is. It must be none of the models that are compared.
        images: In [0, 1], (N, C, H, W).
        labels: Class numbers, int64, (N,).

    Returns:
        Their numbers, int64, ascending, at least one.

    Raises:
        ValueError: If it gets none wrong, or labels do not fit.

    Example:
        >>> hard_subset(nn.Flatten(), torch.tensor([[[[0.9, 0.1]]], [[[0.2, 0.8]]]]), torch.tensor([0, 0]))
        tensor([1])
    """
    _check_images(images)
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise ValueError(f"labels must be int64 of shape ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
    with evaluating(reference), torch.no_grad():
        found = torch.cat([reference(part).argmax(dim=1) for part in images.split(512)])
    wrong = (found != labels).nonzero().flatten()
    if not len(wrong):
        raise ValueError("reference must get an image wrong, it gets all right; give a weaker one or more images")
    return wrong


@final
class ShiftSuite:
    """The shifted versions of a test set, by name.

    Args:
        reference: A fixed classifier that chooses the hard subset; None leaves it out.
        new_sample: Images that were collected anew for the same classes; None leaves them out.
        severity: Of the corruptions, from 1 to 5.

    Raises:
        ValueError: If the severity is outside its range, or the suite is called on what is no batch in [0, 1].

    Example:
        >>> suite = ShiftSuite(severity=5)
        >>> shifted = suite.natural(torch.rand(4, 1, 8, 8), torch.arange(4), torch.Generator().manual_seed(0))
        >>> list(shifted), shifted["sketch"].images.shape
        (['sketch', 'rendition'], torch.Size([4, 1, 8, 8]))
    """

    def __init__(
        self, reference: nn.Module | None = None, new_sample: LabelledImages | None = None, severity: int = 3
    ) -> None:
        _check_severity(severity)
        self.reference, self.new_sample, self.severity = reference, new_sample, severity

    def natural(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, LabelledImages]:
        """Give ``new_sample``, ``sketch``, ``rendition`` and ``hard``, as far as the suite has them.

        Args:
            images: The test set, in [0, 1], (N, C, H, W).
            labels: Class numbers, int64, (N,).
            generator: Draws renditions, on the CPU.

        Returns:
            Images and labels by the name of the shift.
        """
        _check_images(images)
        shifted = {} if self.new_sample is None else {"new_sample": self.new_sample}
        shifted["sketch"] = LabelledImages(sketch(images), labels)
        shifted["rendition"] = LabelledImages(rendition(images, generator), labels)
        if self.reference is not None:
            hard = hard_subset(self.reference, images, labels)
            shifted["hard"] = LabelledImages(images[hard], labels[hard])
        return shifted

    def corrupted(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, LabelledImages]:
        """Give the test set in each corruption, by its name.

        Args:
            images: The test set, in [0, 1], (N, C, H, W), C 1 or 3.
            labels: Class numbers, int64, (N,).
            generator: Draws noise and places, on the CPU.

        Returns:
            Images and labels by the name of the corruption.
        """
        kinds: tuple[Corruption, ...] = get_args(Corruption)
        return {kind: LabelledImages(corrupt(images, kind, self.severity, generator), labels) for kind in kinds}


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.numel() or not images.is_floating_point():
        raise ValueError(
            f"images must be floating, of shape (N, C, H, W) without a 0, got {images.dtype} {tuple(images.shape)}"
        )
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError(f"images must be in [0, 1], got {images.min().item():g} to {images.max().item():g}")


def _check_severity(severity: int) -> None:
    if not isinstance(severity, int) or isinstance(severity, bool) or not 1 <= severity <= 5:
        raise ValueError(f"severity must be a whole number from 1 to 5, got {severity!r}")
