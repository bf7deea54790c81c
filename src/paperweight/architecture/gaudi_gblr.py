"""Generalized block-low-rank (GBLR) layers: a matrix as a sum of rank-1 blocks whose places and sizes are learned.

Low rank, block diagonal, block sparse and their sums are all of this form. Each block is the outer product of two
vectors that are 0 outside of an interval; the Gaudi function, a boxcar described by its Fourier coefficients, has a
gradient by start and width of the interval, even where the width is 0. A threshold on the widths shrinks blocks until
the layer takes as few multiplications as are wanted.
Cost: while training, two dense products of the rank and an inverse FFT for each block and side; afterwards one
multiplication for each entry of the two factors that is not 0.

Source:
    C. Lee, H.-S. Kim, "Differentiable Learning of Generalized Structured Matrices for Efficient Deep Neural Networks",
    ICLR 2024, https://arxiv.org/abs/2310.18882. Implemented: the GBLR matrix, the Gaudi function with its smoothing,
    the layer, the proximal step by which widths shrink to a budget, the start from singular vectors. Mask and step
    follow the authors' code, https://github.com/changwoolee/Gaudi-GBLR, from which facts alone were taken.

Deviations:
    - In evaluation mode starts and widths are rounded to whole entries and masks are 0 or 1; otherwise a mask that is
      no whole number of entries wide would be 0 nowhere, and nothing saved.
    - Starts need not be taken modulo 1 after a step, since the Gaudi function repeats; widths are clipped where they
      are used, too, so that other penalties than the proximal step can shrink them.
    - The threshold is switched off by the multiplications of all layers, whereas the authors compare the mean width.
    - Factors start as normal numbers such that the matrix has the variance of PyTorch's linear layer, or from singular
      vectors, blocks beyond their number with a left factor of 0; starts of intervals are uniform.
    - Convolutions are not replaced.
"""

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._gaudi_masks import boxcar_mask, gaudi_mask
from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = ["GBLRLinear", "boxcar_mask", "budget_penalty", "gaudi_mask", "proximal_step", "structure_linears"]

PAPER = Paper(
    title="Differentiable Learning of Generalized Structured Matrices for Efficient Deep Neural Networks",
    authors=("Changwoo Lee", "Hun-Seok Kim"),
    year=2023,
    url="https://arxiv.org/abs/2310.18882",
    provides={
        "GBLRLinear": "layer",
        "gaudi_mask": "function",
        "boxcar_mask": "function",
        "budget_penalty": "function",
        "proximal_step": "function",
        "structure_linears": "function",
    },
    claim="At equal multiplications, networks with learned structure are more accurate than with structure by hand.",
)


@final
class GBLRLinear(nn.Module):
    """A linear layer whose weight is a sum of rank-1 blocks, (m_R u)(m_C v)^T, with learned masks.

    In training mode masks are `gaudi_mask`, in evaluation mode `boxcar_mask`. With all widths 1 the weight is U V^T.

    Args:
        in_features: Numbers of an input, at least 1.
        out_features: Numbers of an output, at least 1.
        rank: Number of blocks, at least 1.
        bias: Whether each output has a learned number.
        init_width: Width of all blocks at the start, above 0 and at most 1.
        sigma: As of `gaudi_mask`; may be set anew at any time, so that masks get sharper, from 1 to 100 say.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> layer = GBLRLinear(8, 6, rank=3, init_width=0.5).eval()
        >>> layer(torch.zeros(2, 8)).shape, layer.multiplications
        (torch.Size([2, 6]), 21)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        init_width: float = 1.0,
        sigma: float | None = None,
    ) -> None:
        for name, number in {"in_features": in_features, "out_features": out_features, "rank": rank}.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
        if not 0 < init_width <= 1:
            raise ValueError(f"init_width must be above 0 and at most 1, got {init_width}")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma must be above 0 or None, got {sigma}")
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.init_width = init_width
        self.sigma = sigma
        size = (3 * in_features * rank * init_width**2) ** -0.25
        self.left = nn.Parameter(size * torch.randn(rank, out_features))
        self.right = nn.Parameter(size * torch.randn(rank, in_features))
        self.row_widths = nn.Parameter(torch.full((rank,), float(init_width)))
        self.row_starts = nn.Parameter(torch.rand(rank))
        self.column_widths = nn.Parameter(torch.full((rank,), float(init_width)))
        self.column_starts = nn.Parameter(torch.rand(rank))
        bound = 1 / math.sqrt(in_features)
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def factors(self) -> tuple[Tensor, Tensor]:
        """Compute the masked factors, (rank, out_features) and (rank, in_features); the weight is left^T right.

        In evaluation mode only what lies in the intervals is not 0, which is all that has to be stored.
        """
        rows, columns = self.row_widths.clamp(0, 1), self.column_widths.clamp(0, 1)
        if self.training:
            left = gaudi_mask(rows, self.row_starts, self.out_features, self.sigma)
            right = gaudi_mask(columns, self.column_starts, self.in_features, self.sigma)
        else:
            left = boxcar_mask(rows, self.row_starts, self.out_features)
            right = boxcar_mask(columns, self.column_starts, self.in_features)
        return self.left * left, self.right * right

    def forward(self, x: Tensor) -> Tensor:
        """Multiply.

        Args:
            x: (..., in_features).

        Returns:
            (..., out_features).
        """
        left, right = self.factors()
        return F.linear(F.linear(x, right), left.T, self.bias)

    @property
    def multiplications(self) -> int:
        """Multiplications that an example takes in evaluation mode: of blocks that are 0 in a factor none."""
        rows = (self.out_features * self.row_widths.detach().clamp(0, 1)).round()
        columns = (self.in_features * self.column_widths.detach().clamp(0, 1)).round()
        return int(((rows + columns) * (rows > 0) * (columns > 0)).sum())

    @property
    def share(self) -> Tensor:
        """Multiplications as a share of those of a dense layer, differentiable by the widths, a scalar."""
        rows, columns = self.row_widths.clamp(0, 1).sum(), self.column_widths.clamp(0, 1).sum()
        return rows / self.in_features + columns / self.out_features


def _layers(model: nn.Module) -> list[GBLRLinear]:
    layers = [part for part in model.modules() if isinstance(part, GBLRLinear)]
    if not layers:
        raise ValueError(
            f"model must hold a GBLRLinear, got {type(model).__name__} without one; call structure_linears"
        )
    return layers


def _share(layers: list[GBLRLinear]) -> Tensor:
    dense = [layer.in_features * layer.out_features for layer in layers]
    return sum((n * layer.share for n, layer in zip(dense, layers, strict=True)), torch.zeros(())) / sum(dense)


@torch.no_grad()
def proximal_step(model: nn.Module, threshold: float, budget: float) -> float:
    """Shrink all widths by a threshold, and clip them; to be called after each step of an optimizer.

    It is the proximal map of an l1 penalty on widths from 0 to 1, w <- clip(softshrink(w, threshold), 0, 1), with a
    threshold of 0 once the multiplications are within the budget.

    Args:
        model: Holds `GBLRLinear` layers, changed in place; what is frozen stays. Half formats are too coarse for steps
            of a thousandth.
        threshold: The paper's learning rate times weight of the penalty, finite and at least 0.
        budget: Multiplications of these layers as a share of those of dense ones, above 0.

    Returns:
        The share after the step.

    Raises:
        ValueError: If the model has no such layer, or an argument is outside its range.

    Example:
        >>> layer = GBLRLinear(8, 8, rank=4)
        >>> [round(proximal_step(layer, 0.3, budget=0.5), 2) for _ in range(4)]
        [0.7, 0.4, 0.4, 0.4]
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be finite and at least 0, got {threshold}")
    if not budget > 0:
        raise ValueError(f"budget must be above 0, got {budget}")
    layers = _layers(model)
    amount = threshold if _share(layers) > budget else 0.0
    for layer in layers:
        for widths in (layer.row_widths, layer.column_widths):
            if widths.requires_grad:
                widths.copy_((widths - amount).clamp(0, 1))
    return _share(layers).item()


def budget_penalty(model: nn.Module, budget: float) -> Tensor:
    """Compute max(0, share - budget) of the multiplications of all `GBLRLinear` layers, where no step can follow.

    Args:
        model: Holds `GBLRLinear` layers.
        budget: As of `proximal_step`.

    Returns:
        A scalar, differentiable by the widths.

    Raises:
        ValueError: If the model has no such layer, or ``budget`` is not above 0.

    Example:
        >>> budget_penalty(GBLRLinear(8, 8, rank=4), budget=0.25).item()
        0.75
    """
    if not budget > 0:
        raise ValueError(f"budget must be above 0, got {budget}")
    return F.relu(_share(_layers(model)) - budget)


def structure_linears(
    model: nn.Module,
    start: float = 1.0,
    *,
    sigma: float | None = None,
    replaced: Callable[[str, nn.Linear], bool] = lambda name, layer: min(layer.weight.shape) >= 32,
) -> nn.Module:
    """Copy a network with a `GBLRLinear` in place of its linear layers, started from their singular vectors.

    Args:
        model: The network, which stays as it was; what is frozen stays frozen.
        start: Multiplications at the start as a share of those of the dense layers, above 0; sets the number of
            blocks, which all start with width 1.
        sigma: As of `gaudi_mask`.
        replaced: Chooses among the linear layers, by name and layer; if left out, those with at least 32 inputs and
            outputs.

    Returns:
        The copy; its layers have the best approximation of their rank to the old weights.

    Raises:
        InputError: If there is nothing to replace.
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> structure_linears(model)[1].rank
        21
    """
    if not 0 < start < math.inf:
        raise ValueError(f"start must be finite and above 0, got {start}")

    def build(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"layer must be linear, got {type(layer).__name__}")
        out, inputs = layer.weight.shape
        rank = max(1, round(start * out * inputs / (out + inputs)))
        new = GBLRLinear(inputs, out, rank, layer.bias is not None, sigma=sigma)
        with torch.no_grad():
            u, sizes, v = torch.linalg.svd(layer.weight.float(), full_matrices=False)
            count = min(rank, len(sizes))
            new.left.zero_()
            roots = sizes[:count, None].sqrt()
            new.left[:count], new.right[:count] = roots * u.T[:count], roots * v[:count]
            new.requires_grad_(layer.weight.requires_grad)
            if new.bias is not None and layer.bias is not None:
                new.bias.copy_(layer.bias).requires_grad_(layer.bias.requires_grad)
        return new

    return replace_modules(
        model,
        lambda name, part: type(part) is nn.Linear and replaced(name, part),
        build,
        wanted="a linear layer of at least 32 inputs and outputs, or of those chosen",
    )
