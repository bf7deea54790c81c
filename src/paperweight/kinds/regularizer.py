"""The kind "regularizer": a penalty added to a loss."""

from typing import Protocol

from paperweight.kinds.loss import Loss

__all__ = ["Regularizer"]


class Regularizer(Loss, Protocol):
    """A loss without targets, on activations, weights or a network; its contract is that of `Loss`, law for law.

    Example:
        >>> import torch
        >>> penalty: Regularizer = torch.linalg.norm
        >>> penalty(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
