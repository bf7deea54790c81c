"""AdvDiff: images of a class that a classifier takes for another, drawn from noise by a guided diffusion model.

No image is perturbed. A diffusion model of classes is sampled as usual, but in the last steps it is also led along the
gradient of the classifier towards a wrong class, and where the finished image does not fool the classifier the noise
that it came from is moved along the same gradient, and the image is drawn again.
Cost: a forward and a backward pass of the classifier in each guided step, and as many samplings as there are rounds,
of the images that do not fool it yet.

Source:
    X. Dai, K. Liang, B. Xiao, "AdvDiff: Generating Unrestricted Adversarial Examples using Diffusion Models", 2023,
    https://arxiv.org/abs/2307.12499, and the authors' code. Implemented: both guidances, around DDIM.

Deviations:
    - In the paper the gradients are multiplied by the variance of the noise that a step adds, or of the first noise. As
      in the authors' code, with DDIM, which adds none, the factors are ``s`` and ``a`` alone.
    - Each image goes its own number of rounds. The authors stop a batch once one of its images fools the classifier,
      and drop the others.
    - Where the model has a range, the estimate of the data is held to it in every step, as this library samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.generators import ConditionalDiffusion, NoiseSchedule, ddim_step, held_noise, normal, predicted_noise
from paperweight.generators.process import split_prediction
from paperweight.nets import evaluating

__all__ = ["AdversarialSamples", "adversarial_gradient", "adversarial_samples", "likeliest_other"]

PAPER = Paper(
    title="AdvDiff: Generating Unrestricted Adversarial Examples using Diffusion Models",
    authors=("Xuelong Dai", "Kaisheng Liang", "Bin Xiao"),
    year=2023,
    url="https://arxiv.org/abs/2307.12499",
    provides={
        "adversarial_gradient": "function",
        "adversarial_samples": "function",
        "likeliest_other": "function",
    },
    null={"s": 0.0, "a": 0.0},
    claim="Images drawn under adversarial guidance fool classifiers more often, and look better, than those of earlier "
    "unrestricted attacks.",
)


class AdversarialSamples(NamedTuple):
    """What was drawn.

    ``images`` are in [0, 1], (N, C, H, W); ``fooled`` tells which of them the classifier does not take for their label,
    or takes for their target, bool, (N,); ``rounds`` is how often each was drawn, int64, (N,).
    """

    images: Tensor
    fooled: Tensor
    rounds: Tensor


def likeliest_other(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the class that comes nearest to being seen, of all but the label.

    Args:
        logits: Shape (N, classes), of at least 2 classes.
        labels: Class numbers, int64, (N,).

    Returns:
        Class numbers, (N,).

    Raises:
        ValueError: If there is a single class, or not one label a row.

    Example:
        >>> likeliest_other(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 1]))
        tensor([2, 0])
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, classes) with at least 2 classes, got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, one for each of {len(logits)} rows, got {labels.dtype} {labels.shape}")
    return logits.scatter(1, labels[:, None], -math.inf).argmax(dim=1)


def adversarial_gradient(
    victim: Callable[[Tensor], Tensor],
    z: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    decode: Callable[[Tensor], Tensor] = lambda z: z,
) -> tuple[Tensor, Tensor]:
    """Give the gradient of log p(target) at what is diffused, and the logits of the images that it stands for.

    Args:
        victim: Maps images in [0, 1] to logits (N, classes).
        z: What is diffused, with the noise that is left in it, (N, ...).
        labels: Class numbers, int64, (N,).
        targets: The classes to go to, int64, (N,); by default `likeliest_other` of each.
        decode: Maps what is diffused to images, which are then held to [0, 1]: outside there is no gradient.

    Returns:
        The gradient, of the shape of ``z``, and logits, (N, classes).

    Raises:
        ValueError: If there is not one label or target for each.

    Example:
        >>> z, label = torch.tensor([[0.5, 0.25]]), torch.tensor([0])
        >>> adversarial_gradient(nn.Identity(), z, label)[0]
        tensor([[-0.5622,  0.5622]])
    """
    with torch.enable_grad():
        place = z.detach().requires_grad_()
        logits = victim(decode(place).clamp(0, 1))
        wanted = likeliest_other(logits.detach(), labels) if targets is None else targets
        if wanted.shape != z.shape[:1]:
            raise ValueError(f"targets must be one for each of {len(z)}, got shape {tuple(wanted.shape)}")
        chosen = F.log_softmax(logits, dim=1).gather(1, wanted[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), place)
    return gradient, logits.detach()


@torch.no_grad()
def adversarial_samples(
    model: ConditionalDiffusion,
    victim: nn.Module,
    labels: Tensor,
    shape: tuple[int, int, int],
    *,
    generator: torch.Generator,
    targets: Tensor | None = None,
    s: float = 1.0,
    a: float = 0.5,
    rounds: int = 5,
    share: float = 0.2,
    guidance: float = 3.0,
    steps: int = 200,
) -> AdversarialSamples:
    """Draw an image of each label that a classifier is to take for another class.

    With ``s=0`` and ``a=0`` they are the images that DDIM draws, bit for bit. The victim is in eval mode meanwhile.

    Args:
        model: A diffusion model of classes, such as a `paperweight.generators.DiffusionModel` trained with labels.
        victim: Maps images in [0, 1] to logits (N, classes).
        labels: The class of each image, int64, (N,).
        shape: Shape (C, H, W) of what is diffused.
        generator: Draws the noise.
        targets: What the victim shall see, int64, (N,), none the label; by default anything but the label.
        s: Length of a step along the gradient after each guided step of the sampling, at least 0; 1 in the authors'
            script for ImageNet.
        a: The same for the noise, after each round, at least 0; 0.5 there.
        rounds: How often an image is drawn at most, at least 1; 5 there.
        share: Share of the steps, the last ones, that are guided, from 0 to 1; the very last is not.
        guidance: Weight of classifier-free guidance; 1 is none.
        steps: Steps of DDIM, at least 1.

    Returns:
        The images, which of them fool the victim, and how often each was drawn.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> model, victim = ModelSpec(shape=(1, 8, 8), classes=3).build(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> draws = torch.Generator().manual_seed(0)
        >>> adversarial_samples(model, victim, torch.tensor([0, 2]), (1, 8, 8), generator=draws, steps=4).images.shape
        torch.Size([2, 1, 8, 8])
    """
    for name, value, most in (("s", s, math.inf), ("a", a, math.inf), ("share", share, 1 + 1e-12)):
        if isinstance(value, bool) or not 0 <= value < most:
            raise ValueError(
                f"{name} must be at least 0 and {'at most 1' if name == 'share' else 'finite'}, got {value}"
            )
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be finite, got {guidance}")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
    if targets is not None and (targets.shape != labels.shape or bool((targets == labels).any())):
        raise ValueError(f"targets must be one for each of {len(labels)} labels, and another class, got {targets}")
    schedule = model.schedule.subsample(steps)
    noise = normal(torch.empty(len(labels), *shape, device=labels.device), generator)
    images = torch.empty_like(model.decode(noise))
    fooled, drawn = torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(labels)
    with evaluating(victim):
        for number in range(rounds):
            place = (~fooled).nonzero().squeeze(1)
            if not len(place):
                break
            own, wanted = labels[place], None if targets is None else targets[place]
            z = _sampled(model, victim, schedule, noise[place], own, wanted, s, share, guidance)
            gradient, logits = adversarial_gradient(victim, z, own, wanted, model.decode)
            seen = logits.argmax(dim=1)
            images[place], drawn[place] = model.decode(z).clamp(0, 1), number + 1
            fooled[place] = seen != own if wanted is None else seen == wanted
            noise[place] += a * gradient
    return AdversarialSamples(images, fooled, drawn)


def _sampled(
    model: ConditionalDiffusion,
    victim: nn.Module,
    schedule: NoiseSchedule,
    z: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    s: float,
    share: float,
    guidance: float,
) -> Tensor:
    """Go from noise to data by DDIM, led by the victim after each step of the last share but the very last one."""
    eps = held_noise(model, predicted_noise(model, labels, len(labels), guidance))
    for index in reversed(range(len(schedule))):
        t = schedule.times[index].expand(len(z)).to(z.device)
        x0, noise = split_prediction(z, eps(z, t), schedule.abar[index].item(), "eps")
        z = ddim_step(x0 if model.clamp is None else x0.clamp(*model.clamp), noise, schedule.previous(index))
        if s and 0 < index <= share * len(schedule):
            z = z + s * adversarial_gradient(victim, z, labels, targets, model.decode)[0]
    return z
