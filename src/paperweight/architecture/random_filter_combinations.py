"""Random filters, linearly combined: convolutions whose spatial filters stay as they were drawn, and are only mixed.

A convolution with frozen random filters is followed at once by a learned 1x1 convolution. Both are linear, so that
together they are one convolution whose filters are learned combinations of random ones; with enough of those every
filter can be had. Cost: as computed here, that of the plain convolution and of combining its filters once a call; after
training nothing. Learned are ``expansion`` times the number of output channels for each of these, and no filter.

Source:
    P. Gavrikov, J. Keuper, "The Power of Linear Combinations: Learning with Random Convolutions", 2023,
    https://arxiv.org/abs/2301.11360. Implemented: the block of a frozen random convolution and a learned pointwise one,
    with an expansion of the number of random filters, and its reduction to one convolution.

Deviations:
    - The filters are combined first, and convolved with once, in training too, where the paper's block convolves with
      all random filters and mixes the results. The outputs are equal but for rounding, and an expansion of 8 does not
      take eight times the multiplications.
    - No code of the authors was found. The start of the mixing weights, not told, is PyTorch's for a 1x1 convolution.
    - Convolutions in groups and padding other than by zeros are not replaced.
"""

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = ["LCConv2d", "combine_filters", "replace_convolutions"]

PAPER = Paper(
    title="The Power of Linear Combinations: Learning with Random Convolutions",
    authors=("Paul Gavrikov", "Janis Keuper"),
    year=2023,
    url="https://arxiv.org/abs/2301.11360",
    provides={"LCConv2d": "layer", "combine_filters": "function", "replace_convolutions": "function"},
    claim="Networks whose spatial filters are never trained, but combined, are as accurate as those that learn them.",
)


def combine_filters(mixing: Tensor, filters: Tensor) -> Tensor:
    """Compute W[o] = sum over j of P[o, j] R[j], the filters of the one convolution that two in a row are.

    Args:
        mixing: P, the weights of the second, pointwise convolution, (out, count).
        filters: R, those of the first, (count, in, height, width).

    Returns:
        W, (out, in, height, width).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> combine_filters(torch.tensor([[2.0, -1.0]]), torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]]))
        tensor([[[[ 2., -1.]]]])
    """
    if mixing.ndim != 2 or filters.ndim != 4 or mixing.shape[1] != len(filters):
        raise ValueError(
            "mixing and filters must have shapes (out, count) and (count, in, height, width), got "
            f"{tuple(mixing.shape)} and {tuple(filters.shape)}"
        )
    return (mixing @ filters.flatten(1)).unflatten(1, filters.shape[1:])


@final
class LCConv2d(nn.Module):
    """A convolution with filters that are learned combinations of ``expansion * out_channels`` random ones.

    Random filters are drawn as PyTorch draws a convolution's. Where ``expansion * out_channels`` is at least
    ``in_channels`` times the filters' area, which is when random ones almost surely span all, every convolution can be
    had. Its weights start smaller than PyTorch's, by a factor of sqrt(3).

    Args:
        in_channels: Channels of the input, at least 1.
        out_channels: Channels of the output, at least 1.
        kernel_size: Height and width of the filters, each at least 1; one number for both.
        stride: As of `torch.nn.Conv2d`.
        padding: As of `torch.nn.Conv2d`, by zeros.
        dilation: As of `torch.nn.Conv2d`.
        bias: Whether a learned number is added to each channel.
        expansion: Random filters for each channel of the output, at least 1; the paper has up to 128.
        learn_spatial: Whether the random filters are learned, too, which the paper compares with.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> layer = LCConv2d(3, 4, 5, padding=2, expansion=8)
        >>> layer(torch.zeros(2, 3, 6, 6)).shape
        torch.Size([2, 4, 6, 6])
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        132
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        expansion: int = 1,
        learn_spatial: bool = False,
    ) -> None:
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        numbers = {"in_channels": in_channels, "out_channels": out_channels, "expansion": expansion}
        for name, number in {**numbers, "kernel_size": min(height, width)}.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {number}")
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.expansion = expansion
        self.learn_spatial = learn_spatial
        count = expansion * out_channels
        bound, mixing_bound = 1 / math.sqrt(in_channels * height * width), 1 / math.sqrt(count)
        filters = torch.empty(count, in_channels, height, width).uniform_(-bound, bound)
        self.filters = nn.Parameter(filters, requires_grad=learn_spatial)
        self.mixing = nn.Parameter(torch.empty(out_channels, count).uniform_(-mixing_bound, mixing_bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-mixing_bound, mixing_bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H', W'), as `torch.nn.Conv2d` has it.
        """
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    @property
    def weight(self) -> Tensor:
        """The combined filters, (out_channels, in_channels, height, width)."""
        return combine_filters(self.mixing, self.filters)

    def merged(self) -> nn.Conv2d:
        """Make the plain convolution that it is, with weights of its own."""
        new = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=self.bias is not None,
            device="meta",
        ).to_empty(device=self.mixing.device)
        with torch.no_grad():
            new.weight = nn.Parameter(self.weight)
            if new.bias is not None and self.bias is not None:
                new.bias = nn.Parameter(self.bias.clone())
        return new


def replace_convolutions(
    model: nn.Module,
    expansion: int = 8,
    *,
    learn_spatial: bool = False,
    replaced: Callable[[str, nn.Conv2d], bool] = lambda name, layer: True,
) -> nn.Module:
    """Copy a model with an `LCConv2d` in place of each spatial convolution.

    Convolutions of 1x1, in groups, or with padding other than by zeros stay. The new filters are drawn anew; the model
    is to be trained after.

    Args:
        model: The model, which stays as it was.
        expansion: Random filters for each channel of an output, at least 1.
        learn_spatial: Whether the random filters are learned, too.
        replaced: Chooses among the convolutions that can be replaced, by name and layer.

    Returns:
        The copy; `LCConv2d.merged` makes a plain convolution of each when it is trained.

    Raises:
        InputError: If there is nothing to replace.
        ValueError: If ``expansion`` is below 1.

    Example:
        >>> replace_convolutions(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), expansion=2)[0].filters.shape
        torch.Size([8, 3, 5, 5])
    """

    def spatial(name: str, layer: nn.Module) -> bool:
        return (
            isinstance(layer, nn.Conv2d)
            and layer.kernel_size != (1, 1)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and replaced(name, layer)
        )

    def build(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f"layer must be a convolution, got {type(layer).__name__}")
        return LCConv2d(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel_size[0], layer.kernel_size[1]),
            (layer.stride[0], layer.stride[1]),
            layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
            (layer.dilation[0], layer.dilation[1]),
            layer.bias is not None,
            expansion,
            learn_spatial,
        )

    return replace_modules(
        model, spatial, build, wanted="a convolution of more than 1x1, without groups, padded by zeros"
    )
