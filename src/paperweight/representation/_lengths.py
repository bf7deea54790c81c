"""Lengths and directions of vectors that may be 0."""

import torch
from torch import Tensor

__all__ = ["length", "root", "unit"]


def root(squared: Tensor) -> Tensor:
    """Compute the square root, with gradient 0 at 0."""
    positive = squared > 0
    return torch.where(positive, squared.where(positive, 1).sqrt(), 0)


def length(vectors: Tensor) -> Tensor:
    """Compute the Euclidean length along the last dimension, which stays, with gradient 0 at 0."""
    return root(vectors.square().sum(dim=-1, keepdim=True))


def unit(vectors: Tensor) -> Tensor:
    """Compute vectors of length 1 along the last dimension; 0 stays 0."""
    lengths = length(vectors)
    return vectors / lengths.where(lengths > 0, 1)
