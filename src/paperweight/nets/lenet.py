"""Convolutional network of the size of LeNet-5 (LeCun et al., 1998), with ReLU and max pooling."""

from typing import final

from torch import Tensor, nn

from paperweight.nets._common import check_at_least, check_classifier

__all__ = ["LeNet"]


@final
class LeNet(nn.Module):
    """Two 5x5 convolutions (6 and 16 channels), each with ReLU and 2x2 max pooling; then 120, 84, classes.

    The first convolution is padded by 2. The second is unpadded, as in LeNet-5, along a side of 16 pixels or
    more, and padded by 2 along a shorter one: so the last map has at least 2 pixels a side for every image from 8x8.

    Args:
        shape: Channels, height and width of one image; height and width from 8.
        classes: Number of logits.

    Raises:
        ValueError: If a size is not a positive whole number, or the image is smaller than 8x8.

    Example:
        >>> import torch
        >>> LeNet((1, 28, 28), 10)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        check_classifier(shape, classes)
        channels, height, width = shape
        check_at_least(8, {"height": height, "width": width})
        padding = (2 if height < 16 else 0, 2 if width < 16 else 0)
        rows, columns = ((side // 2 - 4 + 2 * pad) // 2 for side, pad in zip(shape[1:], padding, strict=True))
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * rows * columns, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))
