"""Generalised pooling: max and average pooling blended, gated, or replaced by a small tree of learned filters.

Max pooling and average pooling are both a guess at what a region of an image is worth. Here each layer learns how much
to take of either (mixed), learns to decide it region by region (gated), or learns what to compute of a region (tree).
Cost: one number a layer (mixed), N (gated), 3 N (tree of two levels), where a region has N entries. On a CPU a mixed
layer takes 2, a gated one 2 to 4 and a tree 1.5 to 4 times the time of max pooling, a step of a small LeNet 1.6 times.

Source:
    C.-Y. Lee, P. W. Gallagher, Z. Tu, "Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated,
    and Tree", AISTATS, 2016, https://arxiv.org/abs/1509.08985. Implemented: mixed and gated max-average pooling, tree
    pooling of any number of levels, and the arrangement that the authors found best: a tree in the place of the first
    max pooling, gates in that of all others. What lies outside of an image is left out as in the authors' code.

Deviations:
    - Only the scope of a layer: one set of numbers for all regions and channels, which the authors chose for their
      best arrangement. Sets for each channel or region are left out.
    - Leaves of a tree start around 1/N, near average pooling. The only published start that was found, of an AlexNet in
      the authors' code, is around 0 (``mean=0``); a network without normalization then learns more slowly.
    - No published start of the share of mixed pooling was found; here it is one half, and nothing keeps it in [0, 1] in
      training.
    - Regions reach over the border by ``padding`` alone, as with `torch.nn.MaxPool2d`; in the authors' code the last
      ones do, so that none of the image is left out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.nets import replace_modules

__all__ = ["GatedMaxAvgPool2d", "MixedPool2d", "TreePool2d", "replace_max_pools"]

PAPER = Paper(
    title="Generalizing Pooling Functions in Convolutional Neural Networks: Mixed, Gated, and Tree",
    authors=("Chen-Yu Lee", "Patrick W. Gallagher", "Zhuowen Tu"),
    year=2016,
    url="https://arxiv.org/abs/1509.08985",
    provides={
        "MixedPool2d": "layer",
        "GatedMaxAvgPool2d": "layer",
        "TreePool2d": "layer",
        "replace_max_pools": "function",
    },
    null={"a": 1.0},
    claim="Pooling that is learned gives a higher accuracy than max or average pooling, and more invariance.",
)

_Size = int | tuple[int, int]


class _Regions(NamedTuple):
    """Which regions of an image are pooled: height and width of their size, their distance, and the border."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def _max_average(x: Tensor, share: Tensor, regions: _Regions) -> Tensor:
    """Compute share * max + (1 - share) * average of each region; places outside of the image count for neither."""
    largest = F.max_pool2d(x, *regions)
    average = F.avg_pool2d(x, *regions, count_include_pad=False)
    return torch.lerp(average, largest, share)


def _responses(x: Tensor, filters: Tensor, regions: _Regions) -> Tensor:
    """Compute the product of each filter, (M, h, w), with each region of x, (..., C, H, W): (M, ..., C, H', W')."""
    count, channels = len(filters), x.shape[-3]
    weight = filters[:, None].repeat(channels, 1, 1, 1)
    found = F.conv2d(x, weight, stride=regions.stride, padding=regions.padding, groups=channels)
    return found.unflatten(-3, (channels, count)).movedim(-3, 0)


def _tree(values: Tensor, gates: Tensor) -> Tensor:
    """Blend the values of 2 M leaves by gates in [0, 1]: M, M / 2, ... of them, level by level up to the root's."""
    while len(values) > 1:
        left, right = values[::2], values[1::2]
        level, gates = gates[: len(left)], gates[len(left) :]
        values = torch.lerp(right, left, level)
    return values[0]


def _pair(name: str, value: _Size, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(isinstance(number, int) and number >= least for number in pair):
        raise ValueError(f"{name} must be a whole number of at least {least} or a pair of them, got {value!r}")
    return pair


class _Pool2d(nn.Module):
    def __init__(self, kernel_size: _Size, stride: _Size | None, padding: _Size) -> None:
        super().__init__()
        kernel, border = _pair("kernel_size", kernel_size, 1), _pair("padding", padding, 0)
        if any(2 * width > size for size, width in zip(kernel, border, strict=True)):
            raise ValueError(f"padding must be at most half of kernel_size, got {padding!r} for {kernel_size!r}")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self._regions = _Regions(kernel, kernel if stride is None else _pair("stride", stride, 1), border)

    def _filters(self, count: int, mean: float, sigma: float, generator: torch.Generator | None) -> nn.Parameter:
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be finite and at least 0, got {sigma}")
        device = "cpu" if generator is None else generator.device
        drawn = torch.randn(count, *self._regions.kernel_size, generator=generator, device=device)
        return nn.Parameter((mean + sigma * drawn).cpu())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in zip(self._regions._fields, self._regions, strict=True))


@final
class MixedPool2d(_Pool2d):
    """Pooling by a max(x) + (1 - a) mean(x) of each region x, with one learned number a for the layer.

    Of finite entries, with a = 1 it is `torch.nn.MaxPool2d` and with a = 0 `torch.nn.AvgPool2d` with
    ``count_include_pad=False``, both bit for bit, and stays so in training with ``requires_grad_(False)``.

    Args:
        kernel_size: Height and width of a region, at least 1; the paper's is 3.
        stride: Distance of regions, at least 1; ``kernel_size`` where left out, the paper's is 2.
        padding: Width of a border around the image that regions may reach into, at most half of ``kernel_size``; it
            counts for neither maximum nor mean.
        a: Share of the maximum to start from, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> MixedPool2d(2, a=0.75)(torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])).item()
        4.25
    """

    def __init__(self, kernel_size: _Size, stride: _Size | None = None, padding: _Size = 0, *, a: float = 0.5) -> None:
        super().__init__(kernel_size, stride, padding)
        if not 0 <= a <= 1:
            raise ValueError(f"a must be in [0, 1], got {a}")
        self.a = a
        self.share = nn.Parameter(torch.tensor(float(a)))

    def forward(self, x: Tensor) -> Tensor:
        """Pool images x, (N, C, H, W) or (C, H, W), floating, to the shape that `torch.nn.MaxPool2d` gives."""
        return _max_average(x, self.share, self._regions)


@final
class GatedMaxAvgPool2d(_Pool2d):
    """Pooling by s max(x) + (1 - s) mean(x) of each region x, where s = sigmoid(w . x) with a learned mask w.

    All regions and channels have one mask. With ``sigma`` 0 it starts as the mean of max and average pooling.

    Args:
        kernel_size: Height and width of a region and of the mask, at least 1; the paper's is 3.
        stride: Distance of regions, at least 1; ``kernel_size`` where left out, the paper's is 2.
        padding: Width of a border around the image that regions may reach into, at most half of ``kernel_size``; it
            counts for neither maximum nor mean, and adds nothing to w . x.
        sigma: The entries of the mask are drawn from a normal distribution of mean 0 and this standard deviation, at
            least 0; in the authors' code 0.1.
        generator: Source of the draw; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> GatedMaxAvgPool2d(2, sigma=0.0)(torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])).item()
        3.5
    """

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        *,
        sigma: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.sigma = sigma
        self.generator = generator
        self.mask = self._filters(1, 0.0, sigma, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Pool images x, (N, C, H, W) or (C, H, W), floating, to the shape that `torch.nn.MaxPool2d` gives."""
        return _max_average(x, _responses(x, self.mask, self._regions)[0].sigmoid().to(x.dtype), self._regions)


@final
class TreePool2d(_Pool2d):
    """Pooling by a binary tree of learned filters, the same for all channels.

    A leaf gives v . x of a region x; an inner node s left + (1 - s) right, where s = sigmoid(w . x); the root gives the
    result. Leaves that are all 1/N, where a region has N entries, make it average pooling whatever the gates.

    Args:
        kernel_size: Height and width of a region and of the filters, at least 1; the paper's is 3.
        stride: Distance of regions, at least 1; ``kernel_size`` where left out, the paper's is 2.
        padding: Width of a border of zeros around the image, at most half of ``kernel_size``.
        levels: Levels of the tree, at least 1; the paper's are 2 and 3. With 1 it is a learned filter without a gate.
        mean: What the entries of the leaves are on average at the start; 1/N where left out, in the authors' code 0.
        sigma: The entries of leaves and gates are drawn from normal distributions of this standard deviation, at least
            0; in the authors' code 0.1. With 0 all leaves are alike and stay so in training.
        generator: Source of the draw; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> tree = TreePool2d(2, sigma=0.0)
        >>> tree(torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])).item()
        2.0
        >>> {name: tuple(filters.shape) for name, filters in tree.named_parameters()}
        {'leaves': (2, 2, 2), 'gates': (1, 2, 2)}
    """

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        *,
        levels: int = 2,
        mean: float | None = None,
        sigma: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        if not isinstance(levels, int) or levels < 1:
            raise ValueError(f"levels must be a whole number of at least 1, got {levels!r}")
        self.levels = levels
        self.mean = mean
        self.sigma = sigma
        self.generator = generator
        start = 1 / math.prod(self._regions.kernel_size) if mean is None else mean
        if not math.isfinite(start):
            raise ValueError(f"mean must be finite, got {mean}")
        leaves = 2 ** (levels - 1)
        self.leaves = self._filters(leaves, start, sigma, generator)
        self.gates = self._filters(leaves - 1, 0.0, sigma, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Pool images x, (N, C, H, W) or (C, H, W), floating, to the shape that `torch.nn.MaxPool2d` gives."""
        found = _responses(x, torch.cat([self.leaves, self.gates]), self._regions)
        return _tree(found[: len(self.leaves)], found[len(self.leaves) :].sigmoid())


def replace_max_pools(
    model: nn.Module,
    first: Callable[[_Size, _Size, _Size], nn.Module] = TreePool2d,
    others: Callable[[_Size, _Size, _Size], nn.Module] = GatedMaxAvgPool2d,
) -> nn.Module:
    """Copy a model with other pooling of the same regions in the place of `torch.nn.MaxPool2d`.

    Args:
        model: The model; pooling that it applies as a function is not found.
        first: Makes what stands in the place of the first, in the order of `torch.nn.Module.modules`, from kernel size,
            stride and padding; the paper's best is a tree.
        others: Makes what stands in the place of each other one; the paper's best are gates.

    Returns:
        The copy; new modules are on the device and of the format of the model's first parameter.

    Raises:
        InputError: If the model holds no `torch.nn.MaxPool2d`, or one with dilation, ``ceil_mode`` or
            ``return_indices``.

    Example:
        >>> replace_max_pools(nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(3, 2)))
        Sequential(
          (0): TreePool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))
          (1): ReLU()
          (2): GatedMaxAvgPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(0, 0))
        )
    """
    made: list[nn.Module] = []
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)

    def build(old: nn.Module) -> nn.Module:
        if not isinstance(old, nn.MaxPool2d) or old.ceil_mode or old.return_indices or old.dilation not in (1, (1, 1)):
            raise InputError(f"model must hold no max pooling with dilation, ceil_mode or return_indices, got {old}")
        new = (others if made else first)(old.kernel_size, old.stride, old.padding)
        made.append(new if weight is None else new.to(weight))
        return made[-1]

    return replace_modules(
        model, lambda _, part: isinstance(part, nn.MaxPool2d), build, wanted="a module of type MaxPool2d"
    )
