"""DiffPure: purify inputs by a little noise and a diffusion model that takes it away again, then classify.

Noise drowns a small perturbation, and what solves the reverse equation of the diffusion leads back to the data. The
classifier stays as it is, no attack is trained against, and the gradient of an attack goes through the whole chain.
Cost: as many calls of the diffusion model for an image as there are steps, forward, and again backward in an attack.

Source:
    W. Nie, B. Guo, Y. Huang, C. Xiao, A. Vahdat, A. Anandkumar, "Diffusion Models for Adversarial Purification",
    ICML, 2022, https://arxiv.org/abs/2205.07460. Implemented: the diffusion to time t*, the reverse-time equation of
    the variance-preserving diffusion, its solution by Euler and Maruyama, and gradients of memory that does not grow
    with the activations of the steps.

Deviations:
    - The paper solves an equation for the gradient backwards, and the states with it, up to the error of the solver.
      Here the states are kept, an image a step, and a step is computed again when its gradient is asked for: the
      gradient is that of the steps that were taken, exactly.
    - Only the variance-preserving diffusion. A model of discrete times is asked at the nearest of them.
    - What leaves [0, 1] is given to the classifier as it is; the paper does not say.
    - The authors' code, under a non-commercial licence, was not read.
"""

import math
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paperweight.catalogue import Paper
from paperweight.generators import ConditionalDiffusion
from paperweight.generators.process import add_noise, normal

__all__ = ["DiffPure", "DiscreteScore", "reverse_diffusion", "signal_share"]

PAPER = Paper(
    title="Diffusion Models for Adversarial Purification",
    authors=("Weili Nie", "Brandon Guo", "Yujia Huang", "Chaowei Xiao", "Arash Vahdat", "Anima Anandkumar"),
    year=2022,
    url="https://arxiv.org/abs/2205.07460",
    provides={
        "DiffPure": "defense",
        "DiscreteScore": "network",
        "reverse_diffusion": "function",
        "signal_share": "function",
    },
    null={"t_star": 0.0},
    claim="A classifier that sees purified images withstands more adaptive attacks than adversarially trained ones.",
)

Score = Callable[[Tensor, Tensor], Tensor]
_BETAS = (0.1, 20.0)


def signal_share(t: float, betas: tuple[float, float] = _BETAS) -> float:
    """Give the share of signal in the variance at time t: alpha(t) = exp(-int_0^t beta(s) ds) for linear beta.

    Args:
        t: The time, from 0 to 1.
        betas: beta at 0 and at 1, at least 0; 0.1 and 20 in the paper.

    Returns:
        alpha(t), 1 at time 0.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> [round(signal_share(t), 4) for t in (0.0, 0.1, 1.0)]
        [1.0, 0.8963, 0.0]
    """
    _check_number("t", t, 0 <= t <= 1, "from 0 to 1")
    _check_betas(betas)
    return math.exp(-(betas[0] * t + (betas[1] - betas[0]) * t**2 / 2))


def reverse_diffusion(
    score: Score, x: Tensor, t_star: float, noises: Iterable[Tensor], steps: int, betas: tuple[float, float] = _BETAS
) -> Tensor:
    """Solve dx = -beta(t) / 2 (x + 2 s(x, t)) dt + sqrt(beta(t)) dw from time t* back to 0 by Euler and Maruyama.

    A step of length h goes to x + h beta(t) / 2 (x + 2 s(x, t)) + sqrt(h beta(t)) e. Its activations are not kept for
    the backward pass but computed again.

    Args:
        score: s, the gradient of the logarithm of the density of what is diffused; called with x and times (N,).
        x: The state at time t*, (N, ...).
        t_star: The time, above 0, at most 1.
        noises: Standard normal noise e of each step, of the shape of x; as many as there are steps are taken.
        steps: Number of steps, all of length t* / steps, at least 1.
        betas: beta at 0 and at 1.

    Returns:
        The state at time 0, (N, ...), with a gradient to ``x`` and the weights of the score.

    Raises:
        ValueError: If a number is outside its range, or there is too little noise.

    Example:
        The score of standard normal data; without noise x shrinks by h beta / 2 in each step.

        >>> x, none = torch.ones(1, 1, dtype=torch.float64), [torch.zeros(1, 1, dtype=torch.float64)] * 2
        >>> reverse_diffusion(lambda x, t: -x, x, 0.1, none, steps=2, betas=(2.0, 2.0)).item()
        0.9025
    """
    _check_number("t_star", t_star, 0 < t_star <= 1, "above 0 and at most 1")
    _check_steps(steps)
    _check_betas(betas)
    given, length = iter(noises), t_star / steps
    for number in range(steps):
        t = t_star - number * length
        beta = betas[0] + (betas[1] - betas[0]) * t
        noise = next(given, None)
        if noise is None:
            raise ValueError(f"noises must be as many as steps, {steps}, got {number}")
        if torch.is_grad_enabled():
            x = torch.as_tensor(checkpoint(_step, score, x, t, length * beta, noise, use_reentrant=False))
        else:
            x = _step(score, x, t, length * beta, noise)
    return x


def _step(score: Score, x: Tensor, t: float, share: float, noise: Tensor) -> Tensor:
    """Take one step, with ``share`` the product of its length and beta."""
    return x + share / 2 * (x + 2 * score(x, x.new_full((len(x),), t))) + math.sqrt(share) * noise


@final
class DiscreteScore(nn.Module):
    """The score of a diffusion model of discrete times, -e(x, t) / sqrt(1 - alpha(t)), at the nearest of its times.

    Args:
        model: A model whose schedule is that of the diffusion, such as a `paperweight.generators.DiffusionModel` of
            the schedule ``"linear"``; without a condition. It is called at the time (i + 1) / T for its number i of T.
        betas: beta at 0 and at 1, to which the schedule must fit within a hundredth.

    Raises:
        ValueError: If the schedule is another one.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> model = ModelSpec(shape=(1, 8, 8), schedule="linear", steps=1000).build()
        >>> DiscreteScore(model)(torch.zeros(2, 1, 8, 8), torch.tensor([0.1, 0.5])).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, model: ConditionalDiffusion, betas: tuple[float, float] = _BETAS) -> None:
        super().__init__()
        _check_betas(betas)
        abar, times = model.schedule.abar, len(model.schedule)
        wanted = [signal_share((number + 1) / times, betas) for number in range(times)]
        if not torch.allclose(abar, torch.tensor(wanted, dtype=abar.dtype), rtol=0, atol=0.01):
            raise ValueError(
                f"model must have the schedule of a variance-preserving diffusion with betas {betas}, got another; "
                "train one with the schedule 'linear' and 500 steps or more, or give its betas"
            )
        self.model, self.betas = model, betas

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Give the score.

        Args:
            x: What is diffused, (N, C, H, W).
            t: Times above 0, at most 1, (N,).

        Returns:
            The score, (N, C, H, W).
        """
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have shape ({len(x)},), one time for each of x, got {tuple(t.shape)}")
        schedule = self.model.schedule
        index = (t.detach().cpu().double() * len(schedule)).round().long().clamp(1, len(schedule)) - 1
        noise = self.model.eps(x, schedule.times[index].to(x.device), None)
        spread = (1 - schedule.abar[index]).sqrt().to(x)
        return -noise / spread.view(-1, *[1] * (x.ndim - 1))


@final
class DiffPure(nn.Module):
    """A classifier of purified images: diffused to time t*, led back to time 0, and then classified.

    Every call draws noise, so that an attack should average over several (`paperweight.attacks.ProjectedGradient` has
    ``samples``), and its gradient goes through the whole chain. With ``t_star=0`` it is the classifier, bit for bit.

    Args:
        model: Maps images to logits (N, classes).
        score: The score of the diffusion of images as 2 x - 1, called with x (N, C, H, W) and times (N,), such as a
            `DiscreteScore`.
        t_star: How far images are diffused, from 0 to 1; 0.1 in the paper for CIFAR-10 in norm infinity, 0.075 in
            norm 2, 0.15 for ImageNet.
        steps: Steps back, at least 1; the paper has a step of 0.001, which is 100 for a t* of 0.1.
        betas: beta at 0 and at 1.
        generator: Source of the noise.

    Raises:
        ValueError: If a number is outside its range, or images are no floating numbers.

    Example:
        Of data that are standard normal the images move little, and the classifier sees them.

        >>> model, generator = nn.Flatten(), torch.Generator().manual_seed(0)
        >>> purified = DiffPure(model, lambda x, t: -x, t_star=0.01, steps=10, generator=generator)
        >>> purified(torch.tensor([[[[0.9, 0.1]]]])).argmax(dim=1)
        tensor([0])
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score,
        t_star: float = 0.1,
        steps: int = 100,
        betas: tuple[float, float] = _BETAS,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        _check_number("t_star", t_star, 0 <= t_star <= 1, "from 0 to 1")
        _check_steps(steps)
        _check_betas(betas)
        self.model, self.score, self.t_star, self.steps, self.betas = model, score, t_star, steps, betas
        self.generator = generator

    def purify(self, images: Tensor) -> Tensor:
        """Diffuse images in [0, 1], floating, (N, C, H, W), and lead them back; what is given may leave the range."""
        if not images.is_floating_point():
            raise ValueError(f"images must be floating numbers in [0, 1], got {images.dtype}; divide bytes by 255")
        if self.t_star == 0:
            return images
        x = 2 * images - 1
        diffused = add_noise(x, normal(x, self.generator), signal_share(self.t_star, self.betas))
        noises = (normal(x, self.generator) for _ in range(self.steps))
        return (reverse_diffusion(self.score, diffused, self.t_star, noises, self.steps, self.betas) + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of purified images, (N, classes), with a gradient through the chain."""
        return self.model(self.purify(images))


def _check_number(name: str, value: float, holds: bool, rule: str) -> None:
    if isinstance(value, bool) or not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < math.inf for beta in betas) or sum(betas) == 0:
        raise ValueError(f"betas must be finite, at least 0 and not both 0, got {betas}")
