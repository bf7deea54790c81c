"""Orthogonal convolutions: a penalty that vanishes where a convolution keeps lengths, at every image size.

A convolution is a large matrix. Its rows, or where there are more rows than columns its columns, are orthonormal just
where kernels, shifted by multiples of the stride, have no inner product with each other and one with themselves. The
sum of squares of what is missing, a number of the kernels alone, tells the matrix's distance from such a one for every
image size, and bounds how far lengths are changed.
Cost: one small convolution of the kernels with themselves per layer and step.

Source:
    E. M. Achour, F. Malgouyres, F. Mamalet, "Existence, Stability and Scalability of Orthogonal Convolutional Neural
    Networks", JMLR 2022, https://arxiv.org/abs/2108.05623; the penalty is that of J. Wang, Y. Chen, R. Chakraborty,
    S. X. Yu, "Orthogonal Convolutional Neural Networks", CVPR 2020, https://arxiv.org/abs/1911.12207. Implemented: the
    penalty, the matrix, when orthogonal kernels exist, and the bound on the spectral error, all for circular padding.

Deviations:
    - Where there are more rows than columns, the penalty is L - (M - C S^2), which is 0 for orthonormal columns. Its
      gradient is that of L.
    - The factor of the spectral bound is derived here, from the Fourier transform of the matrix; it is smaller than the
      paper's by the root of a number of channels, and for columns also where S is above 1: see `isometry_bound`.
    - Kernels may be of even or unequal sides, and have different strides in rows and columns; the paper's are odd and
      square. `conv_matrix` wants odd sides, as circular padding does.
    - `OrthogonalityPenalty` leaves linear layers and transposed convolutions out, and takes each group of a grouped
      convolution for itself. Networks that pad with zeros have the penalty, but not its guarantee.
"""

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError

__all__ = ["OrthogonalityPenalty", "conv_matrix", "isometry_bound", "orthogonality_exists", "orthogonality_loss"]

PAPER = Paper(
    title="Existence, Stability and Scalability of Orthogonal Convolutional Neural Networks",
    authors=("El Mehdi Achour", "François Malgouyres", "Franck Mamalet"),
    year=2021,
    url="https://arxiv.org/abs/2108.05623",
    provides={
        "OrthogonalityPenalty": "regularizer",
        "conv_matrix": "function",
        "isometry_bound": "function",
        "orthogonality_exists": "function",
        "orthogonality_loss": "regularizer",
    },
    null={"weight": 0.0},
    claim="Penalising the kernels' inner products makes convolutions nearly isometric, and the network more robust.",
)

Pair = int | tuple[int, int]


def orthogonality_loss(kernel: Tensor, stride: Pair = 1) -> Tensor:
    """Compute the sum of squares by which shifted kernels fail to be orthonormal.

    With N x N positions after the stride, enough for shifts not to meet around the edge, N^2 times it is the squared
    Frobenius distance of K K^T, or with more rows than columns of K^T K, from the identity, where K is `conv_matrix`.

    Args:
        kernel: Kernels, (M, C, k, k'), M and C at least 1.
        stride: Step S between applications, at least 1, in rows and columns.

    Returns:
        A scalar, not below 0 but for rounding.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> eye = torch.eye(2)[:, :, None, None]
        >>> orthogonality_loss(eye).item(), orthogonality_loss(2 * eye).item()
        (0.0, 18.0)
    """
    _check_kernel(kernel)
    strides = _pair("stride", stride)
    outputs, inputs = kernel.shape[:2]
    products = _products(kernel, strides)
    middle = [side // 2 for side in products.shape[2:]]
    target = torch.zeros_like(products)
    target[:, :, middle[0], middle[1]] = torch.eye(outputs, dtype=kernel.dtype, device=kernel.device)
    return (products - target).square().sum() - max(0, outputs - inputs * strides[0] * strides[1])


def _products(kernel: Tensor, strides: tuple[int, int]) -> Tensor:
    """Give the inner products of kernels shifted against each other by multiples of the stride, (M, M, rows, cols)."""
    reach = [(side - 1) // step * step for side, step in zip(kernel.shape[2:], strides, strict=True)]
    return F.conv2d(kernel, kernel, padding=(reach[0], reach[1]), stride=strides)


def conv_matrix(kernel: Tensor, size: Pair, stride: Pair = 1) -> Tensor:
    """Build the matrix of a convolution with circular padding, the slow and exact way.

    Args:
        kernel: Kernels, (M, C, k, k'), k and k' odd.
        size: Height and width of an image, multiples of the stride, at least k and k'.
        stride: Step S between applications, at least 1.

    Returns:
        The matrix, (M height width / S^2, C height width), for an image flattened channel by channel.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> conv_matrix(torch.tensor([[[[1.0, 2.0, 3.0]]]]), size=(1, 3))
        tensor([[2., 3., 1.],
                [1., 2., 3.],
                [3., 1., 2.]])
    """
    _check_kernel(kernel)
    strides, sizes = _pair("stride", stride), _pair("size", size)
    sides = kernel.shape[2:]
    for side, length, step in zip(sides, sizes, strides, strict=True):
        if side % 2 == 0:
            raise ValueError(f"kernel must have odd sides for circular padding, got {tuple(sides)}")
        if length % step or length < side:
            raise ValueError(f"size must be multiples of the stride {strides}, at least {tuple(sides)}, got {sizes}")
    count = kernel.shape[1] * sizes[0] * sizes[1]
    images = torch.eye(count, dtype=kernel.dtype, device=kernel.device).reshape(count, kernel.shape[1], *sizes)
    half = [side // 2 for side in sides]
    padded = F.pad(images, (half[1], half[1], half[0], half[0]), mode="circular")
    return F.conv2d(padded, kernel, stride=strides).reshape(count, -1).T


def orthogonality_exists(outputs: int, inputs: int, side: int, stride: int = 1) -> bool:
    """Say whether any kernels of a size make the matrix orthogonal, with circular padding and images large enough.

    With M <= C S^2, orthonormal rows, it takes M <= C k^2; with M >= C S^2, orthonormal columns, it takes S <= k.

    Args:
        outputs: Output channels M, at least 1.
        inputs: Input channels C, at least 1.
        side: Side k of a kernel, at least 1.
        stride: Step S between applications, at least 1.

    Returns:
        Whether such kernels exist.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> orthogonality_exists(64, 3, side=3), orthogonality_exists(64, 3, side=1, stride=2)
        (True, False)
    """
    for name, value in (("outputs", outputs), ("inputs", inputs), ("side", side), ("stride", stride)):
        _check_whole(name, value)
    if outputs < inputs * stride**2:
        return outputs <= inputs * side**2
    return stride <= side


def isometry_bound(kernel: Tensor, stride: Pair = 1) -> float:
    """Bound by how much a convolution with circular padding changes squared lengths, for every image size.

    With more rows than columns (1 - e) |x|^2 <= |K x|^2 <= (1 + e) |x|^2 for every x; else the same holds for K^T, and
    the right part for K. The Fourier transform turns K K^T - 1, or K^T K - 1, into blocks, each a sum over n shifts of
    matrices whose squared norms sum to L: by Cauchy and Schwarz no block is larger than e = root(n L). There are
    n = 2 floor((k - 1) / S) + 1 shifts a side, at which kernels, or the pixels that one kernel reads, meet.

    Args:
        kernel: Kernels, (M, C, k, k').
        stride: Step S between applications, at least 1.

    Returns:
        The bound e; of no use where it is above 1.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> isometry_bound(torch.eye(3)[:, :, None, None])
        0.0
    """
    _check_kernel(kernel)
    strides = _pair("stride", stride)
    loss = max(0.0, orthogonality_loss(kernel.detach().double(), strides).item())
    if kernel.shape[0] > kernel.shape[1] * strides[0] * strides[1]:
        loss += 8 * torch.finfo(torch.float64).eps * kernel.shape[0]  # of the difference of two numbers of this size
    shifts = math.prod(2 * ((side - 1) // step) + 1 for side, step in zip(kernel.shape[2:], strides, strict=True))
    return math.sqrt(shifts * loss)


@final
class OrthogonalityPenalty(nn.Module):
    """The sum of `orthogonality_loss` over the two-dimensional convolutions of a network, times a weight.

    Add it to the loss. A convolution that stands at several places counts once. Kernels of a dilated convolution are
    taken with the zeros between their entries.

    Args:
        weight: The factor, finite and at least 0.

    Raises:
        ValueError: If ``weight`` is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
        >>> _ = nn.init.eye_(model[0].weight.data.view(2, 2)).mul_(2)
        >>> round(OrthogonalityPenalty(0.1)(model).item(), 4)
        1.8
    """

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and at least 0, got {weight}")
        self.weight = weight

    def forward(self, model: nn.Module) -> Tensor:
        """Compute the penalty.

        Args:
            model: A network that holds at least one `torch.nn.Conv2d`.

        Returns:
            A scalar.

        Raises:
            InputError: If it holds none.
        """
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        if not layers:
            raise InputError(f"model must hold a torch.nn.Conv2d, got {type(model).__name__} without one")
        return self.weight * torch.stack([_layer_loss(layer) for layer in layers]).sum()

    def extra_repr(self) -> str:
        """Say what stands between the brackets when the penalty is printed."""
        return f"weight={self.weight}"


def _layer_loss(layer: nn.Conv2d) -> Tensor:
    kernel = layer.weight
    if layer.dilation != (1, 1):
        rows, cols = layer.dilation
        height, width = ((side - 1) * step + 1 for side, step in zip(kernel.shape[2:], (rows, cols), strict=True))
        spread = kernel.new_zeros(*kernel.shape[:2], height, width)
        spread[:, :, ::rows, ::cols] = kernel
        kernel = spread
    groups = kernel.chunk(layer.groups)
    return torch.stack([orthogonality_loss(group, (layer.stride[0], layer.stride[1])) for group in groups]).sum()


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be a whole number or two of them, got {value!r}")
    for part in pair:
        _check_whole(name, part)
    return pair


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_kernel(kernel: Tensor) -> None:
    if kernel.ndim != 4 or not kernel.numel() or not kernel.is_floating_point():
        raise ValueError(
            f"kernel must be floating, of shape (M, C, k, k'), got {kernel.dtype} of shape {tuple(kernel.shape)}"
        )
