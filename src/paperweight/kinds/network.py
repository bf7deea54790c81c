"""The kind "network": a whole network."""

from typing import Protocol

from paperweight.kinds.layer import Layer

__all__ = ["Network"]


class Network(Layer, Protocol):
    """A layer that stands alone, from the data to the answer; its contract is that of `Layer`, law for law.

    Example:
        >>> import torch
        >>> network: Network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> network(torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
