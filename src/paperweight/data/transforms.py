"""Small transforms of image batches: float tensors of shape (N, C, H, W), with values in [0, 1].

All are pure functions that keep dtype and device. The random ones draw for each image from a given generator.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

__all__ = [
    "adjust_colour",
    "affine",
    "channel_statistics",
    "cutmix",
    "cutout",
    "gaussian_blur",
    "mixup",
    "normalise",
    "random_crop",
    "random_flip",
    "resize",
    "translate",
]

LUMA = (0.299, 0.587, 0.114)


def translate(images: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Move each image by whole pixels, with zeros where nothing was.

    Args:
        images: Shape (N, C, H, W).
        offsets: How far down and to the right, int64 of shape (N, 2).

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If a shape is another.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> translate(image, torch.tensor([[1, 0]])).tolist()
        [[[[0.0, 0.0], [1.0, 2.0]]]]
    """
    count, _, height, width = _shape(images)
    if offsets.shape != (count, 2):
        raise ValueError(f"offsets must have shape ({count}, 2), got {tuple(offsets.shape)}; give one pair per image")
    offsets = offsets.to(images.device)
    rows = torch.arange(height, device=images.device) - offsets[:, :1]
    columns = torch.arange(width, device=images.device) - offsets[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    index = torch.arange(count, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[
        index, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return torch.where(inside[:, None], moved.permute(0, 3, 1, 2), 0.0)


def random_crop(images: torch.Tensor, padding: int, *, generator: torch.Generator) -> torch.Tensor:
    """Pad each image with zeros on all sides and cut out its former size at a random place.

    Args:
        images: Shape (N, C, H, W).
        padding: Width of the padding in pixels; 0 is the identity.
        generator: Decides the places.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If `padding` is negative.

    Example:
        >>> random_crop(torch.rand(2, 3, 8, 8), 2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    _require(padding >= 0, "padding", "at least 0", padding)
    places = torch.randint(-padding, padding + 1, (_shape(images)[0], 2), generator=generator, device=generator.device)
    return translate(images, places)


def random_flip(images: torch.Tensor, probability: float = 0.5, *, generator: torch.Generator) -> torch.Tensor:
    """Mirror images left to right at random.

    Args:
        images: Shape (N, C, H, W).
        probability: That an image is mirrored.
        generator: Decides which are.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If `probability` is outside [0, 1].

    Example:
        >>> random_flip(torch.tensor([[[[1.0, 2.0]]]]), 1.0, generator=torch.Generator()).tolist()
        [[[[2.0, 1.0]]]]
    """
    _require(0 <= probability <= 1, "probability", "in [0, 1]", probability)
    chosen = _uniform(_shape(images)[0], images, generator) < probability
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def cutout(images: torch.Tensor, size: int, *, generator: torch.Generator) -> torch.Tensor:
    """Set one square of each image to zero; its centre is uniform, so that it may reach over the border.

    Args:
        images: Shape (N, C, H, W).
        size: Side of the square in pixels; 0 is the identity.
        generator: Decides the places.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If `size` is negative.

    Example:
        >>> int(cutout(torch.ones(1, 1, 8, 8), 1, generator=torch.Generator().manual_seed(0)).sum())
        63
    """
    _require(size >= 0, "size", "at least 0", size)
    sides = torch.full((_shape(images)[0],), size, device=images.device)
    return torch.where(_boxes(images, sides, sides, generator), 0.0, images)


def mixup(
    images: torch.Tensor, targets: torch.Tensor, alpha: float, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image and its target with those of another image of the batch.

    Args:
        images: Shape (N, C, H, W).
        targets: Class weights, such as one-hot labels, of shape (N, K).
        alpha: Both parameters of the Beta distribution of an image's own weight; 0 is the identity.
        generator: Decides partners and weights.

    Returns:
        The blended images and targets, in the shapes given.

    Raises:
        ValueError: If `alpha` is negative or a shape is another.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> mixed, soft = mixup(torch.rand(4, 1, 8, 8), torch.eye(4), 0.2, generator=draw)
        >>> soft.sum(dim=1).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    partner, weight = _partners(images, targets, alpha, generator)
    return (
        torch.lerp(images[partner], images, weight[:, None, None, None]),
        torch.lerp(targets[partner], targets, weight[:, None].to(targets)),
    )


def cutmix(
    images: torch.Tensor, targets: torch.Tensor, alpha: float, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste a random box of another image of the batch into each image, and weigh the targets by area.

    Args:
        images: Shape (N, C, H, W).
        targets: Class weights, such as one-hot labels, of shape (N, K).
        alpha: Both parameters of the Beta distribution of an image's own area before its box is clipped at the border;
            0 is the identity.
        generator: Decides partners, areas and places.

    Returns:
        The images, and the targets weighed by the pixels that each of the two images has in them.

    Raises:
        ValueError: If `alpha` is negative or a shape is another.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> mixed, soft = cutmix(torch.rand(4, 1, 8, 8), torch.eye(4), 1.0, generator=draw)
        >>> soft.sum(dim=1).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    partner, weight = _partners(images, targets, alpha, generator)
    _, _, height, width = images.shape
    side = (1 - weight).sqrt()
    box = _boxes(images, (side * height).round().long(), (side * width).round().long(), generator)
    own = 1 - box.to(targets.dtype).mean(dim=(1, 2, 3))[:, None]
    return torch.where(box, images[partner], images), torch.lerp(targets[partner], targets, own)


def adjust_colour(
    images: torch.Tensor,
    *,
    brightness: float | torch.Tensor = 1.0,
    contrast: float | torch.Tensor = 1.0,
    saturation: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """Change brightness, then contrast, then saturation, with values cut to [0, 1] after each.

    Each factor blends from black, from the image's mean grey, and from the grey image; 1 is the identity.

    Args:
        images: Shape (N, C, H, W) with C 1 or 3; saturation does nothing to grey images.
        brightness: At least 0; one number, or one for each image, shape (N,).
        contrast: As for brightness.
        saturation: As for brightness.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If a factor is negative, or the number of channels is neither 1 nor 3.

    Example:
        >>> adjust_colour(torch.tensor([[[[0.2, 0.8]]]]), contrast=0.0)
        tensor([[[[0.5000, 0.5000]]]])
    """
    channels = _shape(images)[1]
    _require(channels in (1, 3), "the number of channels of images", "1 or 3", channels)
    factors = [_per_image(value, images) for value in (brightness, contrast, saturation)]
    for name, factor in zip(("brightness", "contrast", "saturation"), factors, strict=True):
        _require(bool((factor >= 0).all()), name, "at least 0", float(factor.min()))
    bright, contrasted, saturated = (factor[:, None, None, None] for factor in factors)
    images = (images * bright).clamp(0, 1)
    images = torch.lerp(_grey(images).mean(dim=(1, 2, 3), keepdim=True), images, contrasted).clamp(0, 1)
    return torch.lerp(_grey(images).expand_as(images), images, saturated).clamp(0, 1)


def gaussian_blur(images: torch.Tensor, sigma: float, *, truncate: float = 4.0) -> torch.Tensor:
    """Blur by a Gaussian, with the border pixels repeated outward.

    Args:
        images: Shape (N, C, H, W).
        sigma: Standard deviation in pixels; 0 is the identity.
        truncate: Where the kernel ends, in standard deviations.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If `sigma` is negative or `truncate` is not positive.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 4, 4), 1.0).mean().round(decimals=5)
        tensor(1.)
    """
    _, channels, _, _ = _shape(images)
    _require(sigma >= 0, "sigma", "at least 0", sigma)
    _require(truncate > 0, "truncate", "above 0", truncate)
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return images.clone()
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-(at**2) / (2 * sigma**2), dim=0).repeat(channels, 1, 1, 1)
    images = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(images, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=channels)


def affine(
    images: torch.Tensor,
    *,
    angle: float | torch.Tensor = 0.0,
    scale: float | torch.Tensor = 1.0,
    shear: float | torch.Tensor = 0.0,
    right: float | torch.Tensor = 0.0,
    down: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """Shear, scale and rotate each image about its centre, then move it; bilinear, with zeros outside.

    Args:
        images: Shape (N, C, H, W).
        angle: Rotation in degrees, counter-clockwise as one sees the image; one number, or one for each image (N,).
        scale: Enlargement, above 0; as for the angle.
        shear: Angle in degrees by which vertical lines lean to the right; as for the angle.
        right: Movement in pixels; as for the angle.
        down: Movement in pixels; as for the angle.

    Returns:
        Shape (N, C, H, W).

    Raises:
        ValueError: If a scale is not positive.

    Example:
        >>> affine(torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), angle=90.0).round().abs()
        tensor([[[[0., 0.],
                  [1., 0.]]]])
    """
    _, _, height, width = _shape(images)
    turn, factor, lean, x, y = (_per_image(value, images) for value in (angle, scale, shear, right, down))
    _require(bool((factor > 0).all()), "scale", "above 0", float(factor.min()))
    turn, lean = torch.deg2rad(turn), torch.deg2rad(lean)
    # From a place in the result back to its place in the image, in pixels from the centre, first axis to the right and
    # second axis down: undo the movement, the rotation, the scale and the shear in this order.
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2 - x[:, None]
    v = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2 - y[:, None]
    u, v = u[:, None, :] / factor[:, None, None], v[:, :, None] / factor[:, None, None]
    cos, sin, tan = (value[:, None, None] for value in (turn.cos(), turn.sin(), lean.tan()))
    along, across = cos * u - sin * v, sin * u + cos * v
    along = along + tan * across
    grid = torch.stack([along * (2 / width), across * (2 / height)], dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize with a bilinear filter that widens as the image shrinks, as Pillow does.

    Args:
        images: Shape (N, C, H, W).
        size: The new height and width in pixels.

    Returns:
        Shape (N, C, *size).

    Raises:
        ValueError: If a side is below 1.

    Example:
        >>> resize(torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]), (1, 1))
        tensor([[[[0.5000]]]])
    """
    _shape(images)
    _require(min(size) >= 1, "size", "at least 1 by 1", min(size))
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the (biased) standard deviation of each channel, each of shape (C,).

    Args:
        images: Shape (N, C, H, W).

    Example:
        >>> channel_statistics(torch.tensor([[[[0.0, 1.0]]]]))
        (tensor([0.5000]), tensor([0.5000]))
    """
    _shape(images)
    deviation, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    return mean, deviation


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Subtract a mean from each channel and divide by a standard deviation.

    Args:
        images: Shape (N, C, H, W).
        mean: Shape (C,).
        std: Above 0, shape (C,).

    Returns:
        Shape (N, C, H, W), in standard deviations.

    Raises:
        ValueError: If a standard deviation is not positive.

    Example:
        >>> normalise(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([0.5]), torch.tensor([0.5]))
        tensor([[[[-1.,  1.]]]])
    """
    _shape(images)
    _require(bool((std > 0).all()), "std", "above 0 in every channel", float(std.min()))
    return (images - mean.to(images)[:, None, None]) / std.to(images)[:, None, None]


def _shape(images: torch.Tensor) -> tuple[int, int, int, int]:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating-point of shape (N, C, H, W), got {images.dtype} of {tuple(images.shape)}; "
            "add a batch dimension or divide by 255"
        )
    return images.shape[0], images.shape[1], images.shape[2], images.shape[3]


def _require(holds: bool, name: str, rule: str, value: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")


def _per_image(value: float | torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return one value for each image, shape (N,)."""
    return torch.as_tensor(value, dtype=images.dtype, device=images.device).expand(len(images))


def _uniform(count: int, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator, device=generator.device).to(images.device)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Return the luma of images, shape (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)


def _boxes(
    images: torch.Tensor, heights: torch.Tensor, widths: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return boxes with a uniform centre, clipped at the border: bool of shape (N, 1, H, W)."""
    count, _, height, width = images.shape

    def inside(size: int, extents: torch.Tensor) -> torch.Tensor:
        start = (_uniform(count, images, generator) * size).long() - extents // 2
        at = torch.arange(size, device=images.device)
        return (at >= start[:, None]) & (at < (start + extents)[:, None])

    return (inside(height, heights)[:, :, None] & inside(width, widths)[:, None, :])[:, None]


def _partners(
    images: torch.Tensor, targets: torch.Tensor, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each image of the batch another one's index and its own Beta-distributed weight, shape (N,)."""
    count = _shape(images)[0]
    _require(math.isfinite(alpha) and alpha >= 0, "alpha", "finite and at least 0", alpha)
    if targets.ndim != 2 or len(targets) != count or not targets.is_floating_point():
        raise ValueError(
            f"targets must be floating-point of shape ({count}, K), got {targets.dtype} of {tuple(targets.shape)}; "
            "use torch.nn.functional.one_hot(labels, K).float()"
        )
    partner = torch.randperm(count, generator=generator, device=generator.device).to(images.device)
    if alpha == 0:
        return partner, torch.ones(count, dtype=images.dtype, device=images.device)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    weight = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count))
    return partner, weight.to(images)
