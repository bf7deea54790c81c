"""The layers of VanillaNet: convolutions, the activation that fades between two of them, and the series activation.

Source:
    H. Chen et al., "VanillaNet: the Power of Minimalism in Deep Learning", NeurIPS, 2023,
    https://arxiv.org/abs/2305.12972.

Deviations:
    those of `paperweight.architecture.vanillanet`
"""

from typing import final

import torch
from torch import Tensor, nn

__all__ = ["EPS", "FadingReLU", "SeriesActivation", "check_at_least", "convolution", "fading_convolution"]

_STD = 0.02  # of all initial weights
EPS = 1e-6  # in all normalizations


def _faded_relu(x: Tensor, lam: Tensor) -> Tensor:
    """Compute A'(x) = (1 - lam) max(x, 0) + lam x."""
    return (1 - lam) * x.relu() + lam * x


@final
class FadingReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lam = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return _faded_relu(x, self.lam)


@final
class SeriesActivation(nn.Module):
    """Series informed activation: a weighted sum of the rectified pixels around each pixel.

    ``y[c, h, w]`` is the sum of ``a[c, i, j] max(x[c, h + i, w + j], 0)`` over i and j from -n to n, n = ``act_num``;
    pixels outside of the image count as 0. The weights a start small, normal with standard deviation 0.02, for a batch
    normalization to follow. With ``act_num=0`` and a weight of 1 it is a ReLU bit for bit.

    Args:
        dim: Number of channels, C.
        act_num: How far neighbours reach, n, at least 0; the paper's is 3.

    Raises:
        ValueError: If ``dim`` or ``act_num`` is no whole number or too small.

    Example:
        >>> activation = SeriesActivation(1, act_num=1)
        >>> _ = nn.init.ones_(activation.conv.weight)
        >>> activation(torch.tensor([[[[-1.0, 2.0, 3.0, 4.0]]]])).detach()
        tensor([[[[2., 5., 9., 7.]]]])
    """

    def __init__(self, dim: int, act_num: int = 3) -> None:
        super().__init__()
        check_at_least(1, "dim", dim)
        check_at_least(0, "act_num", act_num)
        self.dim, self.act_num = dim, act_num
        self.conv = nn.Conv2d(dim, dim, 2 * act_num + 1, padding=act_num, groups=dim, bias=False)
        nn.init.trunc_normal_(self.conv.weight, std=_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation.

        Args:
            x: Inputs, (N, C, H, W).

        Returns:
            Activations, of the shape and dtype of ``x``.
        """
        return self.conv(x.relu())


def convolution(inputs: int, outputs: int, side: int = 1, bias: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, side, stride=side, bias=bias)
    nn.init.trunc_normal_(conv.weight, std=_STD)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def fading_convolution(inputs: int, outputs: int, side: int = 1) -> list[nn.Module]:
    """Build the first convolution of a pair and what stands between the two."""
    return [convolution(inputs, outputs, side), nn.BatchNorm2d(outputs, EPS), FadingReLU()]


def check_at_least(minimum: int, name: str, *values: int) -> None:
    for value in values:
        if not isinstance(value, int) or value < minimum:
            raise ValueError(f"{name} must be whole numbers of at least {minimum}, got {value!r}")
