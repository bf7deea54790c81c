"""Sampling by EDM: noise levels, steps by Heun's method, and fresh noise between them.

Source:
    T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS, 2022,
    https://arxiv.org/abs/2206.00364, equation 5, algorithms 1 and 2.

Deviations:
    those of `paperweight.diffusion.edm`
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from paperweight.generators.process import normal

__all__ = ["Denoiser", "HeunSampler", "StochasticSampler", "check_finite", "karras_sigmas"]

Denoiser = Callable[[Tensor, Tensor], Tensor]


def _slope(network: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """Compute dx/dsigma = (x - D(x, sigma)) / sigma (algorithm 1, line 4)."""
    return (x - network(x, x.new_full((len(x),), sigma))) / sigma


def _heun_step(network: Denoiser, x: Tensor, sigma: float, following: float) -> Tensor:
    """Go from one noise level to the following by Heun's method, to 0 by Euler's (algorithm 1, lines 4 to 8)."""
    slope = _slope(network, x, sigma)
    end = x + (following - sigma) * slope
    if following == 0:
        return end
    return x + (following - sigma) * (slope + _slope(network, end, following)) / 2


def _churn(x: Tensor, sigma: float, gamma: float, s_noise: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Raise the noise level by the share gamma with fresh noise (algorithm 2, lines 4 to 6)."""
    if gamma == 0:
        return x, sigma
    raised = sigma * (1 + gamma)
    return x + math.sqrt(raised**2 - sigma**2) * s_noise * normal(x, generator), raised


def karras_sigmas(steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Space noise levels evenly in their root of degree rho, from the highest to the lowest, then 0 (equation 5).

    Args:
        steps: Number of levels above 0, N in the paper, at least 1; a single one is ``sigma_max``. 18 for CIFAR-10.
        sigma_min: The lowest of them, above 0.
        sigma_max: The highest, above ``sigma_min``.
        rho: The degree, above 0: 1 spaces the levels evenly, the limit at infinity their logarithms.

    Returns:
        Levels, falling, float64, (steps + 1,).

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> karras_sigmas(3, sigma_min=1.0, sigma_max=9.0, rho=2.0)
        tensor([9., 4., 1., 0.], dtype=torch.float64)
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
    check_finite(0, above=True, sigma_min=sigma_min, rho=rho)
    check_finite(sigma_min, above=True, sigma_max=sigma_max)
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64)
    return torch.cat([roots.pow(rho), roots.new_zeros(1)])


@final
class HeunSampler:
    """Samples along the probability-flow equation by Heun's method (algorithm 1); deterministic, of second order.

    It calls the denoiser 2 ``steps`` - 1 times, with x of the noise's shape (N, ...) and sigma of shape (N,), and
    leaves its mode alone. The samples carry no gradient.

    Args:
        steps: Number of steps, N in the paper, at least 1; 18 for CIFAR-10, 40 for ImageNet-64.
        sigma_min: Noise level from which the last step goes to 0, above 0.
        sigma_max: Noise level to start from, above ``sigma_min`` and far above the data's deviation.
        rho: Degree of `karras_sigmas`, above 0.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> point = lambda x, sigma: torch.ones_like(x)
        >>> HeunSampler(steps=4)(point, torch.zeros(2, 1)).round(decimals=4).tolist()
        [[1.0], [1.0]]
    """

    def __init__(self, steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigmas: list[float] = karras_sigmas(steps, sigma_min, sigma_max, rho).tolist()
        self.steps, self.sigma_min, self.sigma_max, self.rho = steps, sigma_min, sigma_max, rho

    @torch.no_grad()
    def __call__(self, network: Denoiser, noise: Tensor) -> Tensor:
        """Draw samples of the shape, dtype and device of the noise, (N, ...)."""
        x = self.sigmas[0] * noise
        for sigma, following in pairwise(self.sigmas):
            x = _heun_step(network, x, sigma, following)
        return x


@final
class StochasticSampler:
    """Samples as `HeunSampler` does, but adds fresh noise before each step within a range of levels (algorithm 2).

    The noise corrects earlier errors and brings its own, so that it wants more steps; the defaults are those for
    ImageNet-64. With ``s_churn`` 0 it is `HeunSampler`, bit for bit.

    Args:
        steps: Number of steps, at least 1.
        sigma_min: As in `HeunSampler`.
        sigma_max: As in `HeunSampler`.
        rho: As in `HeunSampler`.
        s_churn: A step raises its noise level by the share ``s_churn / steps``, at most sqrt(2) - 1; at least 0.
        s_tmin: Lowest noise level that is raised, at least 0.
        s_tmax: Highest noise level that is raised, at least ``s_tmin``.
        s_noise: Deviation of the fresh noise, at least 0; above 1 it makes up for denoisers that remove too much.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> point = lambda x, sigma: torch.ones_like(x)
        >>> StochasticSampler(steps=4)(point, torch.zeros(1, 1), generator=torch.Generator().manual_seed(0))
        tensor([[1.]])
    """

    def __init__(
        self,
        steps: int = 256,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        s_churn: float = 40.0,
        s_tmin: float = 0.05,
        s_tmax: float = 50.0,
        s_noise: float = 1.003,
    ) -> None:
        self.sigmas: list[float] = karras_sigmas(steps, sigma_min, sigma_max, rho).tolist()
        self.steps, self.sigma_min, self.sigma_max, self.rho = steps, sigma_min, sigma_max, rho
        check_finite(0, s_churn=s_churn, s_tmin=s_tmin, s_noise=s_noise)
        check_finite(s_tmin, s_tmax=s_tmax)
        gamma = min(s_churn / steps, math.sqrt(2) - 1)
        self.gammas = [gamma if s_tmin <= sigma <= s_tmax else 0.0 for sigma in self.sigmas[:-1]]
        self.s_churn, self.s_tmin, self.s_tmax, self.s_noise = s_churn, s_tmin, s_tmax, s_noise

    @torch.no_grad()
    def __call__(self, network: Denoiser, noise: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw samples of the shape, dtype and device of the noise, (N, ...); the generator draws the fresh noise."""
        x = self.sigmas[0] * noise
        for (sigma, following), gamma in zip(pairwise(self.sigmas), self.gammas, strict=True):
            x, raised = _churn(x, sigma, gamma, self.s_noise, generator)
            x = _heun_step(network, x, raised, following)
        return x


def check_finite(least: float, *, above: bool = False, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < math.inf or (above and value == least):
            raise ValueError(f"{name} must be {'above' if above else 'at least'} {least:g} and finite, got {value}")
