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
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.diffusion._edm_sampling import Denoiser, HeunSampler, StochasticSampler, check_finite, karras_sigmas
from paperweight.generators.process import normal

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


def _factors(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute c_skip, c_out, c_in and c_noise (table 1); four of the shape of sigma."""
    total = (sigma.square() + sigma_data**2).sqrt()
    return (sigma_data / total).square(), sigma * sigma_data / total, 1 / total, sigma.log() / 4


def _loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """Compute lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, which is 1 / c_out^2 (table 1)."""
    return 1 / sigma.square() + 1 / sigma_data**2


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
        check_finite(0, above=True, sigma_data=sigma_data)
        self.model, self.sigma_data = model, sigma_data

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
            raise ValueError(f"sigma must have shape ({len(x)},), one level for each sample, got {tuple(sigma.shape)}")
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
    check_finite(-math.inf, above=True, p_mean=p_mean)
    check_finite(0, p_std=p_std)
    check_finite(0, above=True, sigma_data=sigma_data)
    sigma = (p_mean + p_std * normal(inputs.new_empty(len(inputs)), generator)).exp()
    noise = sigma.view(-1, *[1] * (inputs.ndim - 1)) * normal(inputs, generator)
    errors = (denoiser(inputs + noise, sigma) - inputs).square().flatten(1).mean(dim=1)
    return (_loss_weight(sigma, sigma_data) * errors).mean()
