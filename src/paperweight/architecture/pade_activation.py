"""Padé activation unit (PAU): an activation that is a quotient of two polynomials, its coefficients learned.

One quotient of degrees 5 and 4 comes close to every common activation; so a network starts from one of them and each
layer bends its own into what the data ask for. The denominator is at least 1, and there is no pole.
Cost: ten numbers a layer; nine fused multiplications and additions and a division an entry, whose intermediate results
are kept for the backward pass: about ten times the memory of a ReLU, and on a CPU 14 to 40 times its time.

Source:
    A. Molina, P. Schramowski, K. Kersting, "Padé Activation Units: End-to-end Learning of Flexible Activation Functions
    in Deep Networks", ICLR, 2020, https://arxiv.org/abs/1907.06732. Implemented: the safe unit, one a layer, and the
    fit of its initial coefficients; those published for leaky ReLU are met within 1%.

Deviations:
    - The denominator is 1 + |b1 x + ... + bn x^n|, as in the paper; the authors' code in Python has the sum of
      |bk x^k| in its place. From the fit of leaky ReLU both start as the same function.
    - How the paper fits is not told. Here squared error on an even grid is minimised by Gauss-Newton steps from the
      linearised problem, whose result depends on nothing random.
    - The noisy unit for training, and the quotient without absolute value, are left out.
    - Where inputs have less precision than float32, the quotient is computed in float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = ["PAU", "fit_rational", "replace_activations", "safe_rational"]

PAPER = Paper(
    title="Padé Activation Units: End-to-end Learning of Flexible Activation Functions in Deep Networks",
    authors=("Alejandro Molina", "Patrick Schramowski", "Kristian Kersting"),
    year=2020,
    url="https://arxiv.org/abs/1907.06732",
    provides={
        "PAU": "layer",
        "safe_rational": "function",
        "fit_rational": "function",
        "replace_activations": "function",
    },
    null={"coefficients": ((0.0, 1.0), (0.0,))},
    claim="Learned Padé activations match or beat the best fixed activation, without a choice among them.",
)

_GRID = 601  # points on which a fit is made
_STEPS = 50  # of Gauss-Newton at most; the fits of common activations need about ten
_HALVINGS = 30


def _polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """Compute c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    *rest, value = coefficients.unbind()
    for coefficient in reversed(rest):
        value = torch.addcmul(coefficient, value, x)
    return value


def safe_rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Compute F(x) = P / (1 + |A|) with P = a0 + a1 x + ... + am x^m and A = b1 x + ... + bn x^n, entry by entry.

    In float32 value and gradients are finite while the terms of P and A are, with degree 5 up to 1e7.

    Args:
        x: Inputs, floating, any shape.
        numerator: a0 to am, (m + 1,).
        denominator: b1 to bn, (n,), n at least 1.

    Returns:
        F(x), of the shape of ``x``.

    Raises:
        ValueError: If the coefficients are not two sequences of at least one number.

    Example:
        >>> safe_rational(torch.tensor([-2.0, 3.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]))
        tensor([-1.5000,  1.0000])
    """
    for name, value in (("numerator", numerator), ("denominator", denominator)):
        if value.ndim != 1 or not len(value):
            raise ValueError(f"{name} must be a sequence of at least one coefficient, got shape {tuple(value.shape)}")
    return _polynomial(x, numerator) / (1 + (x * _polynomial(x, denominator)).abs())


def _coefficient_gradients(powers: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """Compute F, (N,), and its gradients x^j / Q by a_j and -sign(A) x^k P / Q^2 by b_k, side by side, (N, m + 1 + n).

    ``powers`` holds x^0, x^1, ... in its columns.
    """
    tops, bottoms = powers[:, : len(numerator)], powers[:, 1 : len(denominator) + 1]
    inner = bottoms @ denominator
    quotient = 1 + inner.abs()
    value = tops @ numerator / quotient
    gradients = torch.cat([tops, -(inner.sign() * value)[:, None] * bottoms], dim=1) / quotient[:, None]
    return value, gradients


def _least_squares(design: Tensor, target: Tensor) -> Tensor:
    return torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution[:, 0]


def fit_rational(
    function: Callable[[Tensor], Tensor], m: int = 5, n: int = 4, interval: tuple[float, float] = (-3.0, 3.0)
) -> tuple[Tensor, Tensor]:
    """Fit the safe rational function to a function of one variable, by least squares on an even grid.

    On the paper's interval the largest error is 0.034 for leaky ReLU and ReLU, and below 1e-5 for tanh, sigmoid and
    Swish. Outside of it a fit goes its own way and ends, with these degrees, as one straight line for both sides: that
    for leaky ReLU with slope 0.5, off by 0.6 at -6 and at 6, and by 2.2 at -10 and at 10.

    Args:
        function: The function; takes and gives a float64 tensor of shape (601,), such as `torch.tanh`.
        m: Degree of the numerator, at least 0; the paper's is 5.
        n: Degree of the denominator, at least 1; the paper's is 4.
        interval: Where to fit, lower and upper end; the paper's is (-3, 3).

    Returns:
        a0 to am, (m + 1,), and b1 to bn, (n,), in float64.

    Raises:
        ValueError: If a degree is no whole number or too small, the interval is empty or not finite, or the function
            is not finite on it or gives another shape.

    Example:
        >>> a, b = fit_rational(lambda x: x / (1 + x.square()), m=1, n=2)
        >>> [abs(round(value, 6)) for value in (*a.tolist(), *b.tolist())]
        [0.0, 1.0, 0.0, 1.0]
    """
    for name, value, least in (("m", m, 0), ("n", n, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    low, high = interval
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"interval must be two finite numbers, the lower first, got {interval}")
    x = torch.linspace(low, high, _GRID, dtype=torch.float64)
    target = function(x)
    if target.shape != x.shape or not target.isfinite().all():
        raise ValueError(
            f"function must give {_GRID} finite numbers on {interval}, got {int(target.isfinite().sum())} of them in "
            f"shape {tuple(target.shape)}; choose another interval"
        )
    scale = max(abs(low), abs(high))
    powers = (x / scale)[:, None] ** torch.arange(max(m, n) + 1)
    both = _least_squares(torch.cat([powers[:, : m + 1], -target[:, None] * powers[:, 1 : n + 1]], dim=1), target)
    value, gradients = _coefficient_gradients(powers, both[: m + 1], both[m + 1 :])
    for _ in range(_STEPS):
        error = target - value
        step = _least_squares(gradients, error)
        for _ in range(_HALVINGS):
            moved = both + step
            value, gradients = _coefficient_gradients(powers, moved[: m + 1], moved[m + 1 :])
            if (target - value).square().sum() < error.square().sum():
                break
            step = step / 2
        else:
            break
        both = moved
    return (
        both[: m + 1] / scale ** torch.arange(m + 1, dtype=torch.float64),
        both[m + 1 :] / scale ** torch.arange(1, n + 1, dtype=torch.float64),
    )


@final
class PAU(nn.Module):
    """Activation whose shape is learned: one safe rational function for all units of a layer.

    With numerator x and a denominator of zeros it is `torch.nn.Identity` bit for bit. Zeros in all of the denominator
    stay zeros in training, since there the absolute value has gradient 0. The coefficients are to be trained without
    weight decay; the paper has one learning rate for them and for the weights. ``requires_grad_(False)`` freezes them.

    Args:
        coefficients: Numerator a0 to am, (m + 1,), and denominator b1 to bn, (n,), to start from, as `fit_rational`
            gives them; by default those of leaky ReLU with slope 0.01, degrees 5 and 4, as in the paper.

    Raises:
        ValueError: If the coefficients are not two sequences of at least one finite number.

    Example:
        >>> swish = PAU(fit_rational(F.silu))
        >>> swish(torch.tensor([-1.0, 0.5, 2.0])).detach()
        tensor([-0.2689,  0.3112,  1.7616])
    """

    def __init__(self, coefficients: tuple[Tensor | Sequence[float], Tensor | Sequence[float]] | None = None) -> None:
        super().__init__()
        given = fit_rational(F.leaky_relu) if coefficients is None else coefficients
        parts = [torch.as_tensor(part, dtype=torch.get_default_dtype()).detach().clone() for part in given]
        if len(parts) != 2 or not all(part.ndim == 1 and len(part) and part.isfinite().all() for part in parts):
            raise ValueError(f"coefficients must be two sequences of at least one finite number, got {coefficients}")
        self.coefficients = coefficients
        self.numerator, self.denominator = map(nn.Parameter, parts)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation.

        Args:
            x: Inputs, floating, any shape.

        Returns:
            Activations, of the shape and dtype of ``x``.
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        return safe_rational(x.to(precise), self.numerator.to(precise), self.denominator.to(precise)).to(x.dtype)


def replace_activations(
    model: nn.Module, build: Callable[[], nn.Module] = PAU, replaced: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Copy a model with each activation module of a type replaced by a new one of its own.

    A module that the model calls at several places stays one, and so do its coefficients; one that stands at several
    places gets a new one at each. The new modules are on the CPU; move the copy where it is to compute.

    Args:
        model: The model; activations that it applies as functions are not found.
        build: Makes one activation.
        replaced: The type of those to replace.

    Returns:
        The copy.

    Raises:
        InputError: If the model holds no module of that type.

    Example:
        >>> replace_activations(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): PAU()
        )
    """
    return replace_modules(
        model,
        lambda _, part: isinstance(part, replaced),
        lambda _: build(),
        wanted=f"a module of type {replaced.__name__}",
    )
