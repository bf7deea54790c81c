"""Scalable neural network kernels (SNNK): a layer f(W x + b) in whose place inputs and weights meet in one product.

Random features of the inputs, which are not learned, times random features of the weights estimate the layer. The
latter are learned directly, a matrix with as many columns as there are features, which may be far fewer than inputs.
Since the output is linear in the features, a linear layer that follows is merged into that matrix ("bundling"), and
for squared errors the best matrix has a closed form.
Cost: two matrix products, of features by inputs and of outputs by features, of which only the second is learned.

Source:
    A. Sehanobish, K. Choromanski, Y. Zhao, A. Dubey, V. Likhosherstov, "Scalable Neural Network Kernels", ICLR 2024,
    https://arxiv.org/abs/2310.13225. Implemented: universal random features (URF) for functions of W x + b that are
    Fourier integrals, Gaussian and block-orthogonal projections, the ReLU-SNNK layer, bundling with a linear layer, and
    the closed form for squared errors.

Deviations:
    - The authors' code, which has no licence, was not read, nor the whole paper: equations are those of an account of
      it, derived again.
    - The layer of a network has ReLU features, with a bias that is added to its outputs, where in a kernel of the
      paper's the bias is a part of the weights. It estimates the arc-cosine kernel of inputs and weights, which is
      none of ReLU(W x + b): a network that is changed has to be trained.
    - URF are for sums over few frequencies, such as cosine and sine, drawn with equal probability, in place of a
      density of frequencies; they are functions, not a layer, since they overflow for inputs longer than about 13.
    - Adapters, which leave a network as it is and add a layer that starts at 0, are left out.
"""

import copy
import math
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._random_features import (
    check_whole,
    draw_projections,
    relu_features,
    urf_inputs,
    urf_weights,
)
from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.nets import replace_modules

__all__ = [
    "SNNKLinear",
    "bundle",
    "draw_projections",
    "relu_features",
    "replace_feedforward",
    "ridge_weights",
    "urf_inputs",
    "urf_weights",
]

PAPER = Paper(
    title="Scalable Neural Network Kernels",
    authors=(
        "Arijit Sehanobish",
        "Krzysztof Choromanski",
        "Yunfan Zhao",
        "Avinava Dubey",
        "Valerii Likhosherstov",
    ),
    year=2023,
    url="https://arxiv.org/abs/2310.13225",
    provides={
        "SNNKLinear": "layer",
        "draw_projections": "function",
        "urf_inputs": "function",
        "urf_weights": "function",
        "relu_features": "function",
        "bundle": "function",
        "ridge_weights": "function",
        "replace_feedforward": "function",
    },
    claim="With a fifth of the learned numbers, a layer of random features is as accurate as the one it replaces.",
)


@final
class SNNKLinear(nn.Module):
    """ReLU features of the inputs times a learned matrix: what stands in the place of a linear layer with its ReLU.

    Args:
        in_features: Numbers of an input, at least 1.
        out_features: Numbers of an output, at least 1.
        features: Random features m, at least 1; the layer learns ``out_features`` times as many numbers.
        bias: Whether each output has a learned number besides.
        orthogonal: As of `draw_projections`.
        generator: Of the projections, which are a buffer; torch's global stream where it is left out.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> layer = SNNKLinear(100, 10, features=16)
        >>> layer(torch.zeros(5, 100)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([5, 10]), 170)
    """

    projections: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        features: int,
        bias: bool = True,
        orthogonal: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        check_whole(in_features=in_features, out_features=out_features, features=features)
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.features = features
        self.orthogonal = orthogonal
        self.generator = generator
        self.register_buffer("projections", draw_projections(features, in_features, orthogonal, generator).cpu())
        bound = 1 / math.sqrt(in_features)  # as nn.Linear has it for weights, so that outputs have its size
        self.weight = nn.Parameter(torch.empty(out_features, features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            x: (..., in_features).

        Returns:
            (..., out_features); no activation is to follow.
        """
        return F.linear(relu_features(x, self.projections), self.weight, self.bias)


def bundle(layer: SNNKLinear, following: nn.Linear) -> SNNKLinear:
    """Make one layer of an SNNK layer and the linear layer that follows it, equal but for rounding.

    Args:
        layer: The SNNK layer, which stays as it was.
        following: Takes its outputs, and stays as it was.

    Returns:
        A new layer with the projections of ``layer`` and the weight W2 W, bias W2 b + b2.

    Raises:
        ValueError: If the layers do not fit.

    Example:
        >>> layer, following = SNNKLinear(100, 20, features=16), nn.Linear(20, 3)
        >>> bundle(layer, following).weight.shape
        torch.Size([3, 16])
    """
    if following.in_features != layer.out_features:
        raise ValueError(f"following must take {layer.out_features} inputs, got {following.in_features}")
    new = copy.deepcopy(layer)
    new.out_features = following.out_features
    with torch.no_grad():
        new.weight = nn.Parameter(following.weight @ layer.weight)
        if layer.bias is not None:
            new.bias = nn.Parameter(F.linear(layer.bias, following.weight, following.bias))
        elif following.bias is not None:
            new.bias = nn.Parameter(following.bias.clone())
    return new


def ridge_weights(features: Tensor, targets: Tensor, lam: float) -> Tensor:
    """Compute the W that minimises |features W^T - targets|^2 + lam |W|^2, the closed form of a bundled network.

    Args:
        features: Of the examples, floating, (N, m).
        targets: (N, out).
        lam: Weight of the penalty, finite and above 0.

    Returns:
        W, (out, m).

    Raises:
        ValueError: If the shapes do not fit, or ``lam`` is outside its range.

    Example:
        >>> ridge_weights(torch.eye(2), torch.tensor([[1.0], [2.0]]), lam=1.0)
        tensor([[0.5000, 1.0000]])
    """
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            f"features and targets must have shapes (N, m) and (N, out), got {tuple(features.shape)} and "
            f"{tuple(targets.shape)}"
        )
    if not 0 < lam < math.inf:
        raise ValueError(f"lam must be finite and above 0, got {lam}")
    gram = features.T @ features + lam * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    return torch.linalg.solve(gram, features.T @ targets).T


def replace_feedforward(
    model: nn.Module, share: float = 0.2, last: int = 1, generator: torch.Generator | None = None
) -> nn.Module:
    """Copy a network with an `SNNKLinear` in place of its last linear layers with ReLU, begun from their weights.

    A layer is replaced where a linear layer and a ReLU follow each other in a `torch.nn.Sequential`. The learned matrix
    starts as the ReLU features of the weights, the bias as it was; the network is to be trained after.

    Args:
        model: The network, which stays as it was; what is frozen stays frozen.
        share: Random features as a share of the layer's inputs, and so numbers that are learned as a share of those of
            the layer, finite and above 0.
        last: How many are replaced, from the end, at least 1; if there are fewer, all.
        generator: Of the projections; torch's global stream where it is left out.

    Returns:
        The copy.

    Raises:
        InputError: If there is no linear layer with a ReLU after it.
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10))
        >>> replace_feedforward(model, share=0.2)[0].weight.shape
        torch.Size([40, 10])
    """
    if not 0 < share < math.inf:
        raise ValueError(f"share must be finite and above 0, got {share}")
    check_whole(last=last)
    pairs: list[tuple[str, str]] = []
    for name, part in model.named_modules():
        children = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        for (one, layer), (two, activation) in pairwise(children):
            if type(layer) is nn.Linear and type(activation) is nn.ReLU:
                pairs.append((f"{name}.{one}".lstrip("."), f"{name}.{two}".lstrip(".")))
    if not pairs:
        raise InputError(
            f"model must hold a Linear and a ReLU one after the other in a Sequential, got {type(model).__name__} "
            "without them"
        )
    chosen = {name for pair in pairs[-last:] for name in pair}

    def build(part: nn.Module) -> nn.Module:
        if not isinstance(part, nn.Linear):
            return nn.Identity()
        features = max(1, round(share * part.in_features))
        new = SNNKLinear(part.in_features, part.out_features, features, part.bias is not None, generator=generator)
        with torch.no_grad():
            new.weight.copy_(relu_features(part.weight.to(new.weight), new.projections))
            new.weight.requires_grad_(part.weight.requires_grad)
            if new.bias is not None and part.bias is not None:
                new.bias.copy_(part.bias).requires_grad_(part.bias.requires_grad)
        return new

    return replace_modules(model, lambda name, _: name in chosen, build, wanted="a Linear and a ReLU")
