"""Gaussian data, of which every network of a diffusion or flow model is known in closed form."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["GaussianData"]


def _level(name: str, value: float | Tensor) -> float:
    levels = torch.as_tensor(value).double().flatten().unique()
    if len(levels) != 1:
        raise ValueError(f"{name} must be one number for all samples, got {levels.tolist()}")
    return levels.item()


@final
@dataclass(frozen=True)
class GaussianData:
    """Data x with a normal law, seen as y = alpha x + sigma n with standard normal noise n.

    Args:
        mean: Mean of x, shape ``(features,)``.
        covariance: Covariance of x, positive definite, shape ``(features, features)``.

    Example:
        >>> data = GaussianData(torch.zeros(1), torch.ones(1, 1))
        >>> data.denoise(torch.tensor([[2.0]]), alpha=1.0, sigma=1.0)
        tensor([[1.]])
    """

    mean: Tensor
    covariance: Tensor

    def denoise(self, y: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Give the expected data E[x | y] = m + alpha C (alpha^2 C + sigma^2 I)^-1 (y - alpha m).

        Args:
            y: The noisy data, shape ``(samples, ...)`` with as many entries a sample as the mean has.
            alpha: Factor of the data, at least 0: a number, or a tensor whose entries are all the same.
            sigma: Standard deviation of the noise, above 0, likewise.

        Returns:
            Shape, dtype and device of ``y``.

        Raises:
            ValueError: If the entries of ``alpha`` or ``sigma`` differ.
        """
        mean, covariance = self.mean.to(y.device, torch.float64), self.covariance.to(y.device, torch.float64)
        a, s = _level("alpha", alpha), _level("sigma", sigma)
        law = a**2 * covariance + s**2 * torch.eye(len(mean), dtype=torch.float64, device=y.device)
        gain = torch.linalg.solve(law, a * covariance)
        return (mean + (y.flatten(1).double() - a * mean) @ gain).to(y.dtype).view_as(y)

    def noise(self, y: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Give the expected noise E[n | y] = (y - alpha E[x | y]) / sigma; the score of y is its negative by sigma.

        Args:
            y: The noisy data, shape ``(samples, ...)`` with as many entries a sample as the mean has.
            alpha: Factor of the data, at least 0: a number, or a tensor whose entries are all the same.
            sigma: Standard deviation of the noise, above 0, likewise.

        Returns:
            Shape, dtype and device of ``y``.

        Raises:
            ValueError: If the entries of ``alpha`` or ``sigma`` differ.
        """
        return (y - _level("alpha", alpha) * self.denoise(y, alpha, sigma)) / _level("sigma", sigma)
