"""Deep convolutional networks of 2011: convolutions that skip pixels, max pooling, scaled tanh, plain backpropagation.

A network is written as its layers: 20C4-MP2-40C5-MP3-150N has 20 maps by kernels of 4 pixels, pooling over squares of
2, and so on, and a last layer with an output for each class. A map may see only some of those below, drawn at random.
Cost: that of its convolutions; a map that sees few others saves nothing, as torch multiplies by zeros.

Source:
    D. C. Ciresan, U. Meier, J. Masci, L. M. Gambardella, J. Schmidhuber, "High-Performance Neural Networks for Visual
    Object Classification", 2011, https://arxiv.org/abs/1102.0183. Implemented: the layers, sizes of maps, connection
    tables, activation and initial weights. Left out: distorted and filtered images, training by single images, the GPU
    code.

Deviations:
    - The last layer gives logits, whatever the paper's outputs pass through.
    - A skipping factor S is written behind the kernel, as in 20C5S1, and is a stride of S + 1; ours is this notation.
    - Pixels that are left over at the right and lower edge are dropped.
    - Max pooling gives way to means where the layer says AP, a control of ours.
    - The report was not at hand, only its abstract and descriptions of it: which layers have partly connected maps, and
      whether biases begin as weights do, is uncertain.
"""

import re
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["CiresanCNN", "TableConv", "connection_table", "map_size", "scaled_tanh"]

PAPER = Paper(
    title="High-Performance Neural Networks for Visual Object Classification",
    authors=("Dan C. Ciresan", "Ueli Meier", "Jonathan Masci", "Luca M. Gambardella", "Juergen Schmidhuber"),
    year=2011,
    url="https://arxiv.org/abs/1102.0183",
    provides={
        "CiresanCNN": "network",
        "TableConv": "layer",
        "connection_table": "function",
        "map_size": "function",
        "scaled_tanh": "function",
    },
    null={"fan_in": None},
    claim="Deep convolutional networks trained by simple backpropagation are better than more shallow ones.",
)

_MAPS = re.compile(r"(?P<maps>[1-9]\d*)C(?P<kernel>[1-9]\d*)(S(?P<skip>\d+))?|(?P<pool>[MA])P(?P<square>[1-9]\d*)")
_NEURONS = re.compile(r"([1-9]\d*)N")


def _check(numbers: dict[str, int], least: int = 1) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")


def map_size(size: int, kernel: int, skip: int = 0) -> int:
    """Compute (M - K) / (S + 1) + 1, pixels a side of a map of the next layer.

    Args:
        size: Pixels a side of a map, M, at least ``kernel``.
        kernel: Pixels a side of a kernel, K, at least 1.
        skip: Pixels that are skipped from one place of a kernel to the next, S, at least 0.

    Returns:
        The size, rounded down where a kernel does not fit a last time.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> map_size(29, 4), map_size(29, 5, skip=1)
        (26, 13)
    """
    _check({"kernel": kernel})
    _check({"skip": skip}, least=0)
    _check({"size": size}, least=kernel)
    return (size - kernel) // (skip + 1) + 1


def scaled_tanh(x: Tensor) -> Tensor:
    """Compute 1.7159 tanh(2 x / 3), which is about 1 at 1 and -1 at -1.

    Args:
        x: A floating-point tensor of any shape.

    Returns:
        The activations, of the shape of ``x``.

    Example:
        >>> scaled_tanh(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-1.0000,  0.0000,  1.0000])
    """
    return 1.7159 * torch.tanh(2 / 3 * x)


def connection_table(
    in_maps: int, out_maps: int, fan_in: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which maps of a layer each map of the next one sees, every set of ``fan_in`` of them alike likely.

    Args:
        in_maps: Maps of the layer, at least 1.
        out_maps: Maps of the next layer, at least 1.
        fan_in: How many a map sees, from 1 to ``in_maps``; all where left out.
        generator: Source of the draws, on the CPU; torch's global stream where left out.

    Returns:
        The table, bool, (out_maps, in_maps).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> connection_table(4, 3, fan_in=2, generator=torch.Generator().manual_seed(0)).sum(dim=1)
        tensor([2, 2, 2])
    """
    _check({"in_maps": in_maps, "out_maps": out_maps})
    if fan_in is None:
        return torch.ones(out_maps, in_maps, dtype=torch.bool)
    _check({"fan_in": fan_in})
    if fan_in > in_maps:
        raise ValueError(f"fan_in must be at most in_maps, {in_maps}, got {fan_in}")
    order = torch.rand(out_maps, in_maps, generator=generator).argsort(dim=1)
    return order < fan_in


@final
class TableConv(nn.Conv2d):
    """A convolution without padding in which each map sees only those of a table; with all it is `torch.nn.Conv2d`.

    Args:
        in_maps: Maps of the input, at least 1.
        out_maps: Maps of the output, at least 1.
        kernel: Pixels a side of a kernel, at least 1.
        skip: Pixels that are skipped from one place of a kernel to the next, at least 0.
        fan_in: How many maps of the input a map sees, drawn at random; all where left out.
        generator: Source of that draw, on the CPU; torch's global stream where left out.

    Attributes:
        table: What sees what, bool, (out_maps, in_maps), a buffer.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> TableConv(6, 16, 5, skip=1, fan_in=3)(torch.zeros(2, 6, 29, 29)).shape
        torch.Size([2, 16, 13, 13])
    """

    table: Tensor

    def __init__(
        self,
        in_maps: int,
        out_maps: int,
        kernel: int,
        skip: int = 0,
        fan_in: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _check({"kernel": kernel})
        _check({"skip": skip}, least=0)
        table = connection_table(in_maps, out_maps, fan_in, generator)
        super().__init__(in_maps, out_maps, kernel, stride=skip + 1)
        self.in_maps, self.out_maps, self.kernel, self.skip = in_maps, out_maps, kernel, skip
        self.fan_in, self.generator = fan_in, generator
        self.register_buffer("table", table)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve.

        Args:
            input: (N, in_maps, H, W), H and W at least ``kernel``.

        Returns:
            (N, out_maps, H', W'), see `map_size`.
        """
        weight = self.weight if self.fan_in is None else self.weight * self.table[:, :, None, None]
        return self._conv_forward(input, weight, self.bias)


class _ScaledTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scaled_tanh(x)


@final
class CiresanCNN(nn.Module):
    """A convolutional network that is written as its layers, with scaled tanh after convolutions and neurons.

    Initial weights are uniform from -0.05 to 0.05, as in the paper.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        layers: The layers, with a dash between two: 20C4 for 20 maps by kernels of 4 pixels a side, 20C4S1 where they
            skip one pixel from place to place, MP2 for max pooling over squares of 2 pixels, AP2 for their means; then
            150N for 150 neurons.
        fan_in: How many maps below a map sees, where there are more, drawn at random; all where left out.
        generator: Source of tables and weights, on the CPU; torch's global stream where left out.

    Raises:
        ValueError: If an argument is outside its range, or a layer does not fit the maps below it.

    Example:
        >>> network = CiresanCNN((1, 29, 29), classes=10)
        >>> network(torch.zeros(5, 1, 29, 29)).shape, sum(p.numel() for p in network.parameters())
        (torch.Size([5, 10]), 76040)
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        layers: str = "20C4-MP2-40C5-MP3-150N",
        fan_in: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"shape must be (channels, height, width), got {shape}")
        for side in shape:
            _check({"shape": side})
        _check({"classes": classes, **({} if fan_in is None else {"fan_in": fan_in})})
        self.shape, self.classes, self.layers, self.fan_in, self.generator = shape, classes, layers, fan_in, generator
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            self.body, self.head = self._built(shape, classes, layers)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.05, 0.05, generator=generator)

    def _built(self, shape: tuple[int, int, int], classes: int, layers: str) -> tuple[nn.Sequential, nn.Linear]:
        """Build what the layers say, and the last one."""
        channels, height, width = shape
        body: list[nn.Module] = []
        neurons = 0
        for layer in layers.split("-"):
            if found := _NEURONS.fullmatch(layer):
                body += [] if neurons else [nn.Flatten()]
                before, neurons = neurons or channels * height * width, int(found[1])
                body += [nn.Linear(before, neurons), _ScaledTanh()]
                continue
            found = None if neurons else _MAPS.fullmatch(layer)
            if not found:
                raise ValueError(
                    f"layers must be like 20C4-MP2-20C4S1-AP2, and at last 150N, got {layer!r} in {layers}"
                )
            kernel, maps = int(found["kernel"] or found["square"]), found["maps"]
            skip = int(found["skip"] or 0) if maps else kernel - 1
            if kernel > min(height, width):
                size = f"maps of {height} x {width} pixels"
                raise ValueError(f"layers must fit, got {layers}, in which {layer!r} does not fit {size}; leave it out")
            height, width = map_size(height, kernel, skip), map_size(width, kernel, skip)
            if maps:
                seen = None if self.fan_in is None or self.fan_in >= channels else self.fan_in
                body += [TableConv(channels, int(maps), kernel, skip, seen, self.generator), _ScaledTanh()]
                channels = int(maps)
            else:
                body.append((nn.MaxPool2d if found["pool"] == "M" else nn.AvgPool2d)(kernel))
        body += [] if neurons else [nn.Flatten()]
        return nn.Sequential(*body), nn.Linear(neurons or channels * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.body(x))
