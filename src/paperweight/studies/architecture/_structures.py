"""Networks whose linear layers have a structure that is not learned, for comparison with one that is."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.gaudi_gblr import GBLRLinear, structure_linears
from paperweight.nets import replace_modules

__all__ = ["BlockDiagonal", "Fixed", "block_diagonal", "low_rank", "random_blocks"]


@final
class Fixed(nn.Module):
    """The factors of a layer of blocks, places and widths of which stay."""

    def __init__(self, layer: GBLRLinear) -> None:
        super().__init__()
        self.factors = nn.ParameterList(factor.detach().clone() for factor in layer.eval().factors())
        self.bias = layer.bias
        self.register_buffer("left_mask", (self.factors[0] != 0).float())
        self.register_buffer("right_mask", (self.factors[1] != 0).float())
        self.counts = layer.multiplications, layer.in_features * layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        left, right = (f * self.get_buffer(m) for f, m in zip(self.factors, ("left_mask", "right_mask"), strict=True))
        return F.linear(F.linear(x, right), left.T, self.bias)


def _fixed(model: nn.Module) -> nn.Module:
    return replace_modules(
        model,
        lambda _, part: isinstance(part, GBLRLinear),
        lambda part: Fixed(part) if isinstance(part, GBLRLinear) else part,
        wanted="a GBLRLinear",
    )


def low_rank(model: nn.Module, budget: float) -> nn.Module:
    return _fixed(structure_linears(model, budget))


def random_blocks(model: nn.Module, budget: float) -> nn.Module:
    """Blocks of uniform widths up to a half, so that four times as many as of width 1 take the budget on average."""
    new = structure_linears(model, 4 * budget)
    for layer in new.modules():
        if isinstance(layer, GBLRLinear):
            nn.init.uniform_(layer.row_widths, 0, 0.5)
            nn.init.uniform_(layer.column_widths, 0, 0.5)
    return _fixed(new)


@final
class BlockDiagonal(nn.Module):
    """A linear layer whose weight is 0 outside of equal blocks along its diagonal."""

    def __init__(self, layer: nn.Linear, budget: float) -> None:
        super().__init__()
        self.layer = layer
        row, column = (torch.arange(size, dtype=torch.float32) / size / budget for size in layer.weight.shape)
        mask = (row.floor()[:, None] == column.floor()).float()
        self.register_buffer("mask", mask)
        self.counts = int(mask.sum()), mask.numel()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight * self.get_buffer("mask"), self.layer.bias)


def block_diagonal(model: nn.Module, budget: float) -> nn.Module:
    return replace_modules(
        model,
        lambda _, part: isinstance(part, nn.Linear) and min(part.weight.shape) >= 32,
        lambda part: BlockDiagonal(part, budget) if isinstance(part, nn.Linear) else part,
        wanted="a linear layer of at least 32 inputs and outputs",
    )
