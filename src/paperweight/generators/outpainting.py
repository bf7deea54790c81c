"""Sampling of the unknown part of images whose rest is known, by replacement of what is known in every step.

Source:
    The replacement of Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR, 2021 (appendix I), and the passes back and forth of A. Lugmayr et al., "RePaint: Inpainting using Denoising
    Diffusion Probabilistic Models", CVPR, 2022 (algorithm 1, jumps of length 1).
"""

from typing import Any

import torch
from torch import Tensor

from paperweight.generators.process import (
    Method,
    NoiseSchedule,
    add_noise,
    ddim_step,
    ddpm_step,
    normal,
    renoise,
    split_prediction,
)
from paperweight.generators.protocol import ConditionalDiffusion, predicted_noise

__all__ = ["outpaint"]


def _reverse_step(
    eps: Tensor,
    z: Tensor,
    schedule: NoiseSchedule,
    index: int,
    method: Method,
    clamp: tuple[float, float] | None,
    generator: torch.Generator,
) -> Tensor:
    abar, previous = schedule.abar[index].item(), schedule.previous(index)
    x0, noise = split_prediction(z, eps, abar, "eps")
    if clamp is not None:
        x0 = x0.clamp(*clamp)
    return ddim_step(x0, noise, previous) if method == "ddim" else ddpm_step(z, x0, abar, previous, generator)


@torch.no_grad()
def outpaint(
    model: ConditionalDiffusion,
    images: Tensor,
    mask: Tensor,
    *,
    generator: torch.Generator,
    given: Any = None,
    steps: int | None = None,
    method: Method = "ddpm",
    passes: int = 1,
    guidance: float = 1.0,
) -> Tensor:
    """Fill in the unknown pixels: before each reverse step what is known is replaced by itself with fresh noise.

    With one pass it is no exact conditional sampler: the unknown part settles at high noise, where little is known, and
    what is known later no longer moves it. More passes a step, each after a step back to noise, come nearer.

    Args:
        model: The model.
        images: Images in [0, 1], (N, C, H, W), with any finite values in unknown pixels.
        mask: The unknown pixels, bool, (1, H, W).
        generator: Draws all noise.
        given: Labels or captions, one an image, or None.
        steps: Steps through the model's schedule; by default 250 or all that it has.
        method: ``ddpm`` or ``ddim``, as in `denoise`.
        passes: Passes a step, at least 1.
        guidance: Weight of classifier-free guidance; 1 is none.

    Returns:
        Images in [0, 1], (N, C, H, W), whose known pixels are those given.

    Raises:
        ValueError: If ``steps`` or ``passes`` is out of range, ``method`` unknown, or the mask does not fit.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> model = ModelSpec(shape=(1, 8, 8), arguments={"width": 8}).build()
        >>> left = torch.arange(8).expand(1, 8, 8) < 4
        >>> filled = outpaint(model, torch.ones(2, 1, 8, 8), left, steps=3, generator=torch.Generator().manual_seed(0))
        >>> filled[..., 4:].unique()
        tensor([1.])
    """
    if method not in ("ddim", "ddpm"):
        raise ValueError(f"method must be 'ddim' or 'ddpm', got {method!r}")
    if not isinstance(passes, int) or passes < 1:
        raise ValueError(f"passes must be a whole number of at least 1, got {passes!r}")
    if mask.shape != (1, *images.shape[2:]) or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, (1, H, W), got {mask.dtype} {tuple(mask.shape)} for {images.shape}")
    schedule = model.schedule.subsample(min(250, len(model.schedule)) if steps is None else steps)
    eps = predicted_noise(model, given, len(images), guidance)
    known, unknown = model.encode(images), model.latent_mask(mask).to(images.device)
    z = normal(known, generator)
    for index in reversed(range(len(schedule))):
        abar = schedule.abar[index].item()
        t = schedule.times[index].expand(len(z)).to(z.device)
        for number in range(passes):
            z = torch.where(unknown, z, add_noise(known, normal(known, generator), abar))
            z = _reverse_step(eps(z, t), z, schedule, index, method, model.clamp, generator)
            if number + 1 < passes:
                z = renoise(z, abar, schedule.previous(index), generator)
    filled = model.decode(torch.where(unknown, z, known)).clamp(0, 1)
    return torch.where(mask.to(images.device), filled.to(images), images)
