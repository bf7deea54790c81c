"""VanillaNet: an image classifier of few, plain layers, without shortcuts or attention.

A layer is a 1x1 convolution, a maximum over small windows and an activation that sums over a pixel's neighbours. In
training each layer is two convolutions with an activation between them that fades into the identity; so they end as
one, and the network runs as shallow as it looks.
Cost: in training about twice the convolutions; deployed, a layer costs its 1x1 convolution and, for each channel and
pixel, (2 act_num + 1)^2 multiplications (49 by default), which outweigh the convolution in layers of few channels.

Source:
    H. Chen, Y. Wang, J. Guo, D. Tao, "VanillaNet: the Power of Minimalism in Deep Learning", NeurIPS, 2023,
    https://arxiv.org/abs/2305.12972. Implemented: the network, deep training, the series informed activation and the
    merging. Deployed, VanillaNet-5 to VanillaNet-8 and VanillaNet-13 have the published numbers of parameters.

Deviations:
    - The series activation has no shift b_c of its own, as in the authors' code: the normalization before it learns
      one, and the maximum between the two leaves it what it is.
    - Convolutions before a normalization have no bias, which would change nothing; the authors' have one.
    - Images of any size that leaves a pixel, by the arguments ``patch`` and ``strides``; ImageNet's patch is 4.
    - ``deep=False`` leaves deep training out, for comparisons; the paper does not say how its networks without were
      built.
    - Dropout, the adaptive pooling of the largest model and the recipe (LAMB, binary cross-entropy, mixup, RandAugment,
      300 epochs) are left out. In the recipe lam grows linearly over the first 100 epochs and stays at 1.
    - Merging makes a new network in float64, rounded at the end; the authors change theirs in place.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from paperweight.architecture._vanilla_layers import (
    EPS,
    FadingReLU,
    SeriesActivation,
    check_at_least,
    convolution,
    fading_convolution,
)
from paperweight.catalogue import Paper

__all__ = ["SeriesActivation", "VanillaNet", "deployed"]

PAPER = Paper(
    title="VanillaNet: the Power of Minimalism in Deep Learning",
    authors=("Hanting Chen", "Yunhe Wang", "Jianyuan Guo", "Dacheng Tao"),
    year=2023,
    url="https://arxiv.org/abs/2305.12972",
    provides={"VanillaNet": "network", "SeriesActivation": "layer", "deployed": "function"},
    null={"act_num": 0, "conv.weight": 1.0},
    claim=(
        "With deep training and series activations a plain network of few layers classifies as well as deep ones, and "
        "much better than without."
    ),
)


def _merged(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return the one convolution that equals the first and then the second, a 1x1.

    W = W2 W1 and b = W2 b1 + b2, with W2 as a matrix on the channels.
    """
    mixing = second.weight[:, :, 0, 0]
    result = copy.deepcopy(first)
    result.out_channels = second.out_channels
    result.weight = nn.Parameter(torch.einsum("om,mikl->oikl", mixing, first.weight))
    result.bias = nn.Parameter(mixing @ cast(Tensor, first.bias) + cast(Tensor, second.bias))
    return result


def _folded(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers with each normalization in the weights of the convolution before it."""
    result: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, SeriesActivation):
            result += [nn.ReLU(), layer.conv]
        elif isinstance(layer, nn.BatchNorm2d):
            result[-1] = fuse_conv_bn_eval(cast(nn.Conv2d, result[-1]), layer)
        else:
            result.append(layer)
    return result


@final
class VanillaNet(nn.Module):
    """The network as it is trained; `deployed` makes of it the one to run.

    The stem is a convolution of non-overlapping patches, then each stage a 1x1 convolution and a maximum over windows
    of its stride; series activations and batch normalizations follow each. The mean over all pixels and one layer more
    give the logits. For deep training set lam from 0, at the start, to 1: linearly, epoch by epoch, and well before the
    end; the authors' recipe reaches 1 after a third of the epochs. lam is a part of the state.

    The paper's network of n layers, for images of 224 x 224 pixels and with ``patch=4``, has n - 2 stages.
    VanillaNet-5 has ``dims=(512, 1024, 2048, 4096)`` and ``strides=(2, 2, 2)``; VanillaNet-6 one stage more, of 4096
    channels and stride 1.

    Args:
        shape: Channels, height and width of one image.
        classes: Number of logits.
        dims: Channels of the stem and of each stage, each at least 1.
        strides: Factor by which each stage shrinks the image, each at least 1 (no shrinking); one fewer than ``dims``.
        patch: Side of the stem's patches in pixels, at least 1; the paper's is 4.
        act_num: How far the series activations reach, at least 0; the paper's is 3.
        deep: Whether each layer is trained as two convolutions; without, it is one and lam means nothing.

    Raises:
        ValueError: If a size is no whole number or too small, ``dims`` and ``strides`` do not match, or patches and
            strides leave no pixel of the image.

    Example:
        >>> model = VanillaNet((3, 32, 32), 10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        dims: Sequence[int] = (64, 128, 256),
        strides: Sequence[int] = (2, 2),
        patch: int = 2,
        act_num: int = 3,
        deep: bool = True,
    ) -> None:
        super().__init__()
        _check_sizes(shape, dims, strides, patch)
        check_at_least(1, "classes", classes)
        self.shape, self.classes, self.dims, self.strides = shape, classes, dims, strides
        self.patch, self.act_num, self.deep = patch, act_num, deep
        layers, inputs = list[nn.Module](), shape[0]
        for index, (outputs, stride) in enumerate(zip(dims, (1, *strides), strict=True)):
            side = 1 if index else patch
            between = inputs if index else outputs
            if deep:
                layers += [*fading_convolution(inputs, between, side), convolution(between, outputs)]
            else:
                layers.append(convolution(inputs, outputs, side))
            layers.append(nn.BatchNorm2d(outputs, EPS))
            if stride > 1:
                layers.append(nn.MaxPool2d(stride))
            layers += [SeriesActivation(outputs, act_num), nn.BatchNorm2d(outputs, EPS)]
            inputs = outputs
        layers.append(nn.AdaptiveAvgPool2d(1))
        if deep:
            layers += fading_convolution(inputs, classes)
        layers += [convolution(classes if deep else inputs, classes, bias=True), nn.Flatten()]
        self.layers = nn.Sequential(*layers)

    def set_lambda(self, lam: float) -> None:
        """Set how far the activations between paired convolutions have faded.

        Args:
            lam: 0 for ReLU, as at the start, 1 for the identity; in [0, 1].

        Raises:
            ValueError: If ``lam`` is not in [0, 1].

        Example:
            >>> model, epochs = VanillaNet((1, 8, 8), 10), 3
            >>> for epoch in range(epochs + 1):
            ...     model.set_lambda(epoch / epochs)
        """
        if not 0 <= lam <= 1:
            raise ValueError(f"lam must be in [0, 1], got {lam}")
        for layer in self.layers:
            if isinstance(layer, FadingReLU):
                layer.lam.fill_(lam)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        return self.layers(x)


@torch.no_grad()
def deployed(model: VanillaNet) -> nn.Sequential:
    """Make the network to run: normalizations folded, paired convolutions merged, otherwise the same function.

    It consists of PyTorch's own modules alone, has no normalization and gives the logits that the model gives in eval
    mode. Its weights are computed in float64 and rounded at the end.

    Args:
        model: A trained network with lam at 1; stays as it is.

    Returns:
        The network to run, on the device and in the number format of the model.

    Raises:
        ValueError: If lam is not 1: paired convolutions merge only where nothing stands between them.

    Example:
        >>> model = VanillaNet((1, 8, 8), 10, dims=(4,), strides=())
        >>> model.set_lambda(1.0)
        >>> [type(layer).__name__ for layer in deployed(model)]
        ['Conv2d', 'ReLU', 'Conv2d', 'AdaptiveAvgPool2d', 'Conv2d', 'Flatten']
    """
    result: list[nn.Module] = []
    for layer in _folded(copy.deepcopy(model).double().eval().layers):
        if isinstance(layer, FadingReLU) and layer.lam.item() != 1:
            raise ValueError(
                f"lam must be 1 to merge, got {round(layer.lam.item(), 6)}; train on after set_lambda(1.0)"
            )
        if isinstance(layer, nn.Conv2d) and result and isinstance(result[-1], FadingReLU):
            result.pop()
            layer = _merged(cast(nn.Conv2d, result.pop()), layer)
        result.append(layer)
    return nn.Sequential(*result).to(next(model.parameters()).dtype)


def _check_sizes(shape: Sequence[int], dims: Sequence[int], strides: Sequence[int], patch: int) -> None:
    if len(shape) != 3:
        raise ValueError(f"shape must be (channels, height, width), got {shape}")
    for name, values in (("shape", shape), ("dims", dims), ("strides", strides), ("patch", (patch,))):
        check_at_least(1, name, *values)
    if len(dims) != len(strides) + 1:
        raise ValueError(f"dims must have one entry more than strides, got {len(dims)} and {len(strides)}")
    if min(shape[1:]) < math.prod((patch, *strides)):
        raise ValueError(
            f"patch times all strides must be at most the image's shorter side, got {patch} and {tuple(strides)} for "
            f"shape {shape}; take smaller ones"
        )
