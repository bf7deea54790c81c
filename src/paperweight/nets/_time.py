"""The encoding of a time that denoisers take."""

from math import log

import torch
from torch import Tensor

__all__ = ["sinusoids"]


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """Encode times as cosines and sines of ``dim // 2`` frequencies from 1 down to nearly 1/10000.

    Args:
        t: Times, (N,), of a range of about 0 to 1000.
        dim: Size of the encoding, even.

    Returns:
        The encoding, (N, dim).

    Example:
        >>> sinusoids(torch.zeros(1), 4)
        tensor([[1., 1., 0., 0.]])
    """
    frequencies = torch.exp(torch.arange(dim // 2, device=t.device) * (-2 * log(10_000) / dim))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
