"""The rules by which label tensors go through attention and products of tensors."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._atoms import BLANK, FIXED, Atoms, settled, spread, varies
from paperweight.merging._weights import Weights

__all__ = ["Mixing"]


@final
class Mixing:
    """The rules of attention and products.

    Args:
        atoms: The atoms of the model.
        weights: The rules of functions with weights.
    """

    def __init__(self, atoms: Atoms, weights: Weights) -> None:
        self.atoms = atoms
        self.weights = weights

    def attend(self, query: Tensor, key: Tensor, content: Tensor, heads: Tensor | None = None) -> Tensor:
        """Tie queries to keys, and make heads of blocks of all three.

        Args:
            query: Labels of the units of the queries, (heads, units).
            key: Those of the keys, of the same shape.
            content: Those of the values, (heads, units).
            heads: Labels of what each head adds to its scores, (heads,).

        Returns:
            Labels of what is mixed, those of the values.
        """
        self.atoms.tie(query, key)
        self.atoms.asked += [query, key]
        parts = [query, content] if heads is None else [query, content, heads[:, None]]
        self.atoms.blocks.append((self.weights.where(), torch.cat(parts, dim=1)))
        return content

    def scaled(self, query: Tensor, key: Tensor, content: Tensor, mask: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Give the labels of the result of `scaled_dot_product_attention` from those of its arguments."""
        if any(part.ndim > 3 and part.shape[-3] != query.shape[-3] for part in (key, content)):
            rule = "query, key and value must have the same number of heads"
            raise InputError(f"{rule}, in {self.weights.where()} they have not")
        axes = (-3, -1) if query.ndim > 3 else (-1,)
        grids = [self.atoms.same(part, axes) for part in (query, key, content)]
        heads = None
        if mask is not None and mask.ndim > 2 and query.ndim > 3 and mask.shape[-3] > 1 and (mask != BLANK).any():
            heads = self.atoms.same(mask, (-3,))
        query, key, content = (part if part.ndim > 1 else part[None] for part in grids)
        mixed = self.attend(query, key, content, heads)
        return spread(mixed if len(axes) > 1 else mixed[0], shape, [axis % len(shape) for axis in axes])

    def multihead(
        self, name: str, module: nn.MultiheadAttention, labels: Sequence[Tensor], shape: Sequence[int]
    ) -> Tensor:
        """Give the labels of the result of a `torch.nn.MultiheadAttention` from those of its first three arguments."""
        if module.bias_k is not None or module.add_zero_attn:
            raise InputError(f"attention must have no added key and value, {name!r} has; leave them out")
        size, heads = module.embed_dim, module.num_heads
        fused = module.in_proj_weight is not None
        parts: list[Tensor] = []
        for number, side in enumerate(("query", "key", "value")):
            matrix = module.in_proj_weight if fused else getattr(module, f"{side[0]}_proj_weight")
            self.atoms.tie(self.atoms.same(labels[number], (-1,)), self.atoms.axis(matrix, 1, "in"))
            rows = slice(number * size, (number + 1) * size)
            made = self.atoms.axis(matrix, 0, "out")[rows if fused else slice(None)]
            if module.in_proj_bias is not None:
                self.atoms.tie(made, self.atoms.axis(module.in_proj_bias, 0, "out")[rows])
            seen = spread(made, (*labels[number].shape[:-1], size), (labels[number].ndim - 1,))
            self.weights.see(name, side, seen)
            parts.append(made.view(heads, -1))
        mixed = spread(self.attend(*parts).flatten(), (*shape[:-1], size), (len(shape) - 1,))
        return self.weights.linear(mixed, module.out_proj.weight, module.out_proj.bias, shape)

    def product(self, a: Tensor, b: Tensor, shape: Sequence[int]) -> Tensor:
        """Give the labels of a product of two tensors of matrices, (..., N, K) and (..., K, M), that no layer holds.

        What is summed over is tied; where that depends on a further axis, it is that of the heads, which are blocks.

        Raises:
            InputError: If more than a sum and the heads is along units.
        """
        batch = tuple(shape[:-2])
        a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
        if not any(bool((part > FIXED).any()) for part in (a, b)):
            return torch.tensor(FIXED).expand(tuple(shape))
        many = [axis for axis in range(len(batch)) if varies(a, axis) or varies(b, axis)]
        rows, columns = varies(a, -2), varies(b, -1)
        summed = varies(a, -1) or varies(b, -2)
        if len(many) > 1 or rows + columns + summed > 1:
            rule = "a product of tensors must be along the units of one axis, and heads"
            raise InputError(f"{rule}, that in {self.weights.where()} is along more; use scaled_dot_product_attention")
        if summed:
            return self._scores(a, b, shape, many)
        left, right = ([*many, -2] if rows else many), ([*many, -1] if columns else many)
        first, second = (
            settled(self.atoms.same(part, axes)) if axes else part.amax() for part, axes in ((a, left), (b, right))
        )
        if not (rows or columns):
            return spread(self.atoms.tie(first, second), shape, many)
        units, heads = (first, second) if rows else (second, first)
        axes = [*many, len(shape) - (2 if rows else 1)]
        if many:
            self.atoms.blocks.append((self.weights.where(), torch.cat([heads[:, None], units], dim=1)))
        return spread(units, shape, axes)

    def _scores(self, a: Tensor, b: Tensor, shape: Sequence[int], many: Sequence[int]) -> Tensor:
        first, second = self.atoms.same(a, (*many, -1)), self.atoms.same(b, (*many, -2))
        self.atoms.tie(first, second)
        if not many:
            self.atoms.whole(first)
            return torch.tensor(BLANK).expand(tuple(shape))
        heads = self.atoms.fresh(len(first))
        self.atoms.asked += [first, second]
        self.atoms.blocks.append((self.weights.where(), torch.cat([heads[:, None], first], dim=1)))
        return spread(heads, shape, many)
