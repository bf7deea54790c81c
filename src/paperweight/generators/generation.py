"""Images from captions, and the way to them stopped halfway, as erasers train on.

Where what is diffused has a range, the estimate of the data is held to it in every step, and so is the noise that goes
with it: guidance leads far beyond the range, and noise that still points there would undo in the next step what
clamping did.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paperweight.generators.process import ddim_step, denoise, split_prediction
from paperweight.generators.protocol import ConditionalDiffusion, predicted_noise

__all__ = ["generate", "held_noise", "partly_denoised"]


def held_noise(
    model: ConditionalDiffusion, eps: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Give the noise that belongs to the estimate of the data after it is held to the model's range.

    Args:
        model: Gives schedule and range; without a range the noise stays as it is.
        eps: Predicts the noise in z (N, ...) at training times t (N,), such as guided noise.

    Returns:
        What `denoise` takes as its network.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> z, t = torch.zeros(1, 1, 8, 8), torch.tensor([199])
        >>> held_noise(model, lambda z, t: torch.ones_like(z))(z, t).max() < 0.001
        tensor(True)
    """

    def held(z: Tensor, t: Tensor) -> Tensor:
        if model.clamp is None:
            return eps(z, t)
        abar = model.schedule.abar[t.cpu()]
        x0, _ = split_prediction(z, eps(z, t), abar, "eps")
        return split_prediction(z, x0.clamp(*model.clamp), abar, "x0")[1]

    return held


def generate(
    model: ConditionalDiffusion,
    captions: Sequence[str],
    shape: tuple[int, int, int],
    *,
    generator: torch.Generator,
    guidance: float = 3.0,
    steps: int = 25,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw an image for each caption, by DDIM with classifier-free guidance.

    Args:
        model: The model.
        captions: One caption an image, at least one.
        shape: Shape (C, H, W) of what is diffused.
        generator: Draws the noise.
        guidance: Weight of the guidance; 1 is none.
        steps: Steps through the model's schedule.
        device: Where the model is; the generator's device by default.

    Returns:
        Images in [0, 1], (N, C, H, W).

    Raises:
        ValueError: If ``steps`` is out of range.
        InputError: If the model cannot encode the captions.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> generate(model, ["circle", ""], (1, 8, 8), steps=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    schedule = model.schedule.subsample(steps)
    with torch.no_grad():
        eps = held_noise(model, predicted_noise(model, captions, len(captions), guidance))
        noise = _noise(len(captions), shape, generator, device)
        return model.decode(denoise(eps, noise, schedule=schedule, clamp=model.clamp)).clamp(0, 1)


@torch.no_grad()
def partly_denoised(
    model: ConditionalDiffusion,
    captions: Sequence[str],
    shape: tuple[int, int, int],
    *,
    generator: torch.Generator,
    guidance: float = 3.0,
    steps: int = 25,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Go from noise towards an image for each caption, by DDIM, and stop at a step that is drawn for all of them.

    Args:
        model: The model.
        captions: One caption a sample, at least one.
        shape: Shape (C, H, W) of what is diffused.
        generator: Draws the step to stop at, each equally likely, and the noise.
        guidance: Weight of the guidance; 1 is none.
        steps: Steps of the whole way, of which at least none and at most all but one are taken.
        device: Where the model is; the generator's device by default.

    Returns:
        What is diffused, with the noise that is left, (N, C, H, W), and its training times, int64, (N,).

    Raises:
        ValueError: If ``steps`` is out of range.
        InputError: If the model cannot encode the captions.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> z, t = partly_denoised(model, ["circle"], (1, 8, 8), generator=torch.Generator().manual_seed(0))
        >>> model.eps(z, t, None).shape
        torch.Size([1, 1, 8, 8])
    """
    schedule = model.schedule.subsample(steps)
    stop = int(torch.randint(steps, (), generator=generator, device=generator.device))
    eps = held_noise(model, predicted_noise(model, captions, len(captions), guidance))
    z = _noise(len(captions), shape, generator, device)
    for index in range(steps - 1, stop, -1):
        t = schedule.times[index].expand(len(z)).to(z.device)
        x0, noise = split_prediction(z, eps(z, t), schedule.abar[index].item(), "eps")
        z = ddim_step(x0, noise, schedule.previous(index))
    return z, schedule.times[stop].expand(len(z)).to(z.device)


def _noise(
    count: int, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device | str | None
) -> Tensor:
    noise = torch.randn(count, *shape, generator=generator, device=generator.device)
    return noise if device is None else noise.to(device)
