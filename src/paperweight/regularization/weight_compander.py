"""Weight compander: each weight is a bounded, increasing function of the number that is trained in its place.

With w = a arctan(v / b) no weight can be larger than a pi / 2, however far v goes, and a step of v moves small weights
more than large ones. So the network leans on many weights of middling size; a and b are learned for each layer.
Cost: an arctangent for each weight and forward pass, and two numbers a layer; after training nothing, since weights
are computed once and stored.

Source:
    R. Cakaj, J. Mehnert, B. Yang, "Weight Compander: A Simple Weight Reparameterization for Regularization", 2023,
    https://arxiv.org/abs/2306.16993. Implemented: the reparametrization of every weight by a nonlinear function that
    restricts its magnitude, with parameters that are learned.

Deviations:
    - Only the abstract of the paper was at hand, and no code of the authors was found. It says what the function does,
      restricting weights and forcing them away from zero, but not which it is: that it is a arctan(v / b), which
      weights have it and how a and b start is this library's choice.
    - a and b start equal, at ``scale`` times the largest weight of a layer, and v so that the network is unchanged. a
      and b are learned as logarithms, so that they stay positive.
    - Whether the authors decay a and b with the weights is not told; here it is left to the optimizer.
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import parametrized_weights

__all__ = ["WeightCompander", "compand", "compand_weights", "expand"]

PAPER = Paper(
    title="Weight Compander: A Simple Weight Reparameterization for Regularization",
    authors=("Rinor Cakaj", "Jens Mehnert", "Bin Yang"),
    year=2023,
    url="https://arxiv.org/abs/2306.16993",
    provides={
        "WeightCompander": "layer",
        "compand": "function",
        "expand": "function",
        "compand_weights": "function",
    },
    claim="Networks whose weights pass a learned compander are more accurate than with standard regularization alone.",
)


def compand(v: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Compute a arctan(v / b), entry by entry: odd, increasing, of slope a / b at 0, and between -a pi/2 and a pi/2.

    Args:
        v: The numbers that are trained, floating, any shape.
        a: Positive; a number, or a tensor that broadcasts to ``v``.
        b: The same.

    Returns:
        Weights, of the shape of ``v``.

    Raises:
        ValueError: If ``v`` is not floating.

    Example:
        >>> compand(torch.tensor([-1e6, -0.1, 0.0, 0.1, 1.0]), 0.5, 0.25)
        tensor([-0.7854, -0.1903,  0.0000,  0.1903,  0.6629])
    """
    if not v.is_floating_point():
        raise ValueError(f"v must be floating, got {v.dtype}")
    return a * torch.atan(v / b)


def expand(w: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Compute the inverse b tan(w / a): the numbers to train from which `compand` makes these weights.

    Args:
        w: Weights, floating, any shape, each below a pi/2 in size.
        a: Positive; a number, or a tensor that broadcasts to ``w``.
        b: The same.

    Returns:
        The numbers, of the shape of ``w``.

    Raises:
        ValueError: If ``w`` is not floating, or a weight is too large.

    Example:
        >>> compand(expand(torch.tensor([-0.3, 0.0, 0.7]), 0.5, 0.25), 0.5, 0.25)
        tensor([-0.3000,  0.0000,  0.7000])
    """
    if not w.is_floating_point():
        raise ValueError(f"w must be floating, got {w.dtype}")
    angles = w / a
    if not (angles.abs() < math.pi / 2).all():
        raise ValueError(
            f"w must be below a pi/2 in size, got {w.abs().max().item():.3g}, which is {angles.abs().max().item():.3g} "
            "times a; make a larger"
        )
    return b * torch.tan(angles)


@final
class WeightCompander(nn.Module):
    """Maps the numbers that are trained to weights, a arctan(v / b), with a and b learned.

    It is a parametrization for `torch.nn.utils.parametrize.register_parametrization`, which starts from the layer's
    weights; `compand_weights` registers one with every layer of a network.

    Args:
        a: At the start, finite and above 0; weights stay below a pi/2 in size.
        b: At the start, finite and above 0; numbers beyond it are damped.
        learnable: Whether a and b are trained, or stay.

    Raises:
        ValueError: If ``a`` or ``b`` is outside its range.

    Example:
        >>> layer = nn.Linear(20, 3)
        >>> before = layer.weight.detach().clone()
        >>> _ = nn.utils.parametrize.register_parametrization(layer, "weight", WeightCompander(0.3, 0.3))
        >>> torch.allclose(layer.weight, before)
        True
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, learnable: bool = True) -> None:
        super().__init__()
        for name, value in {"a": a, "b": b}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        self.a = a
        self.b = b
        self.learnable = learnable
        self.log_a = nn.Parameter(torch.tensor(math.log(a)), requires_grad=learnable)
        self.log_b = nn.Parameter(torch.tensor(math.log(b)), requires_grad=learnable)

    def forward(self, v: Tensor) -> Tensor:
        """Compute the weights.

        Args:
            v: The numbers that are trained, floating, any shape.

        Returns:
            Weights, of the shape and dtype of ``v``.
        """
        return compand(v, self.log_a.exp().to(v.dtype), self.log_b.exp().to(v.dtype))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Compute the numbers from which these weights are made.

        Args:
            weight: Weights, floating, any shape.

        Returns:
            The numbers, of the shape of ``weight``.

        Raises:
            ValueError: If a weight is not below a pi/2 in size.
        """
        return expand(weight, self.log_a.exp().to(weight.dtype), self.log_b.exp().to(weight.dtype))

    def extra_repr(self) -> str:
        """Say how it was made."""
        return f"a={self.a}, b={self.b}, learnable={self.learnable}"


def compand_weights(model: nn.Module, scale: float = 1.0, *, learnable: bool = True) -> nn.Module:
    """Copy a network with the weight of each linear and convolutional layer companded, its outputs as they were.

    For each layer a and b start at ``scale`` times its largest weight, so that its weights can grow to ``scale`` pi/2
    times what they are. The larger the scale, the more the network is like one that is not companded. Biases and
    normalization stay. `paperweight.nets.plain_weights` stores the weights after training. Each layer computes its
    weight at each call; within `torch.nn.utils.parametrize.cached` only once.

    Args:
        model: The network, which stays as it was; frozen weights stay frozen, with their a and b.
        scale: Above 2 / pi, so that all weights can be had, and finite.
        learnable: Whether a and b are trained, or stay.

    Returns:
        The copy.

    Raises:
        InputError: If there is no such layer, or one whose weight is computed already or stands at another place, too.
        ValueError: If ``scale`` is outside its range, or the weights of a layer are all 0, or not finite.

    Example:
        >>> model = compand_weights(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        >>> [name for name, _ in model.named_parameters()]
        ['1.bias', '1.parametrizations.weight.original', '1.parametrizations.weight.0.log_a', \
'1.parametrizations.weight.0.log_b']
    """
    if not 2 / math.pi < scale < math.inf:
        raise ValueError(f"scale must be finite and above 2 / pi = 0.637, got {scale}")

    def build(layer: nn.Module) -> nn.Module:
        weight = layer.get_parameter("weight")
        start = scale * weight.detach().abs().max().item()
        if not 0 < start < math.inf:
            raise ValueError(
                "model must have weights that are finite and not all 0 in every layer, since their size sets a and b, "
                f"got {start / scale} as the largest of {layer}"
            )
        return WeightCompander(start, start, learnable and weight.requires_grad)

    return parametrized_weights(model, build)
