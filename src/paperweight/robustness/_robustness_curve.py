"""Average robustness, and the line that reference models follow from accuracy to it.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821: the average. R. Taori, A. Dave, V. Shankar, N. Carlini, B. Recht, L. Schmidt,
    "Measuring Robustness to Natural Distribution Shifts in Image Classification", 2020,
    https://arxiv.org/abs/2007.00644: the line, in logits of both accuracies.

Deviations:
    - The line is fitted to averages over shifts; Taori et al. fit one for each shift.
    - Accuracies of 0 and 1, whose logit is not finite, are moved to 0.0001 and 0.9999.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["RobustnessCurve", "average_robustness", "check_accuracies"]

_EDGE = 1e-4


def check_accuracies(name: str, given: Tensor | Sequence[float] | float, dims: str = "") -> Tensor:
    """Give accuracies as float64, or refuse them."""
    found = given if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float64)
    if found.is_complex() or found.dtype == torch.bool or not found.numel() or (dims and not found.ndim):
        raise ValueError(f"{name} must be accuracies{dims}, got {found.dtype} {tuple(found.shape)}")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{name} must be accuracies from 0 to 1, got {given}")
    return found.double()


def _logit(accuracy: Tensor) -> Tensor:
    return accuracy.clamp(_EDGE, 1 - _EDGE).logit()


def average_robustness(shifted: Tensor | Sequence[float]) -> Tensor:
    """Average accuracy over shifted test sets, each of which counts the same.

    Args:
        shifted: Accuracies on the shifted sets, (..., shifts), from 0 to 1; one of 0 counts as well.

    Returns:
        Float64, (...).

    Raises:
        ValueError: If there is no shift, or an accuracy is outside its range.

    Example:
        >>> average_robustness([0.449, 0.11, 0.217, 0.0])
        tensor(0.1940, dtype=torch.float64)
    """
    return check_accuracies("shifted", shifted, " (..., shifts)").mean(dim=-1)


@final
@dataclass(frozen=True)
class RobustnessCurve:
    """What reference models reach on shifted sets at an accuracy: logit(average) = slope logit(accuracy) + intercept.

    Over the 540 conventional ImageNet-1k models of the authors' table, as printed there, it is
    ``RobustnessCurve(1.360, -2.290)``.

    Args:
        slope: Of the line, finite.
        intercept: Of the line, finite.

    Raises:
        ValueError: If a number is not finite.

    Example:
        >>> curve = RobustnessCurve.fit([0.5, 0.8], [0.2, 0.5])
        >>> curve.predict([0.5, 0.8]).tolist(), round(curve.residual(0.8, 0.6).item(), 4)
        ([0.2, 0.5], 0.1)
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        for name, value in (("slope", self.slope), ("intercept", self.intercept)):
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")

    @classmethod
    def fit(cls, accuracy: Tensor | Sequence[float], average: Tensor | Sequence[float]) -> "RobustnessCurve":
        """Fit the line to reference models by least squares of logits.

        Args:
            accuracy: Of each model without a shift, (models,); at least two different ones.
            average: Its `average_robustness`, (models,).

        Returns:
            The curve.

        Raises:
            ValueError: If the two are not as above.
        """
        x, y = check_accuracies("accuracy", accuracy, " (models,)"), check_accuracies("average", average, " (models,)")
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(
                f"average must be one number a model, as accuracy is, got {tuple(y.shape)} for {tuple(x.shape)}"
            )
        x, y = _logit(x), _logit(y)
        centred = x - x.mean()
        if not centred.abs().max() > 1e-9:
            raise ValueError(f"accuracy must be of two different models at least, got {accuracy}; train on two budgets")
        slope = (centred @ y / (centred @ centred)).item()
        return cls(slope, (y.mean() - slope * x.mean()).item())

    def predict(self, accuracy: Tensor | Sequence[float] | float) -> Tensor:
        """Give the average robustness that reference models have at an accuracy: float64, of the same shape."""
        return (self.slope * _logit(check_accuracies("accuracy", accuracy)) + self.intercept).sigmoid()

    def residual(self, accuracy: Tensor | Sequence[float] | float, average: Tensor | Sequence[float] | float) -> Tensor:
        """Give how far average robustness lies above the curve: float64, of the shape that both broadcast to."""
        return check_accuracies("average", average) - self.predict(accuracy)
