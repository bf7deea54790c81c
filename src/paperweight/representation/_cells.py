"""Embeddings by identity and auxiliary label: what is checked of them, and the mean of each cell."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Cells", "cell_means", "check_embeddings", "check_finite", "check_numbers", "check_whole", "precise"]


class Cells(NamedTuple):
    """The mean embedding of each identity with each auxiliary label, and whether there is one.

    Attributes:
        means: (identities, aux labels, d); 0 where a cell is empty.
        filled: (identities, aux labels), whether it is not.
    """

    means: Tensor
    filled: Tensor


def check_embeddings(z: Tensor, name: str = "z") -> None:
    """Refuse what is no batch of embeddings, floating, (N, d)."""
    if z.ndim != 2 or not z.numel() or not z.is_floating_point():
        raise ValueError(f"{name} must be floating, of shape (N, d) without a 0, got {z.dtype} {tuple(z.shape)}")


def check_finite(z: Tensor, name: str = "z") -> None:
    """Refuse what is no batch of finite embeddings, floating, (N, d)."""
    check_embeddings(z, name)
    if not z.isfinite().all():
        raise ValueError(f"{name} must be finite, got {int((~z.isfinite()).sum())} numbers that are not")


def check_numbers(name: str, given: Tensor, count: int) -> None:
    """Refuse what is not one whole number, int64, for each of so many embeddings."""
    if given.dtype != torch.int64 or given.shape != (count,):
        raise ValueError(
            f"{name} must be int64 of shape ({count},), one for each embedding, got {given.dtype} {tuple(given.shape)}"
        )


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse what is not a whole number of at least so much."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def precise(z: Tensor) -> Tensor:
    """Give embeddings in float32, or in float64 where they are."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def cell_means(z: Tensor, identity: Tensor, aux: Tensor, aux_labels: int) -> Cells:
    """Average embeddings over each identity and auxiliary label; those whose label is below 0 are left out.

    Args:
        z: Embeddings, (N, d).
        identity: Whose they are, any whole numbers, (N,).
        aux: Auxiliary labels below ``aux_labels``, (N,).
        aux_labels: How many there are.
    """
    names, row = identity.unique(return_inverse=True)
    known = aux >= 0
    cell = (row * aux_labels + aux)[known]
    count = len(names) * aux_labels
    sums = z.new_zeros(count, z.shape[1]).index_add(0, cell, z[known])
    sizes = torch.bincount(cell, minlength=count)
    means = sums / sizes.clamp(min=1)[:, None].to(z.dtype)
    return Cells(means.view(len(names), aux_labels, z.shape[1]), (sizes > 0).view(len(names), aux_labels))
