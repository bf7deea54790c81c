"""Generative adversarial networks (GANs): a generator learns from a critic that tells its samples from data.

A generator turns noise into samples, and a discriminator D gives the probability that its input is data; one maximises
what the other minimises, so that no likelihood has to be computed. This file has their losses, the best response of
the discriminator, and the likelihood under a Parzen window by which samples were judged.
Cost: a log-sigmoid a logit; of the window one squared distance and one exponential for each pair of sample and test
point, in float64 and in parts of about a million pairs.

Source:
    I. Goodfellow, J. Pouget-Abadie, M. Mirza, B. Xu, D. Warde-Farley, S. Ozair, A. Courville, Y. Bengio, "Generative
    Adversarial Nets", NeurIPS, 2014, https://arxiv.org/abs/1406.2661. Implemented: the value function, equation 1, as
    the losses of both players; the generator's other loss of section 3; the best response, equation 2; the Parzen
    window of section 5, whose grid of bandwidths is that of the authors' code, https://github.com/goodfeli/adversarial.

Deviations:
    - Losses take logits z with D = 1 / (1 + exp(-z)), so that log D and log(1 - D) stay finite.
    - The discriminator's loss is minus the value function. The authors' code takes half of it, which is half of the
      learning rate for plain gradient descent.
    - Both losses of the generator are here. The authors' code trains by the one without saturation alone.
    - Algorithm 1 is `paperweight.loops.fit_adversarial` with these losses, where ``critic_steps`` is k. The paper's
      networks, a discriminator of maxout layers with dropout and a generator of ReLU and sigmoid layers, are left out:
      the losses are for any, and maxout is another paper's.
    - Where neither data nor samples have mass the best response is 1/2; the paper leaves it open.
    - The window is computed in float64, the authors' in float32.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = [
    "gan_discriminator_loss",
    "gan_generator_loss",
    "optimal_discriminator",
    "parzen_bandwidth",
    "parzen_log_likelihood",
]

PAPER = Paper(
    title="Generative Adversarial Networks",
    authors=(
        "Ian J. Goodfellow",
        "Jean Pouget-Abadie",
        "Mehdi Mirza",
        "Bing Xu",
        "David Warde-Farley",
        "Sherjil Ozair",
        "Aaron Courville",
        "Yoshua Bengio",
    ),
    year=2014,
    url="https://arxiv.org/abs/1406.2661",
    provides={
        "gan_discriminator_loss": "loss",
        "gan_generator_loss": "loss",
        "optimal_discriminator": "function",
        "parzen_bandwidth": "function",
        "parzen_log_likelihood": "function",
    },
    claim="A generator that maximises log D gets stronger gradients early in training than one that minimises "
    "log(1 - D), and learns better.",
)

Form = Literal["minimax", "nonsaturating"]

_PAIRS = 2**20  # pairs of sample and test point that are held in memory at once


def _log_data(logits: Tensor) -> Tensor:
    """Compute log D, the log-probability that an input is data."""
    return F.logsigmoid(logits)


def _log_sample(logits: Tensor) -> Tensor:
    """Compute log(1 - D), the log-probability that an input is a sample, without a difference that cancels."""
    return F.logsigmoid(-logits)


def gan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Compute -E log D(x) - E log(1 - D(G(z))), which the discriminator minimises: minus the value of equation 1.

    It is log 4 where every logit is 0. At the best response it is log 4 less twice the Jensen-Shannon divergence of
    data and samples (theorem 1).

    Args:
        real_logits: Logits of data, floating, (N, ...).
        fake_logits: Logits of samples, (M, ...); M may differ from N. Detach the samples from their generator.

    Returns:
        A scalar in nats, at least 0.

    Raises:
        ValueError: If there is no logit of one of the two.

    Example:
        >>> gan_discriminator_loss(torch.zeros(4, 1), torch.zeros(3, 1))
        tensor(1.3863)
    """
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        _check_some(name, logits)
    return -_log_data(real_logits).mean() - _log_sample(fake_logits).mean()


def gan_generator_loss(fake_logits: Tensor, form: Form = "nonsaturating") -> Tensor:
    """Compute what the generator minimises: E log(1 - D(G(z))) or -E log D(G(z)).

    By its logit the first has the derivative -D, which vanishes where the discriminator knows a sample as one; the
    second has -(1 - D), which is then near -1. Both have -1/2 where D is 1/2.

    Args:
        fake_logits: Logits of samples, floating, (N, ...), with the gradient of their generator.
        form: "minimax" for log(1 - D), the generator's part of equation 1; "nonsaturating" for -log D, with which the
            authors' code trains.

    Returns:
        A scalar in nats: at most 0 in the first form, at least 0 in the second.

    Raises:
        ValueError: If there is no logit, or the form is neither of the two.

    Example:
        >>> logits = torch.zeros(2, 1)
        >>> gan_generator_loss(logits, "minimax"), gan_generator_loss(logits)
        (tensor(-0.6931), tensor(0.6931))
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be 'minimax' or 'nonsaturating', got {form!r}")
    _check_some("fake_logits", fake_logits)
    return _log_sample(fake_logits).mean() if form == "minimax" else -_log_data(fake_logits).mean()


def optimal_discriminator(p_data: Tensor, p_model: Tensor) -> Tensor:
    """Compute the best response D* = p_data / (p_data + p_model) to a generator (equation 2).

    Args:
        p_data: Probabilities or densities of the data, floating, of any shape, finite and at least 0.
        p_model: Those of the generator at the same points, of the same shape.

    Returns:
        Probability at each point that it is data, same shape; 1/2 where both are 0.

    Raises:
        ValueError: If the shapes differ, or a value is below 0 or not finite.

    Example:
        >>> optimal_discriminator(torch.tensor([0.75, 0.25, 0.0]), torch.tensor([0.25, 0.25, 0.5]))
        tensor([0.7500, 0.5000, 0.0000])
    """
    if p_data.shape != p_model.shape:
        raise ValueError(f"p_model must have the shape of p_data, {tuple(p_data.shape)}, got {tuple(p_model.shape)}")
    for name, values in (("p_data", p_data), ("p_model", p_model)):
        if not bool(((values >= 0) & values.isfinite()).all()):
            raise ValueError(f"{name} must be finite and at least 0, got {values[~(values >= 0) | values.isinf()][0]}")
    larger = torch.maximum(p_data, p_model)
    scale = larger.where(larger > 0, 1)  # the larger becomes 1, so that the sum is not infinite
    data, model = ((part / scale).where(larger > 0, 0.5) for part in (p_data, p_model))
    return data / (data + model)


def parzen_log_likelihood(samples: Tensor, test: Tensor, sigma: float) -> Tensor:
    """Compute the log-density of test points under Gaussians of one width around samples (section 5).

    That is log (1/N) sum over i of N(x; s_i, sigma^2 I) for each point x. The mean over the points is what the paper
    reports, with their standard deviation over the root of M as its error. Values with different numbers of samples do
    not compare, and in many dimensions they say little about how good samples are. A computed value is off by some
    1e-16 (r / sigma)^2, where r is the distance from the samples' mean.

    Args:
        samples: Samples, (N, ...); the paper has 10,000.
        test: Points of as many dimensions, (M, ...).
        sigma: Width of the window, above 0, in the unit of the samples, as `parzen_bandwidth` chooses it.

    Returns:
        Log-densities in nats, (M,), float64, without gradient; not a number where an input is not finite.

    Raises:
        ValueError: If the width is not above 0 and finite, there is no sample or no point, or their shapes differ.

    Example:
        >>> parzen_log_likelihood(torch.zeros(3, 1), torch.tensor([[0.0], [2.0]]), sigma=1.0)
        tensor([-0.9189, -2.9189], dtype=torch.float64)
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be above 0 and finite, got {sigma}")
    for name, points in (("samples", samples), ("test", test)):
        _check_some(name, points)
    if test.shape[1:] != samples.shape[1:]:
        raise ValueError(
            f"test must have points of shape {tuple(samples.shape[1:])}, as samples have, got {tuple(test.shape[1:])}"
        )
    with torch.no_grad():
        centres, points = (part.to(torch.float64).reshape(len(part), -1) for part in (samples, test))
        middle = centres.mean(dim=0)
        centres, points = centres - middle, points - middle
        parts = points.split(max(1, _PAIRS // len(centres)))
        squares = torch.cat([torch.logsumexp(_squares(part, centres) / (-2 * sigma**2), dim=1) for part in parts])
        return squares - math.log(len(centres)) - centres.shape[1] * (math.log(sigma) + math.log(2 * math.pi) / 2)


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    """Compute the squared distances |x|^2 - 2 x s + |s|^2 of points (M, D) and centres (N, D), at least 0, (M, N)."""
    lengths = [part.square().sum(dim=1) for part in (points, centres)]
    return (lengths[0][:, None] + lengths[1] - 2 * points @ centres.T).clamp(min=0)


def parzen_bandwidth(
    samples: Tensor,
    validation: Tensor,
    sigmas: Sequence[float] = (0.1, 0.129, 0.167, 0.215, 0.278, 0.359, 0.464, 0.599, 0.774, 1.0),
) -> float:
    """Choose the width of the window under which validation points are likeliest (section 5).

    Args:
        samples: Samples, (N, ...).
        validation: Points that are neither trained nor tested on, (M, ...).
        sigmas: Widths to try, at least one; the authors' code has ten from 0.1 to 1, for pixels in [0, 1].

    Returns:
        The width with the highest mean of `parzen_log_likelihood`, of equal ones the first.

    Raises:
        ValueError: If there is no width or one that is not above 0 and finite, or as in `parzen_log_likelihood`.

    Example:
        >>> parzen_bandwidth(torch.zeros(3, 1), torch.tensor([[-0.5], [0.5]]), sigmas=(0.1, 0.5, 2.0))
        0.5
    """
    if not len(sigmas) or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"sigmas must hold at least one width, all above 0 and finite, got {sigmas}")
    return max(sigmas, key=lambda sigma: parzen_log_likelihood(samples, validation, sigma).mean().item())


def _check_some(name: str, given: Tensor) -> None:
    if given.numel() == 0:
        raise ValueError(f"{name} must hold at least one value, got shape {tuple(given.shape)}")
