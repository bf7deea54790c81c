"""Residual networks for small images (He, Zhang, Ren and Sun, Deep Residual Learning, CVPR 2016)."""

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets._common import check_at_least, check_classifier

__all__ = ["ResNet", "ResNet18"]


@final
class _PaddingShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new; no parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.new = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new))


def _projection_shortcut(inputs: int, outputs: int) -> nn.Module:
    """Option B: a 1x1 convolution of stride 2 and batch normalization."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))


@final
class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: nn.Module, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.residual(x))


def _body(channels: int, widths: list[int], blocks: int, shortcut: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Build everything up to the head: a 3x3 stem, then stages that each halve the map, save the first."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for width in widths:
        for _ in range(blocks):
            if width == inputs:
                layers.append(_Block(inputs, width, nn.Identity(), stride=1))
            else:
                layers.append(_Block(inputs, width, shortcut(inputs, width), stride=2))
            inputs = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


@final
class ResNet(nn.Module):
    """The residual network of section 4.2 of the paper, made for CIFAR.

    A 3x3 stem; three stages of basic blocks with ``width``, ``2 * width`` and ``4 * width`` channels, the second and
    third starting with stride 2 and a shortcut without parameters (option A: every second pixel, zeros for the new
    channels); the mean over all pixels. Works at any image size. Convolutions start from He's normal distribution.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        depth: Number of layers with weights, 6n + 2 for n blocks a stage; the paper has 20, 32, 44, 56, 110.
        width: Channels of the first stage; the paper has 16.

    Raises:
        ValueError: If a size is not a positive whole number, or ``depth`` is not 8, 14, 20, ...

    Example:
        >>> ResNet((3, 32, 32), 10, depth=20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, depth: int = 8, width: int = 16) -> None:
        super().__init__()
        check_classifier(shape, classes)
        check_at_least(1, {"depth": depth, "width": width})
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 with n of at least 1 (8, 14, 20, ...), got {depth}")
        widths = [width, 2 * width, 4 * width]
        self.body = _body(shape[0], widths, (depth - 2) // 6, _PaddingShortcut)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))


@final
class ResNet18(nn.Module):
    """The 18-layer residual network of the paper's table 1, with the stem that is usual for small images.

    A 3x3 stem of stride 1 without pooling, in place of the 7x7 one for ImageNet; four stages of two basic blocks with
    ``width`` times 1, 2, 4 and 8 channels, all but the first starting with stride 2 and a 1x1 convolution as shortcut
    (option B); the mean over all pixels. Works at any image size. Convolutions start from He's normal distribution.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        width: Channels of the first stage; the paper has 64.

    Raises:
        ValueError: If a size is not a positive whole number.

    Example:
        >>> ResNet18((3, 32, 32), 10, width=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 64) -> None:
        super().__init__()
        check_classifier(shape, classes)
        check_at_least(1, {"width": width})
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.body = _body(shape[0], widths, 2, _projection_shortcut)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))
