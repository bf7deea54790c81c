"""Wasserstein GAN with gradient penalty (WGAN-GP): hold the critic to slope 1 by a penalty, and not by clipping.

The critic of a Wasserstein GAN must have slopes of at most 1. Clipping its weights wastes it; a penalty on the norm of
its gradient, at points between data and samples, does not, and trains many architectures with the same settings.
Cost: a forward pass of the critic and a backward pass through its gradient for each of its updates.

Source:
    I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, "Improved Training of Wasserstein GANs", NeurIPS,
    2017, https://arxiv.org/abs/1704.00028. Implemented: equation 3 with its two-sided and its one-sided penalty, and
    both losses. Left out: the networks of the experiments.

Deviations:
    - The weight of the penalty is a part of it, so that a critic's loss is the sum of two of these functions.
    - A gradient of 0 has the penalty 1 and no slope; in the authors' code the slope of its root is not a number.
"""

import math

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["gradient_penalty", "wgan_critic_loss", "wgan_generator_loss"]

PAPER = Paper(
    title="Improved Training of Wasserstein GANs",
    authors=("Ishaan Gulrajani", "Faruk Ahmed", "Martin Arjovsky", "Vincent Dumoulin", "Aaron Courville"),
    year=2017,
    url="https://arxiv.org/abs/1704.00028",
    provides={"gradient_penalty": "function", "wgan_critic_loss": "loss", "wgan_generator_loss": "loss"},
    null={"lam": 0.0},
    claim="A Wasserstein GAN with a gradient penalty trains stably where clipped weights or the original losses fail.",
)


def wgan_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute E D(G(z)) - E D(x), the negative of the estimate of the distance that the critic maximises.

    Args:
        real_scores: The critic's scores of data, floating, any shape but empty.
        fake_scores: Its scores of samples, likewise.

    Returns:
        A scalar; to it the critic adds `gradient_penalty`.

    Raises:
        ValueError: If there are no scores.

    Example:
        >>> wgan_critic_loss(torch.tensor([3.0, 5.0]), torch.tensor([1.0]))
        tensor(-3.)
    """
    _check_scores(real_scores=real_scores, fake_scores=fake_scores)
    return fake_scores.mean() - real_scores.mean()


def wgan_generator_loss(fake_scores: Tensor) -> Tensor:
    """Compute -E D(G(z)).

    Args:
        fake_scores: The critic's scores of samples, floating, any shape but empty.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are no scores.

    Example:
        >>> wgan_generator_loss(torch.tensor([1.0, 2.0]))
        tensor(-1.5000)
    """
    _check_scores(fake_scores=fake_scores)
    return -fake_scores.mean()


def gradient_penalty(
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    lam: float = 10.0,
    one_sided: bool = False,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Compute lam E (|gradient of D at x| - 1)^2, x drawn evenly from the line between a data point and a sample.

    The norm is over all entries of one sample, so a critic must treat samples by themselves: no batch normalization;
    layer normalization will do. Gradients flow to the critic's parameters alone.

    Args:
        critic: Maps samples (N, ...) to scores, one each, (N,) or (N, 1); twice differentiable.
        real: Data, floating, (N, ...), N at least 1.
        fake: As many samples, of the same shape.
        lam: Weight of the penalty, at least 0; the paper has 10.
        one_sided: Whether slopes below 1 are free: max(0, norm - 1)^2. The paper found no great difference.
        generator: Draws the place on each line.

    Returns:
        A scalar with a gradient, at least 0.

    Raises:
        ValueError: If the shapes differ or are empty, ``lam`` is outside its range, or there is not one score a sample.

    Example:
        >>> critic = nn.Linear(2, 1)
        >>> _ = critic.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> real, fake = torch.zeros(5, 2), torch.ones(5, 2)
        >>> gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0)).item()
        160.0
    """
    if not 0 <= lam < math.inf:
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    if real.shape != fake.shape or real.ndim < 2 or not len(real):
        raise ValueError(
            f"fake must have the shape of real, (N, ...) with N at least 1, got {tuple(fake.shape)} "
            f"and {tuple(real.shape)}"
        )
    shape = len(real), *[1] * (real.ndim - 1)
    share = torch.rand(shape, generator=generator, device=generator.device, dtype=real.dtype).to(real.device)
    with torch.enable_grad():
        between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
        scores = critic(between)
        if scores.numel() != len(real):
            raise ValueError(
                f"critic must give one score for each sample, {len(real)}, got shape {tuple(scores.shape)}"
            )
        (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        excess = torch.linalg.vector_norm(slopes.flatten(1), dim=1) - 1
        return lam * (excess.clamp(min=0) if one_sided else excess).square().mean()


def _check_scores(**scores: Tensor) -> None:
    for name, given in scores.items():
        if not given.numel():
            raise ValueError(f"{name} must hold at least one score, got none")
