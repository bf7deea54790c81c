"""Fourier attention in linear time, from random frequencies of the kernel.

The transform of sin x / x is the uniform density on [-1, 1], and that of its p-th power the density of a sum of p such
numbers, a B-spline on [-p, p]. So K(q, k) is the expectation of cos(w . R (q - k)) over frequencies w of independent
such sums, and a mean over m of them needs no pairs: cos and sin of w . R q and of w . R k are features whose products
sum to it. For x = R (q - k) the variance of that mean is (1 + K(2x) - 2 K(x)^2) / (2m).

Source:
    T. Nguyen et al., "FourierFormer: Transformer Meets Generalized Fourier Integral Theorem", NeurIPS 2022,
    https://arxiv.org/abs/2206.00206, for the kernel; A. Rahimi, B. Recht, "Random Features for Large-Scale Kernel
    Machines", NIPS 2007, for features of a shift-invariant kernel.

Deviations:
    - The paper has no version in linear time; this one is derived from its kernel.
"""

import torch
from torch import Tensor

from paperweight.architecture._multihead import check_ranges, precise

__all__ = ["fourier_features", "linear_fourier_attention"]


def fourier_features(
    x: Tensor, count: int, radius: Tensor | float = 1.0, power: int = 4, *, generator: torch.Generator
) -> Tensor:
    """Compute random features whose products have the expectation K: ``features(q) @ features(k).T``, same generator.

    Args:
        x: Queries or keys, (..., N, d).
        count: m, the number of frequencies, at least 1.
        radius: R, broadcast against ``x``.
        power: p, even and at least 2.
        generator: Source of the frequencies: queries and keys need one in the same state.

    Returns:
        Features, (..., N, 2m), of length 1.

    Raises:
        ValueError: If ``count`` is below 1, or the power is not even.

    Example:
        >>> x = torch.zeros(1, 3)
        >>> features = fourier_features(x, 5, generator=torch.Generator().manual_seed(0))
        >>> features.shape, round((features @ features.T).item(), 4)
        (torch.Size([1, 10]), 1.0)
    """
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a whole number of at least 1, got {count}")
    check_ranges(power)
    scaled = precise(x) * radius
    uniform = torch.rand(power, x.shape[-1], count, generator=generator, dtype=scaled.dtype, device=generator.device)
    phases = scaled @ (2 * uniform - 1).sum(dim=0).to(scaled.device)
    return torch.cat([phases.cos(), phases.sin()], dim=-1) / count**0.5


def linear_fourier_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    count: int = 256,
    radius: Tensor | float = 1.0,
    power: int = 4,
    eps: float = 1e-6,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Approximate `fourier_attention` without its N M pairs, at a cost of (N + M) m (d + e).

    Estimated weights may be negative, and where all keys are far from a query their sum is noise: it takes m well
    above the inverse square of the mean weight of a query. Sums below ``eps`` are raised to it.

    Args:
        q: Queries, (..., N, d).
        k: Keys, (..., M, d).
        v: Values, (..., M, e).
        count: m, the number of frequencies.
        radius: R, broadcast against queries and keys.
        power: p, even and at least 2.
        eps: Least mean weight of a query, above 0.
        generator: Source of the frequencies.

    Returns:
        Outputs, (..., N, e), in the format of the values.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> linear_fourier_attention(x, x, torch.tensor([[1.0], [2.0], [6.0]]), generator=torch.Generator())
        tensor([[3.],
                [3.],
                [3.]])
    """
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    both = torch.cat([q, k], dim=-2)
    features = fourier_features(both, count, radius, power, generator=generator)
    queries, keys = features.split([q.shape[-2], k.shape[-2]], dim=-2)
    values = precise(v)
    sums = queries @ keys.mean(dim=-2)[..., None]
    means = queries @ (keys.transpose(-1, -2) @ values) / k.shape[-2]
    return (means / sums.clamp_min(eps)).to(v.dtype)
