"""Correction regularized ReLU (CRReLU): ReLU plus a small bump, eps x exp(-x^2 / 2), whose size each layer learns.

The bump lets some gradient through where a ReLU of a slightly negative input has none, and vanishes for inputs far from
0. It comes from entropy-based activation function optimization (EAFO), which changes an activation so that the entropy
of its outputs falls; the equations of EAFO are here, too.
Cost: one number a layer; an exponential and five multiplications and additions an entry, whose intermediate results are
kept for the backward pass: four times the memory of a ReLU, and on a CPU 4 to 10 times its time.

Source:
    H. Sun, Z. Wu, B. Xia, P. Chang, Z. Dong, Y. Yuan, Y. Chang, X. Wang, "A Method on Searching Better Activation
    Functions", 2024, https://arxiv.org/abs/2405.12954; at ICLR 2025 as "Entropy-based Activation Function Optimization:
    A Method on Searching Better Activation Functions". Implemented: CRReLU; the entropy of the outputs as a functional
    of the inverse activation; the activation that maximises it (WAFBC); the correction term of EAFO.

Deviations:
    - The entropy is computed over inputs x = y(u), in place of outputs u, so that no inverse is needed.
    - The equations of EAFO are derived anew from the entropy; the paper's own steps were known second-hand only.
    - CRReLU is the paper's final formula, which approximates an inverse. By the equations here a positive eps, as at
      its start, raises the entropy of positive normal inputs, to first order by eps / (2 sqrt 2), and a negative one
      lowers it; an account of the paper gives ReLU's correction term the other sign. Learning chooses the sign of eps.
    - Neither whether eps is decayed with the weights nor another rate for it is told; both are left to the optimizer.
    - Corrections of an activation while it trains are left out.
"""

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["CRReLU", "activation_entropy", "corrected_relu", "eafo_correction", "worst_activation"]

PAPER = Paper(
    title="A Method on Searching Better Activation Functions",
    authors=(
        "Haoyuan Sun",
        "Zihao Wu",
        "Bo Xia",
        "Pu Chang",
        "Zibin Dong",
        "Yifu Yuan",
        "Yongzhe Chang",
        "Xueqian Wang",
    ),
    year=2024,
    url="https://arxiv.org/abs/2405.12954",
    provides={
        "CRReLU": "layer",
        "corrected_relu": "function",
        "worst_activation": "function",
        "activation_entropy": "function",
        "eafo_correction": "function",
    },
    null={"init": 0.0, "learnable": False},
    claim="CRReLU gives transformers for images a higher accuracy than ReLU, its other corrections, and GELU.",
)

Function = Callable[[Tensor], Tensor]

_CELLS = 20_000  # of the grid on which densities are integrated


def corrected_relu(x: Tensor, eps: Tensor | float = 0.01) -> Tensor:
    """Compute max(0, x) + eps x exp(-x^2 / 2), entry by entry; with eps 0 it is `torch.relu` bit for bit.

    For eps > 0 it is lowest at -1, where it is -eps exp(-1/2).

    Args:
        x: Inputs, floating and finite, any shape.
        eps: Size of the bump; a number, or a tensor that broadcasts to ``x``. The paper starts at 0.01.

    Returns:
        Activations, of the shape of ``x``.

    Raises:
        ValueError: If ``x`` is not floating.

    Example:
        >>> corrected_relu(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]), 0.1)
        tensor([-0.0033, -0.0607,  0.0000,  1.0607,  3.0033])
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    # The gradient of x.square() holds 2 x, which overflows in half precision where x does not.
    return F.relu(x) + eps * (x * torch.exp(x * x / -2))


def _cells(density: Function, interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the middles of an even grid's cells and the probability of each, which add up to 1; both (cells,)."""
    low, high = interval
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"interval must be two finite numbers, the lower first, got {interval}")
    x = low + (high - low) * (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    mass = density(x)
    if mass.shape != x.shape or not mass.isfinite().all() or mass.min() < 0 or mass.sum() == 0:
        raise ValueError(
            f"density must give a finite number of at least 0 for each input, not all 0, on {interval}, got "
            f"{mass.min().item():.3g} to {mass.max().item():.3g} in shape {tuple(mass.shape)}"
        )
    return x, mass / mass.sum()


def worst_activation(
    density: Function, interval: tuple[float, float] = (-8.0, 8.0), outputs: tuple[float, float] = (0.0, 1.0)
) -> Function:
    """Make the activation C1 * integral of p(t) to x + C2 of a density p, the worst with boundary conditions (WAFBC).

    It is the cumulative distribution function, scaled: its outputs are uniform, which is the largest entropy that
    outputs between two bounds can have. For normal inputs it is much like a sigmoid or, onto (-1, 1), like tanh.

    Args:
        density: The density p of the inputs, up to a factor; takes and gives a float64 tensor, (N,).
        interval: Where the density is integrated, lower and upper end; outside of it the activation is constant.
        outputs: Its bounds C2 and C1 + C2.

    Returns:
        The activation: takes a floating tensor of any shape, gives one of that shape and dtype.

    Raises:
        ValueError: If an interval is empty or not finite, or the density is negative, not finite, 0 everywhere, or of
            another shape.

    Example:
        >>> worst = worst_activation(lambda x: torch.exp(-x.square() / 2))
        >>> worst(torch.tensor([-1.0, 0.0, 1.0, 9.0]))
        tensor([0.1587, 0.5000, 0.8413, 1.0000])
    """
    least, most = outputs
    if not -math.inf < least < most < math.inf:
        raise ValueError(f"outputs must be two finite numbers, the lower first, got {outputs}")
    _, mass = _cells(density, interval)
    rises = (most - least) * mass
    starts = least + rises.cumsum(0) - rises
    low, high = interval

    def activation(x: Tensor) -> Tensor:
        place = ((x.double() - low) / (high - low) * _CELLS).clamp(0, _CELLS)
        cell = place.detach().long().clamp(max=_CELLS - 1)
        return (starts.to(x.device)[cell] + (place - cell) * rises.to(x.device)[cell]).to(x.dtype)

    return activation


def activation_entropy(activation: Function, density: Function, interval: tuple[float, float] = (-8.0, 8.0)) -> float:
    """Compute the differential entropy of an increasing activation's outputs, H = -integral of q(u) log q(u).

    With the inverse y of the activation f, q(u) = p(y(u)) y'(u); so H is also the integral of -p(x) log(p(x) / f'(x))
    over the inputs x, which is summed here over 20,000 points. A factor c to f adds log c: only activations of the same
    scale can be compared.

    Args:
        activation: The activation; takes and gives a float64 tensor, (N,), and can be differentiated.
        density: The density p of the inputs, up to a factor; takes and gives a float64 tensor, (N,).
        interval: The inputs, lower and upper end; the density is taken as 0 elsewhere.

    Returns:
        The entropy, in nats.

    Raises:
        ValueError: If the interval is empty or not finite, the density negative, not finite, 0 everywhere, or of
            another shape, or the activation does not increase where the density is positive.

    Example:
        >>> round(activation_entropy(torch.sigmoid, lambda x: torch.exp(-x.square() / 2)), 4)
        -0.1932
    """
    x, mass = _cells(density, interval)
    slope = _derivative(activation, x)
    flat = (mass > 0) & ~(slope > 0)
    if flat.any():
        raise ValueError(
            f"activation must increase wherever the density is positive, got slope {slope[flat][0].item():.3g} at "
            f"{x[flat][0].item():.3g}; choose an interval on which it does"
        )
    width = (interval[1] - interval[0]) / _CELLS
    return (torch.special.entr(mass) + torch.xlogy(mass, slope)).sum().item() + math.log(width)


def _derivative(function: Function, x: Tensor) -> Tensor:
    """Differentiate a function that maps each entry for itself, or is a constant: 0 x then stands for the input."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((function(x) + 0 * x).sum(), x)
    return slope


def eafo_correction(u: Tensor, inverse: Function, density: Function) -> Tensor:
    """Compute EAFO's correction term eta(u) = -(p(y) y'' / y' + p'(y) y') of an activation with inverse y.

    It is the steepest descent of the entropy of the outputs: where eta vanishes at the ends, y + t eta has an entropy
    lower by t times the integral of eta^2, to first order. The corrected activation is the inverse of y + t eta, to
    first order f(x) - t eta(f(x)) f'(x). For the positive half of ReLU, y(u) = u, and normal inputs, eta is
    u exp(-u^2 / 2) / sqrt(2 pi).

    Args:
        u: Outputs of the activation, floating, any shape.
        inverse: The inverse y, increasing and twice differentiable, entry by entry.
        density: The density p of the inputs, differentiable, entry by entry.

    Returns:
        eta(u), of the shape of ``u``.

    Raises:
        ValueError: If the inverse does not increase everywhere.

    Example:
        >>> eta = eafo_correction(torch.tensor([0.5, 1.0]), lambda u: u, lambda x: torch.exp(-x.square() / 2))
        >>> eta
        tensor([0.4412, 0.6065])
    """
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        y = inverse(u) + 0 * u
        (first,) = torch.autograd.grad(y.sum(), u, create_graph=True)
        (second,) = torch.autograd.grad((first + 0 * u).sum(), u)
    y, first = y.detach(), first.detach()
    if not (first > 0).all():
        raise ValueError(f"inverse must increase wherever it is asked for, got a slope of {first.min().item():.3g}")
    return -(density(y) * second / first + _derivative(density, y) * first)


@final
class CRReLU(nn.Module):
    """ReLU with a bump of learned size: max(0, x) + eps x exp(-x^2 / 2), one eps for all units of a layer.

    With init 0 and not learnable it is `torch.nn.ReLU` bit for bit. Learned, eps may take either sign. To put it in a
    model in place of ReLU, use `paperweight.nets.replace_modules`.

    Args:
        init: eps at the start, a finite number; the paper's is 0.01.
        learnable: Whether eps is trained, as in the paper, or stays.

    Raises:
        ValueError: If ``init`` is not finite.

    Example:
        >>> CRReLU(0.1)(torch.tensor([-1.0, 0.5, 2.0])).detach()
        tensor([-0.0607,  0.5441,  2.0271])
    """

    def __init__(self, init: float = 0.01, learnable: bool = True) -> None:
        super().__init__()
        if not math.isfinite(init):
            raise ValueError(f"init must be finite, got {init}")
        self.init = init
        self.learnable = learnable
        self.eps = nn.Parameter(torch.tensor(float(init)), requires_grad=learnable)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation.

        Args:
            x: Inputs, floating, any shape.

        Returns:
            Activations, of the shape and dtype of ``x``.
        """
        return corrected_relu(x, self.eps.to(x.dtype))

    def extra_repr(self) -> str:
        """Say how it was made."""
        return f"init={self.init}, learnable={self.learnable}"
