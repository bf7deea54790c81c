"""Networks that see images at half their size, which makes a study of convolutions four times as cheap."""

from collections.abc import Callable

from torch import nn

__all__ = ["halved"]

Build = Callable[[tuple[int, int, int], int], nn.Module]


def halved(build: Build) -> Build:
    """Give what builds a network with the mean over squares of 2x2 pixels before it.

    Args:
        build: Builds the network from the shape of an image and the number of classes.

    Returns:
        The same for images of twice the height and width; where these are odd, the last row or column is left out.

    Example:
        >>> import torch
        >>> from paperweight.nets import LeNet
        >>> halved(LeNet)((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def with_means(shape: tuple[int, int, int], classes: int) -> nn.Module:
        channels, height, width = shape
        return nn.Sequential(nn.AvgPool2d(2), build((channels, height // 2, width // 2), classes))

    return with_means
