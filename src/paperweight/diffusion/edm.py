"""EDM: the design space of diffusion models, with preconditioned training and Heun sampling along chosen noise levels.

Fixed factors around the network keep its inputs and targets at unit variance at every noise level, and second-order
steps between levels dense near 0 need few calls of the network for a sample.
Cost: training as for any denoiser; 2 N - 1 calls of the network for a sample in N steps.

Source:
    T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS, 2022, https://arxiv.org/abs/2206.00364. Implemented: preconditioning, training distribution and loss weight
    (table 1, equations 7 and 8), noise levels (equation 5), algorithms 1 and 2 with sigma(t) = t, that is x = y + t n.

Deviations:
    - The loss is a mean over the entries of a sample; the paper has the sum, larger by their number.
    - Where S_churn asks for no noise in a step, none is drawn.
    - Scalings s(t) other than 1, non-leaking augmentation and the average of the weights are left out.
    - The authors' code, under a non-commercial licence, was not read.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["EDMPrecond", "HeunSampler", "StochasticSampler", "edm_loss", "karras_sigmas"]

PAPER = Paper(
    title="Elucidating the Design Space of Diffusion-Based Generative Models",
    authors=("Tero Karras", "Miika Aittala", "Timo Aila", "Samuli Laine"),
    year=2022,
    url="https://arxiv.org/abs/2206.00364",
    provides={
        "EDMPrecond": "network",
        "HeunSampler": "sampler",
        "StochasticSampler": "sampler",
        "edm_loss": "loss",
        "karras_sigmas": "function",
    },
    null={"s_churn": 0.0},
    claim="Preconditioned training and second-order steps along chosen noise levels give better samples "
    "with 35 calls of the network than earlier diffusion models.",
)

Denoiser = Callable[[Tensor, Tensor], Tensor]


def _factors(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute c_skip, c_out, c_in and c_noise (table 1); four of the shape of sigma."""
    total = (sigma.square() + sigma_data**2).sqrt()
    return (sigma_data / total).square(), sigma * sigma_data / total, 1 / total, sigma.log() / 4


def _loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """Compute lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, which is 1 / c_out^2 (table 1)."""
    return 1 / sigma.square() + 1 / sigma_data**2


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
    return x + math.sqrt(raised**2 - sigma**2) * s_noise * _normal(x, generator), raised


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise where the generator is; shape, dtype and device of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


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
    _check_finite(0, above=True, sigma_min=sigma_min, rho=rho)
    _check_finite(sigma_min, above=True, sigma_max=sigma_max)
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64)
    return torch.cat([roots.pow(rho), roots.new_zeros(1)])


@final
class EDMPrecond(nn.Module):
    """A denoiser around any network F: D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) (equation 7).

    For data of standard deviation ``sigma_data`` the inputs of F, and what it has to give, have unit variance at every
    noise level; of Gaussian data the best F is 0. Scale the data to have that deviation.

    Args:
        model: F, called with x of shape (N, ...), c_noise = ln(sigma) / 4 of shape (N,), and what conditions it;
            gives the shape of x. c_noise is about -1.6 to 1.1; `paperweight.nets.UNet` wants it scaled.
        sigma_data: Standard deviation of the data's entries, above 0; 0.5 is that of the paper's images in [-1, 1].

    Raises:
        ValueError: If ``sigma_data`` is not above 0 and finite.

    Example:
        >>> denoiser = EDMPrecond(lambda x, c_noise: 0 * x, sigma_data=1.0)
        >>> denoiser(torch.ones(2, 1), torch.tensor([1.0, 3.0])).flatten()
        tensor([0.5000, 0.1000])
    """

    def __init__(self, model: Callable[..., Tensor], sigma_data: float = 0.5) -> None:
        super().__init__()
        _check_finite(0, above=True, sigma_data=sigma_data)
        self.model = model
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, *condition: Tensor) -> Tensor:
        """Denoise.

        Args:
            x: Data with noise, (N, ...).
            sigma: Standard deviation of the noise of each sample, above 0, (N,).
            *condition: What else the network is called with, such as class numbers, (N,).

        Returns:
            Denoised data, shape and dtype of ``x``.

        Raises:
            ValueError: If ``sigma`` is not of shape (N,).
        """
        if sigma.shape != x.shape[:1]:
            raise ValueError(f"sigma must have shape ({len(x)},), one level a sample, got {tuple(sigma.shape)}")
        factors = [factor.to(x.dtype) for factor in _factors(sigma, self.sigma_data)]
        c_skip, c_out, c_in = (factor.view(-1, *[1] * (x.ndim - 1)) for factor in factors[:3])
        return c_skip * x + c_out * self.model(c_in * x, factors[3], *condition)


def edm_loss(
    denoiser: Denoiser,
    inputs: Tensor,
    generator: torch.Generator,
    *,
    p_mean: float = -1.2,
    p_std: float = 1.2,
    sigma_data: float = 0.5,
) -> Tensor:
    """Compute the weighted squared error of a denoiser at random noise levels (equation 8).

    That is E[lambda(sigma) |D(y + sigma n, sigma) - y|^2] with ln sigma ~ N(p_mean, p_std^2) and n ~ N(0, I); with
    `EDMPrecond` the plain squared error of F, about 1 for F = 0.

    Args:
        denoiser: D, called with x of shape (N, ...) and sigma of shape (N,), such as `EDMPrecond`.
        inputs: Clean data y, floating, (N, ...).
        generator: Draws noise levels and noise.
        p_mean: Mean of ln sigma.
        p_std: Standard deviation of ln sigma, at least 0.
        sigma_data: Standard deviation of the entries of the data, above 0, as in `EDMPrecond`.

    Returns:
        A scalar, the mean over samples and entries.

    Raises:
        ValueError: If there is no sample, or a number is outside its range.

    Example:
        >>> perfect = lambda x, sigma: torch.ones_like(x)
        >>> edm_loss(perfect, torch.ones(4, 2), torch.Generator().manual_seed(0))
        tensor(0.)
    """
    if inputs.numel() == 0:
        raise ValueError(f"inputs must hold at least one value, got shape {tuple(inputs.shape)}")
    _check_finite(-math.inf, above=True, p_mean=p_mean)
    _check_finite(0, p_std=p_std)
    _check_finite(0, above=True, sigma_data=sigma_data)
    sigma = (p_mean + p_std * _normal(inputs.new_empty(len(inputs)), generator)).exp()
    noise = sigma.view(-1, *[1] * (inputs.ndim - 1)) * _normal(inputs, generator)
    errors = (denoiser(inputs + noise, sigma) - inputs).square().flatten(1).mean(dim=1)
    return (_loss_weight(sigma, sigma_data) * errors).mean()


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
        _check_finite(0, s_churn=s_churn, s_tmin=s_tmin, s_noise=s_noise)
        _check_finite(s_tmin, s_tmax=s_tmax)
        gamma = min(s_churn / steps, math.sqrt(2) - 1)
        self.gammas = [gamma if s_tmin <= sigma <= s_tmax else 0.0 for sigma in self.sigmas[:-1]]
        self.s_noise = s_noise

    @torch.no_grad()
    def __call__(self, network: Denoiser, noise: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw samples of the shape, dtype and device of the noise, (N, ...); the generator draws the fresh noise."""
        x = self.sigmas[0] * noise
        for (sigma, following), gamma in zip(pairwise(self.sigmas), self.gammas, strict=True):
            x, raised = _churn(x, sigma, gamma, self.s_noise, generator)
            x = _heun_step(network, x, raised, following)
        return x


def _check_finite(least: float, *, above: bool = False, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < math.inf or (above and value == least):
            raise ValueError(f"{name} must be {'above' if above else 'at least'} {least:g} and finite, got {value}")
