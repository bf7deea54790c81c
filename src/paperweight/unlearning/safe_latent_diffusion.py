"""Safe latent diffusion (SLD): guidance moves away from a concept where the noise for the caption comes near its own.

No weight changes; whoever has the weights can sample without it. It acts element by element, only where it is needed,
after a warm-up that lets the composition of the image form, and with a momentum over the steps.
Cost: a third call of the network a step, and one more tensor of the size of a sample.

Source:
    P. Schramowski, M. Brack, B. Deiseroth, K. Kersting, "Safe Latent Diffusion: Mitigating Inappropriate Degeneration
    in Diffusion Models", CVPR, 2023, https://arxiv.org/abs/2211.05105, equations 3 to 8, and the authors' code.

Deviations:
    - Several captions are joined to one, where the paper has a list of inappropriate concepts.
    - The presets' numbers are those of the authors' code, for noise of a latent space with 50 steps of a sampler.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.generators.steering import Noise, Steered
from paperweight.unlearning._fine_tuning import Model
from paperweight.unlearning._steering import steered

__all__ = ["PRESETS", "SafeLatentDiffusion", "safe_guidance"]

PAPER = Paper(
    title="Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models",
    authors=("Patrick Schramowski", "Manuel Brack", "Björn Deiseroth", "Kristian Kersting"),
    year=2023,
    url="https://arxiv.org/abs/2211.05105",
    provides={"SafeLatentDiffusion": "unlearner", "safe_guidance": "function"},
    null={"safety_scale": 0.0},
    claim="Guidance away from a concept where the caption comes near it removes the concept and leaves the rest.",
)

PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "weak": MappingProxyType(
            {"warmup": 15, "safety_scale": 200.0, "threshold": 0.0, "momentum_scale": 0.0, "momentum_decay": 0.0}
        ),
        "medium": MappingProxyType(
            {"warmup": 10, "safety_scale": 1000.0, "threshold": 0.01, "momentum_scale": 0.3, "momentum_decay": 0.4}
        ),
        "strong": MappingProxyType(
            {"warmup": 7, "safety_scale": 2000.0, "threshold": 0.025, "momentum_scale": 0.5, "momentum_decay": 0.7}
        ),
        "max": MappingProxyType(
            {"warmup": 0, "safety_scale": 5000.0, "threshold": 1.0, "momentum_scale": 0.5, "momentum_decay": 0.7}
        ),
    }
)


def safe_guidance(
    without: Tensor,
    given: Tensor,
    concept: Tensor,
    momentum: Tensor,
    *,
    safety_scale: float,
    threshold: float,
    momentum_scale: float,
    momentum_decay: float,
) -> tuple[Tensor, Tensor]:
    """Compute what is taken from the guidance in one step, gamma, and the momentum of the next, equations 4 and 6 to 8.

    mu = min(1, s_S |e_p - e_s|) where e_p - e_s < lambda, else 0; gamma = mu (e_s - e_0) + s_m nu;
    nu' = beta_m nu + (1 - beta_m) gamma. Guidance after the warm-up is e_p - e_0 - gamma.

    Args:
        without: The noise e_0 predicted for the empty caption, (N, ...).
        given: The noise e_p predicted for the caption, (N, ...).
        concept: The noise e_s predicted for the concept, (N, ...).
        momentum: nu, (N, ...); zero in the first step.
        safety_scale: s_S, at least 0.
        threshold: lambda; an element whose e_p is above e_s by as much or more is left alone.
        momentum_scale: s_m, at least 0.
        momentum_decay: beta_m, within [0, 1).

    Returns:
        gamma and nu', of the shape of the noise.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> zero, half, one = torch.zeros(1, 1), torch.full((1, 1), 0.5), torch.ones(1, 1)
        >>> safe_guidance(
        ...     zero, half, one, zero, safety_scale=1.0, threshold=0.0, momentum_scale=0.0, momentum_decay=0.75
        ... )
        (tensor([[0.5000]]), tensor([[0.1250]]))
    """
    _check(safety_scale, threshold, momentum_scale, momentum_decay)
    difference = given - concept
    mu = (safety_scale * difference.abs()).clamp(max=1).where(difference < threshold, 0)
    gamma = mu * (concept - without) + momentum_scale * momentum
    return gamma, momentum_decay * momentum + (1 - momentum_decay) * gamma


@final
class SafeLatentDiffusion:
    """Gives a model whose sampler keeps off the captions to forget; its weights are a copy.

    The defaults are the preset ``medium``; others are `PRESETS`, as in ``SafeLatentDiffusion(**PRESETS["max"])``.
    At ``safety_scale=0`` the sampler is that of plain guidance, bit for bit.

    Args:
        warmup: Steps of the sampler before anything is taken from the guidance, at least 0; the momentum forms in them.
        safety_scale: Weight of the difference between caption and concept, at least 0, in units of 1 over noise.
        threshold: An element whose noise for the caption is above that for the concept by as much is left alone.
        momentum_scale: Weight of the momentum, at least 0.
        momentum_decay: Share of the old momentum in the new one, within [0, 1).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from paperweight.generators import generate
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> erased = SafeLatentDiffusion(warmup=1)(model, ["circle"], ["cross"])
        >>> generate(erased, ["circle"], (1, 8, 8), steps=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        warmup: int = 10,
        safety_scale: float = 1000.0,
        threshold: float = 0.01,
        momentum_scale: float = 0.3,
        momentum_decay: float = 0.4,
    ) -> None:
        if not isinstance(warmup, int) or warmup < 0:
            raise ValueError(f"warmup must be a whole number of steps, at least 0, got {warmup}")
        _check(safety_scale, threshold, momentum_scale, momentum_decay)
        self.warmup = warmup
        self.safety_scale = safety_scale
        self.threshold = threshold
        self.momentum_scale = momentum_scale
        self.momentum_decay = momentum_decay

    def __call__(self, model: Model, forget: Sequence[str], retain: Sequence[str]) -> Model | Steered:
        """Give the steered model, or a copy where there is nothing to forget.

        Args:
            model: Meets `ConditionalDiffusion`; it stays as it is. An adapted pipeline is not copied.
            forget: Captions to keep off.
            retain: Not read.

        Raises:
            InputError: If ``forget`` is one text and no list, a word is unknown, or the captions joined are too long.
        """
        return steered(model, forget, self)

    def start(self) -> Callable[[Noise, float], Tensor]:
        """Begin a way from noise to images, see `paperweight.generators.Rule`."""
        index, momentum = 0, torch.zeros(())

        def step(eps: Noise, guidance: float) -> Tensor:
            nonlocal index, momentum
            without, given = eps("empty"), eps("caption")
            gamma, momentum = self.keep_off(without, given, eps("concept"), momentum)
            direction = given - without - gamma if index >= self.warmup else given - without
            index += 1
            return without + guidance * direction

        return step

    def keep_off(self, without: Tensor, given: Tensor, concept: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `safe_guidance` with the numbers of this eraser; the momentum may be a zero of any shape."""
        return safe_guidance(
            without,
            given,
            concept,
            momentum.to(given).expand_as(given),
            safety_scale=self.safety_scale,
            threshold=self.threshold,
            momentum_scale=self.momentum_scale,
            momentum_decay=self.momentum_decay,
        )


def _check(safety_scale: float, threshold: float, momentum_scale: float, momentum_decay: float) -> None:
    for name, value in (("safety_scale", safety_scale), ("momentum_scale", momentum_scale)):
        if not 0 <= value < inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if not -inf < threshold < inf:
        raise ValueError(f"threshold must be finite, got {threshold}")
    if not 0 <= momentum_decay < 1:
        raise ValueError(f"momentum_decay must be at least 0 and below 1, got {momentum_decay}")
