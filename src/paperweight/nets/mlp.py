"""Fully connected networks, plain or with batch normalization; without a hidden layer it is softmax regression."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import final

from torch import Tensor, nn

from paperweight.nets._common import check_at_least, check_classifier

__all__ = ["MLP", "NormalisedMLP"]


@final
class MLP(nn.Module):
    """Flattens the image; then linear layers with ReLU between them.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        hidden: Width of each hidden layer; empty for softmax regression.

    Raises:
        ValueError: If a size is not a positive whole number.

    Example:
        >>> import torch
        >>> MLP((1, 8, 8), 10, hidden=(32,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, hidden: Sequence[int] = (256,)) -> None:
        super().__init__()
        check_classifier(shape, classes)
        for width in hidden:
            check_at_least(1, {"hidden": width})
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((prod(shape), *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear((prod(shape), *hidden)[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))


@final
class NormalisedMLP(nn.Module):
    """Flattens the image; then linear layers, each but the last followed by batch normalization and ReLU.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        hidden: Width of each hidden layer.

    Raises:
        ValueError: If a size is not a positive whole number.

    Example:
        >>> import torch
        >>> NormalisedMLP((1, 8, 8), 10, hidden=(32,))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, hidden: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        check_classifier(shape, classes)
        for width in hidden:
            check_at_least(1, {"hidden": width})
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((prod(shape), *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear((prod(shape), *hidden)[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))
