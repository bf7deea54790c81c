"""What variational autoencoders of images share: divergence and sample of Gaussian latents, pixels, and checks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["check_number", "check_whole", "gaussian_kl", "gaussian_sample", "pixel_loss"]


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, variance) || N(0, 1)) of each entry, in nats: (mean^2 + variance - log variance - 1) / 2.

    Args:
        mean: Means, any shape.
        log_variance: Logarithms of the variances, of that shape.

    Returns:
        Divergences of at least 0, of that shape.
    """
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance)


def gaussian_sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from N(mean, variance) by mean + sigma * noise, so that gradients reach both.

    Args:
        mean: Means, any shape.
        log_variance: Logarithms of the variances, of that shape.
        generator: Source of the noise; torch's global stream on the CPU where it is left out.

    Returns:
        Samples, of that shape.
    """
    device = "cpu" if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device, dtype=torch.float32)
    return mean + (0.5 * log_variance).exp() * noise.to(mean)


def pixel_loss(logits: Tensor, images: Tensor) -> Tensor:
    """Compute -log p(image) of each image, in nats, where a pixel from 0 to 1 is the share of a coin with these logits.

    Args:
        logits: Logits of all pixels, (N, ...).
        images: Images in [0, 1], (N, ...), as many pixels.

    Returns:
        The cross-entropy of all pixels, added up, (N,).
    """
    each = F.binary_cross_entropy_with_logits(logits.flatten(1), images.flatten(1), reduction="none")
    return each.sum(dim=1)


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse what is no whole number of at least ``least``, with a `ValueError` that names it."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: float, *, above: bool = False) -> None:
    """Refuse what is not a finite number of at least 0, or above 0, with a `ValueError` that names it."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not (value > 0 if above else value >= 0):
        raise ValueError(f"{name} must be finite and {'above' if above else 'at least'} 0, got {value!r}")
