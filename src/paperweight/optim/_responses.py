"""Layers whose weights respond to hyperparameters.

Source:
    M. MacKay et al., "Self-Tuning Networks", ICLR 2019, https://arxiv.org/abs/1903.03088: see `self_tuning_networks`.

Deviations:
    - The authors' layers multiply their first output by one more learned number, which the paper does not have; left
      out.
"""

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HyperConv2d", "HyperLinear", "best_response", "is_plain", "plain", "responding"]


def best_response(first: Tensor, second: Tensor, gates: Tensor, raw: Tensor) -> Tensor:
    """Compute the weights that a layer has under hyperparameters: first + (V raw), by rows, times second.

    Args:
        first: The elementary weights, or biases, (out, ...).
        second: Those that are gated, (out, ...).
        gates: V, (out, n).
        raw: Raw values of the hyperparameters, (n,).

    Returns:
        (out, ...).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> best_response(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([[3.0], [-2.0]]), torch.tensor([0.5]))
        tensor([[2.5000],
                [0.0000]])
    """
    if first.shape != second.shape or gates.shape != (len(first), *raw.shape) or raw.ndim != 1:
        raise ValueError(
            "first, second, gates and raw must have shapes (out, ...), (out, ...), (out, n) and (n,), got "
            f"{tuple(first.shape)}, {tuple(second.shape)}, {tuple(gates.shape)} and {tuple(raw.shape)}"
        )
    return first + (gates @ raw.to(gates)).view(-1, *[1] * (first.ndim - 1)) * second


class _Response(nn.Module):
    """What both layers have: two sets of weights, the gates, and the sum of two outputs."""

    def __init__(self, shape: tuple[int, ...], hyperparameters: int, bias: bool) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        bound = 1 / math.sqrt(math.prod(shape[1:]))

        def weight() -> nn.Parameter:
            return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5)))  # as torch's layers do

        def biases() -> nn.Parameter:
            return nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound))

        def gates() -> nn.Parameter:
            return nn.Parameter(0.01 * torch.randn(shape[0], hyperparameters))

        self.weight = weight()
        self.bias = biases() if bias else None
        self.second_weight = self.weight_gates = self.second_bias = self.bias_gates = None
        if hyperparameters:
            self.second_weight, self.weight_gates = weight(), gates()
            if bias:
                self.second_bias, self.bias_gates = biases(), gates()

    def _output(self, x: Tensor, raw: Tensor, layer: Callable[..., Tensor], dim: int) -> Tensor:
        """Add what the gates let through of the second output; ``dim`` is that of the outputs."""
        if x.ndim < 2 or raw.ndim != 2 or raw.shape[1] != self.hyperparameters or len(raw) not in (1, len(x)):
            raise ValueError(
                f"raw must have shape ({len(x) if x.ndim else 1}, {self.hyperparameters}) or (1, "
                f"{self.hyperparameters}), a row for each entry of the first dimension of x, got {tuple(raw.shape)} "
                f"for x of shape {tuple(x.shape)}"
            )
        y = layer(x, self.weight, self.bias)
        if self.second_weight is None or self.weight_gates is None:
            return y
        shape = [len(raw), *[1] * (y.ndim - 1)]
        shape[dim] = len(self.weight)
        y = y + F.linear(raw.to(self.weight), self.weight_gates).view(shape) * layer(x, self.second_weight, None)
        if self.second_bias is None or self.bias_gates is None:
            return y
        return y + (F.linear(raw.to(self.weight), self.bias_gates) * self.second_bias).view(shape)

    def under(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute weight and bias under raw values, (n,)."""
        if self.second_weight is None or self.weight_gates is None:
            return self.weight, self.bias
        weight = best_response(self.weight, self.second_weight, self.weight_gates, raw)
        if self.bias is None or self.second_bias is None or self.bias_gates is None:
            return weight, self.bias
        return weight, best_response(self.bias, self.second_bias, self.bias_gates, raw)


def _check_whole(least: int, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")


@final
class HyperLinear(_Response):
    """A linear layer that responds to hyperparameters, y = W x + b + (V raw) W' x + (C raw) b', by rows.

    With V = C = 0 it is the linear layer; without hyperparameters it is `torch.nn.Linear` bit for bit.

    Args:
        in_features: Entries of an input, at least 1.
        out_features: Entries of an output, at least 1.
        hyperparameters: Number of them, n, at least 0.
        bias: Whether there are biases.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> layer = HyperLinear(3, 5, hyperparameters=2)
        >>> layer(torch.zeros(4, 3), torch.zeros(4, 2)).shape
        torch.Size([4, 5])
    """

    def __init__(self, in_features: int, out_features: int, hyperparameters: int, bias: bool = True) -> None:
        _check_whole(1, {"in_features": in_features, "out_features": out_features})
        _check_whole(0, {"hyperparameters": hyperparameters})
        super().__init__((out_features, in_features), hyperparameters, bias)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            x: (N, ..., in_features).
            raw: Raw values for each example, (N, n), or for all, (1, n).

        Returns:
            (N, ..., out_features).
        """
        return self._output(x, raw, F.linear, -1)


@final
class HyperConv2d(_Response):
    """A convolution that responds to hyperparameters: see `HyperLinear`, rows being channels of the output.

    Args:
        in_channels: Channels of the input, a multiple of ``groups``.
        out_channels: Channels of the output, a multiple of ``groups``.
        kernel_size: Height and width of the kernels, each at least 1; one number for both.
        hyperparameters: Number of them, n, at least 0.
        stride: As of `torch.nn.Conv2d`.
        padding: As of `torch.nn.Conv2d`, by zeros.
        dilation: As of `torch.nn.Conv2d`.
        groups: As of `torch.nn.Conv2d`.
        bias: Whether there are biases.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> layer = HyperConv2d(1, 5, 3, hyperparameters=2, padding=1)
        >>> layer(torch.zeros(4, 1, 8, 8), torch.zeros(4, 2)).shape
        torch.Size([4, 5, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        hyperparameters: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sides = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        _check_whole(1, {"in_channels": in_channels, "out_channels": out_channels, "groups": groups})
        _check_whole(1, {"kernel_size": min(sides)})
        _check_whole(0, {"hyperparameters": hyperparameters})
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide in_channels and out_channels, got {groups}")
        super().__init__((out_channels, in_channels // groups, *sides), hyperparameters, bias)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W).
            raw: Raw values for each example, (N, n), or for all, (1, n).

        Returns:
            (N, out_channels, H', W'), as `torch.nn.Conv2d` has it.
        """

        def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

        return self._output(x, raw, convolved, 1)


def is_plain(layer: nn.Module) -> bool:
    """Say whether a layer is a linear one, or a convolution padded by zeros, and nothing that is derived from it."""
    return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")


def responding(layer: nn.Module, hyperparameters: int) -> nn.Module:
    """Make the layer that responds from a plain one, whose parameters become its first."""
    if isinstance(layer, nn.Linear):
        new = HyperLinear(layer.in_features, layer.out_features, hyperparameters, layer.bias is not None)
    elif isinstance(layer, nn.Conv2d):
        new = HyperConv2d(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel_size[0], layer.kernel_size[1]),
            hyperparameters,
            (layer.stride[0], layer.stride[1]),
            layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
            (layer.dilation[0], layer.dilation[1]),
            layer.groups,
            layer.bias is not None,
        )
    else:
        raise ValueError(f"layer must be a linear one or a convolution, got {type(layer).__name__}")
    for name, parameter in layer.named_parameters():
        setattr(new, name, parameter)
    return new


def plain(layer: nn.Module, raw: Tensor) -> nn.Module:
    """Make the plain layer of the weights that a layer has under raw values, (n,)."""
    if isinstance(layer, HyperLinear):
        new = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, layer.bias is not None)
    elif isinstance(layer, HyperConv2d):
        new = nn.utils.skip_init(
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
        )
    else:
        raise ValueError(f"layer must be one that responds, got {type(layer).__name__}")
    weight, bias = layer.under(raw)
    new.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone())
    return new
