"""Masks of cells between 0 and 1: drawn from Beta distributions, with their densities, and laid on images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.data import gaussian_blur

__all__ = ["draw_mask", "enlarged_mask", "mask_log_density"]


def draw_mask(log_alpha: Tensor, log_beta: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each cell from Beta(alpha, beta), above 0 and below 1, without a graph.

    Args:
        log_alpha: Logarithms of alpha, (N, cells).
        log_beta: Logarithms of beta, (N, cells).
        generator: Source of the draws.

    Returns:
        (N, cells).
    """
    parameters = torch.stack([log_alpha, log_beta], dim=-1).detach().exp().to(generator.device)
    drawn = torch._sample_dirichlet(parameters, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return drawn[..., 0].to(log_alpha)


def mask_log_density(mask: Tensor, log_alpha: Tensor, log_beta: Tensor) -> Tensor:
    """Compute (alpha - 1) log m + (beta - 1) log(1 - m) - log B(alpha, beta), cell by cell.

    Args:
        mask: Cells within 0 and 1, (N, cells).
        log_alpha: Logarithms of alpha, (N, cells).
        log_beta: Logarithms of beta, (N, cells).

    Returns:
        (N, cells).
    """
    alpha, beta = log_alpha.exp(), log_beta.exp()
    log_norm = alpha.lgamma() + beta.lgamma() - (alpha + beta).lgamma()
    return (alpha - 1) * mask.log() + (beta - 1) * torch.log1p(-mask) - log_norm


def enlarged_mask(mask: Tensor, size: tuple[int, int], kernel: int, sigma: float) -> Tensor:
    """Enlarge masks to the nearest cell, and blur them.

    Args:
        mask: (N, grid^2).
        size: Height and width in pixels.
        kernel: Pixels a side of the blur, odd; 1 for no blur.
        sigma: Standard deviation of the blur in pixels, above 0.

    Returns:
        (N, 1, *size).
    """
    grid = math.isqrt(mask.shape[1])
    large = F.interpolate(mask.unflatten(1, (1, grid, grid)), size, mode="nearest")
    return gaussian_blur(large, sigma, truncate=(kernel // 2) / sigma) if kernel > 1 else large
