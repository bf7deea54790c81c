"""Masks of intervals, by their Fourier coefficients, which have gradients, and as zeros and ones.

Source:
    Lee and Kim 2023, as in `paperweight.architecture.gaudi_gblr`.

Deviations:
    none known; see there for those of the layer.
"""

import math

import torch
from torch import Tensor

__all__ = ["boxcar_mask", "gaudi_mask"]


def _check_mask(widths: Tensor, starts: Tensor, n: int) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
    if not widths.is_floating_point() or widths.shape != starts.shape:
        raise ValueError(
            f"widths must be floating and of the shape of starts, got {widths.dtype} {tuple(widths.shape)} and "
            f"{tuple(starts.shape)}"
        )


def gaudi_mask(widths: Tensor, starts: Tensor, n: int, sigma: float | None = None) -> Tensor:
    """Compute masks of intervals by their Fourier coefficients, differentiable by widths and starts.

    Coefficient k is w sinc(w k) / sinc(k / n) exp(i pi (k / n - w k - 2 k l)), times exp(-k^2 / (2 sigma^2)) where
    masks are smoothed. Where n w and n l are whole numbers and nothing is smoothed, masks are those of `boxcar_mask`.

    Args:
        widths: w, shares of the n entries, from 0 to 1, any shape.
        starts: l, the place of the first entry as a share of n; what leaves at the end enters at the beginning. Of the
            shape of ``widths``.
        n: Entries, at least 1.
        sigma: Above 0; the smaller, the smoother. Not smoothed where it is None.

    Returns:
        Masks, (..., n), of the dtype of ``widths``, computed in float32 at least.

    Raises:
        ValueError: If ``n`` or ``sigma`` is outside its range, or the shapes or formats do not fit.

    Example:
        >>> gaudi_mask(torch.tensor([0.5, 0.25]), torch.tensor([0.0, 0.75]), 4).abs().round(decimals=4)
        tensor([[1., 1., 0., 0.],
                [0., 0., 0., 1.]])
    """
    _check_mask(widths, starts, n)
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be above 0 or None, got {sigma}")
    dtype = torch.promote_types(widths.dtype, torch.float32)
    w, start = widths.to(dtype)[..., None], starts.to(dtype)[..., None]
    k = torch.arange(n // 2 + 1, dtype=dtype, device=widths.device)
    size = w * torch.sinc(w * k) / torch.sinc(k / n)
    if sigma is not None:
        size = size * torch.exp(-(k**2) / (2 * sigma**2))
    angle = math.pi * k * (1 / n - w - 2 * start)
    coefficients = torch.complex(size * angle.cos(), size * angle.sin())
    return torch.fft.irfft(coefficients, n, norm="forward").to(widths.dtype)


def boxcar_mask(widths: Tensor, starts: Tensor, n: int) -> Tensor:
    """Compute masks of intervals that are 0 or 1, widths and starts rounded to whole entries.

    Args:
        widths: As of `gaudi_mask`.
        starts: As of `gaudi_mask`.
        n: Entries, at least 1.

    Returns:
        Masks, (..., n), of the dtype of ``widths``.

    Raises:
        ValueError: If ``n`` is outside its range, or the shapes or formats do not fit.

    Example:
        >>> boxcar_mask(torch.tensor([0.5]), torch.tensor([0.7]), 4)
        tensor([[1., 0., 0., 1.]])
    """
    _check_mask(widths, starts, n)
    places = torch.arange(n, device=widths.device)
    first, count = (n * starts)[..., None].round(), (n * widths)[..., None].round()
    return ((places - first) % n < count).to(widths.dtype)
