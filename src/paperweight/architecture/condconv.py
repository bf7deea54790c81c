"""Conditionally parameterized convolutions (CondConv): each example is convolved with a kernel mixed for it alone.

A layer has several expert kernels of the same size, and a small linear layer on the mean of its inputs that says how
much of each an example gets. Mixing kernels first and convolving once gives what mixing the outputs of all experts
would, at the price of one convolution; the numbers learned grow with the experts.
Cost: beside the convolution, ``num_experts`` multiplications for each number of a kernel and each example. Where maps
are large this is little; where a kernel has more numbers than a map has pixels, reading and writing it takes longer
than the convolution (see benchmarks/condconv.py).

Source:
    B. Yang, G. Bender, Q. V. Le, J. Ngiam, "CondConv: Conditionally Parameterized Convolutions for Efficient
    Inference", NeurIPS 2019, https://arxiv.org/abs/1904.04971. Implemented: the mixture of kernels, the routing
    function by sigmoid and by softmax, the layer for full, grouped and depthwise convolutions. That biases are mixed,
    too, and that each expert starts by itself was read in the authors' code (tensorflow/tpu, Apache 2.0).

Deviations:
    - Every layer has a routing of its own; in the authors' EfficientNet the convolutions of a block share one.
    - The routing starts as PyTorch's linear layers do, where the authors' starts by Glorot's rule with biases of 0.
    - The authors convolve example by example; here examples are groups of one convolution, in parts whose kernels
      stay in the cache, and with channels last where the channels of a group are no multiple of 8.
    - `condition_convolutions` starts each further expert as the old weights in random order, so that all have the
      distribution that the network had.
    - A fully connected layer has no class of its own: it is a convolution of 1x1 maps by kernels of 1x1.
"""

import math
from collections.abc import Callable
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = ["CondConv2d", "condition_convolutions", "conditional_conv2d", "route"]

PAPER = Paper(
    title="CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    authors=("Brandon Yang", "Gabriel Bender", "Quoc V. Le", "Jiquan Ngiam"),
    year=2019,
    url="https://arxiv.org/abs/1904.04971",
    provides={
        "CondConv2d": "layer",
        "route": "function",
        "conditional_conv2d": "function",
        "condition_convolutions": "function",
    },
    null={"num_experts": 1, "routing": "softmax"},
    claim="Networks with CondConv layers are more accurate than plain ones at nearly the same cost of inference.",
)

Routing = Literal["sigmoid", "softmax"]

_ROUTINGS = {"sigmoid": torch.sigmoid, "softmax": lambda scores: scores.softmax(1)}
_NUMBERS = 2**20  # of kernels that are mixed at once


def route(features: Tensor, weight: Tensor, bias: Tensor, routing: Routing = "sigmoid") -> Tensor:
    """Compute how much of each expert each example gets, alpha = sigmoid(features R + bias).

    Args:
        features: (N, features), for a convolution the means of its inputs over all pixels.
        weight: R, transposed, (experts, features).
        bias: (experts,).
        routing: By "sigmoid", each for itself as in the paper, or by "softmax", so that they add up to 1.

    Returns:
        alpha, (N, experts), from 0 to 1.

    Raises:
        ValueError: If ``routing`` is not one of the two.

    Example:
        >>> route(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.zeros(2))
        tensor([[0.5000, 0.1192]])
    """
    if routing not in _ROUTINGS:
        raise ValueError(f"routing must be 'sigmoid' or 'softmax', got {routing!r}")
    return _ROUTINGS[routing](F.linear(features, weight, bias))


def conditional_conv2d(
    x: Tensor,
    alphas: Tensor,
    experts: Tensor,
    biases: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve each example with its own kernel, the sum over i of alpha_i W_i.

    Args:
        x: Inputs, (N, C, H, W).
        alphas: How much of each expert each example gets, (N, experts).
        experts: W, (experts, out, C / groups, height, width).
        biases: Of the experts, mixed in the same way, (experts, out).
        stride: As of `torch.nn.functional.conv2d`.
        padding: As of `torch.nn.functional.conv2d`.
        dilation: As of `torch.nn.functional.conv2d`.
        groups: As of `torch.nn.functional.conv2d`.

    Returns:
        (N, out, H', W').

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> x, experts = torch.ones(2, 1, 2, 2), torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
        >>> conditional_conv2d(x, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), experts).amax((1, 2, 3))
        tensor([1.0000, 5.5000])
    """
    if experts.ndim != 5 or alphas.shape != (len(x), len(experts)):
        raise ValueError(
            "alphas and experts must have shapes (N, experts) and (experts, out, in, height, width), got "
            f"{tuple(alphas.shape)} and {tuple(experts.shape)} for {len(x)} examples"
        )
    if not len(x):
        return F.conv2d(x, experts[0], None if biases is None else biases[0], stride, padding, dilation, groups)
    outputs: list[Tensor] = []
    part = max(1, _NUMBERS // experts[0].numel())
    for inputs, shares in zip(x.split(part), alphas.split(part), strict=True):
        kernels = (shares @ experts.flatten(1)).view(-1, *experts.shape[2:])
        stacked = inputs.reshape(1, -1, *inputs.shape[2:])
        if experts.shape[2] % 8:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        mixed_biases = None if biases is None else (shares @ biases).flatten()
        output = F.conv2d(stacked, kernels, mixed_biases, stride, padding, dilation, groups * len(inputs))
        outputs.append(output.reshape(len(inputs), experts.shape[1], *output.shape[2:]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _check(routing: str, numbers: dict[str, int]) -> None:
    if routing not in _ROUTINGS:
        raise ValueError(f"routing must be 'sigmoid' or 'softmax', got {routing!r}")
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")


@final
class CondConv2d(nn.Module):
    """A convolution whose kernel is mixed for each example from several experts.

    One expert with routing by softmax is `torch.nn.Conv2d` bit for bit.

    Args:
        in_channels: Channels of the input, a multiple of ``groups``.
        out_channels: Channels of the output, a multiple of ``groups``.
        kernel_size: Height and width of the kernels, each at least 1; one number for both.
        num_experts: Number of experts, at least 1; the authors' EfficientNets have 4 or 8.
        stride: As of `torch.nn.Conv2d`.
        padding: As of `torch.nn.Conv2d`, by zeros.
        dilation: As of `torch.nn.Conv2d`.
        groups: As of `torch.nn.Conv2d`.
        bias: Whether each expert has a learned number for each channel of the output.
        routing: As of `route`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> layer = CondConv2d(3, 4, 5, padding=2, num_experts=8)
        >>> layer(torch.zeros(2, 3, 6, 6)).shape, layer.alphas(torch.zeros(2, 3, 6, 6)).shape
        (torch.Size([2, 4, 6, 6]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        num_experts: int = 8,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        routing: Routing = "sigmoid",
    ) -> None:
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        channels = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
        _check(routing, {**channels, "kernel_size": min(height, width), "num_experts": num_experts})
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide in_channels and out_channels, got {groups}")
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.num_experts = num_experts
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.bias = bias
        self.routing: Routing = routing
        self.experts = nn.Parameter(torch.empty(num_experts, out_channels, in_channels // groups, height, width))
        for expert in self.experts:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))  # as nn.Conv2d does
        bound = 1 / math.sqrt(self.experts[0, 0].numel())
        self.biases = nn.Parameter(torch.empty(num_experts, out_channels).uniform_(-bound, bound)) if bias else None
        self.router = nn.Linear(in_channels, num_experts)

    def alphas(self, x: Tensor) -> Tensor:
        """Compute how much of each expert each example gets.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, num_experts).
        """
        return route(x.mean((2, 3)), self.router.weight, self.router.bias, self.routing)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W).

        Returns:
            (N, out_channels, H', W'), as `torch.nn.Conv2d` has it.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must have shape (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if self.num_experts == 1 and self.routing == "softmax":
            bias = None if self.biases is None else self.biases[0]
            return F.conv2d(x, self.experts[0], bias, self.stride, self.padding, self.dilation, self.groups)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return conditional_conv2d(x, self.alphas(x), self.experts, self.biases, *geometry)


def condition_convolutions(
    model: nn.Module,
    num_experts: int = 8,
    *,
    routing: Routing = "sigmoid",
    replaced: Callable[[str, nn.Conv2d], bool] = lambda name, layer: layer.in_channels > 3,
) -> nn.Module:
    """Copy a model with a `CondConv2d` in place of each convolution that does not read the images themselves.

    The first expert has the weights of the convolution, each other one has them in a random order of its own, so that
    it starts from the same distribution; the model is to be trained after.

    Args:
        model: The model, which stays as it was.
        num_experts: Number of experts, at least 1.
        routing: As of `route`.
        replaced: Chooses among the convolutions padded by zeros, by name and layer; if left out, those of more than 3
            channels. The authors' EfficientNets have CondConv in the last three of seven stages.

    Returns:
        The copy.

    Raises:
        InputError: If there is nothing to replace.
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 6, 3))
        >>> condition_convolutions(model, num_experts=2)[2].experts.shape
        torch.Size([2, 6, 4, 3, 3])
    """
    _check(routing, {"num_experts": num_experts})

    def build(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, nn.Conv2d):
            raise ValueError(f"layer must be a convolution, got {type(layer).__name__}")
        new = CondConv2d(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel_size[0], layer.kernel_size[1]),
            num_experts,
            (layer.stride[0], layer.stride[1]),
            layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
            (layer.dilation[0], layer.dilation[1]),
            layer.groups,
            layer.bias is not None,
            routing,
        )
        with torch.no_grad():
            for number, expert in enumerate(new.experts):
                weight = layer.weight.flatten()
                expert.copy_((weight if number == 0 else weight[torch.randperm(len(weight))]).view_as(expert))
            new.experts.requires_grad_(layer.weight.requires_grad)
            if new.biases is not None and layer.bias is not None:
                new.biases.copy_(layer.bias.expand_as(new.biases)).requires_grad_(layer.bias.requires_grad)
        return new

    return replace_modules(
        model,
        lambda name, part: type(part) is nn.Conv2d and part.padding_mode == "zeros" and replaced(name, part),
        build,
        wanted="a convolution padded by zeros of more than 3 channels, or of those chosen",
    )
