"""SolidMark: a random grey key painted beside each training image shows, image by image, what a generator memorised.

The key has nothing to do with what the image shows, so that a generator which gives it back, asked with the image
alone, must have memorised that very training example. No similarity of images tells memory from generalisation so.
Cost: marking is free; a read-out is one outpainting an image (the paper's), or some hundred calls of the network.

Source:
    N. Kriplani, M. Pham, G. Somepalli, C. Hegde, N. Cohen, "SolidMark: Evaluating Image Memorization in Generative
    Models", 2025, https://arxiv.org/abs/2503.00592, and the authors' code. Implemented: border, central and arbitrary
    marks, and the keys recalled by outpainting.

Deviations:
    - Two read-outs are added, since the paper's misses memorised keys: its mark settles before the image is clear.
      ``resample`` goes back and forth in every step; `key_likelihood` finds the key with the network's smallest error.
    - Keys, images and estimates are in [0, 1] everywhere; the authors compare keys in two units with each other in
      their evaluation of Stable Diffusion. Noise is drawn anew for every image; the authors reuse the first.
    - Whether a record is held out, and its key, follow from a hash of a seed and the record's name, so that they do
      not depend on the order of the data; the authors draw keys in the order of a loader.
    - Models of text are asked without guidance unless it is given; the authors' code for Stable Diffusion has 3, and
      100 steps.
    - In a latent space the known part is replaced there, in every step; the authors replace decoded pixels in every
      tenth. A centred mark covers the image's middle; the authors first frame it by zeros.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from paperweight.auditing._grey_mark import SolidMark
from paperweight.catalogue import Paper
from paperweight.generators.outpainting import outpaint
from paperweight.generators.process import add_noise, normal
from paperweight.generators.protocol import ConditionalDiffusion, predicted_noise

__all__ = ["SolidMark", "key_likelihood", "recall_keys"]

PAPER = Paper(
    title="SolidMark: Evaluating Image Memorization in Generative Models",
    authors=("Nicky Kriplani", "Minh Pham", "Gowthami Somepalli", "Chinmay Hegde", "Niv Cohen"),
    year=2025,
    url="https://arxiv.org/abs/2503.00592",
    provides={
        "SolidMark": "data-transform",
        "key_likelihood": "function",
        "recall_keys": "function",
    },
    claim="The distance of recalled keys tells, image by image, what a generator memorised, where distances between "
    "samples and training images do not.",
)

Readout = Literal["replace", "resample", "likelihood"]


@torch.no_grad()
def key_likelihood(
    model: ConditionalDiffusion,
    images: Tensor,
    mark: SolidMark,
    *,
    generator: torch.Generator,
    given: Any = None,
    grid: int = 40,
    times: int = 6,
    repeats: int = 4,
) -> tuple[Tensor, Tensor]:
    """Compute the model's error in denoising each image under each key of a grid; a memorised key has the smallest.

    At every time and repeat all keys of an image see the same noise. It takes ``grid * times * repeats`` evaluations of
    the network an image, and no sampling.

    Args:
        model: The model.
        images: Unmarked images in [0, 1], (N, C, H, W).
        mark: The mark.
        generator: Draws the noise.
        given: Labels or captions, one an image, or None.
        grid: Number of keys tried, at least 2, evenly spaced in [0, 1].
        times: Number of times, at least 1, evenly spaced from 0.1 to 0.6 of the schedule.
        repeats: Draws of the noise a time, at least 1.

    Returns:
        The keys tried, (grid,), and the mean squared error of the predicted noise for each, (N, grid).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> model = ModelSpec(shape=(1, 4, 4), arguments={"width": 8}).build()
        >>> images, generator = torch.zeros(3, 1, 2, 2), torch.Generator().manual_seed(0)
        >>> keys, errors = key_likelihood(model, images, SolidMark(thickness=1), generator=generator, grid=5)
        >>> keys, errors.shape
        (tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000]), torch.Size([3, 5]))
    """
    if grid < 2 or times < 1 or repeats < 1:
        raise ValueError(f"grid must be at least 2, times and repeats 1, got {grid}, {times} and {repeats}")
    count = len(images)
    keys = torch.linspace(0, 1, grid, device=images.device)
    painted = mark.insert(images.repeat_interleave(grid, dim=0), keys.repeat(count))
    latents = model.encode(painted)
    rows = torch.arange(count).repeat_interleave(grid)
    asked = given[rows.to(given.device)] if isinstance(given, Tensor) else given and [given[row] for row in rows]
    eps = predicted_noise(model, asked, len(latents))
    last = len(model.schedule) - 1
    errors = torch.zeros(count * grid, device=latents.device, dtype=torch.promote_types(latents.dtype, torch.float32))
    for time in torch.linspace(0.1, 0.6, times).tolist():
        index = round(time * last)
        t = model.schedule.times[index].expand(len(latents)).to(latents.device)
        for _ in range(repeats):
            noise = normal(latents[::grid], generator).repeat_interleave(grid, dim=0)
            z = add_noise(latents, noise, model.schedule.abar[index].item())
            errors += (eps(z, t).to(errors) - noise.to(errors)).square().flatten(1).mean(dim=1)
    return keys, errors.view(count, grid) / (times * repeats)


def recall_keys(
    model: ConditionalDiffusion,
    images: Tensor,
    mark: SolidMark,
    *,
    generator: torch.Generator,
    given: Any = None,
    readout: Readout = "replace",
    repeats: int = 1,
    steps: int | None = None,
    guidance: float = 1.0,
    batch_size: int = 256,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    """Ask a model for the keys of images that it is shown without them.

    Args:
        model: The model.
        images: Unmarked images in [0, 1], (N, C, H, W).
        mark: The mark.
        generator: Draws all noise, and one of the keys of equal likelihood.
        given: Labels or captions, one an image, or None.
        readout: ``replace``, the paper's outpainting; ``resample``, the same with five passes a step; ``likelihood``,
            the key of `key_likelihood`, on a grid of 40, with the smallest error.
        repeats: Number of estimates an image, at least 1; 10 in the paper's study of duplicates.
        steps: Steps of outpainting; by default 250, the paper's, or all that the model has; 100 in the authors' code
            for Stable Diffusion.
        guidance: Weight of classifier-free guidance while outpainting; 1 is none, 3 in the authors' code for Stable
            Diffusion. The likelihood is that of the condition alone.
        batch_size: Images a call of the network, at least 1.
        progress: Called with the number of images done and of all.

    Returns:
        Estimates in [0, 1], (repeats, N), in float32 at least.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from paperweight.generators import ModelSpec
        >>> model = ModelSpec(shape=(1, 4, 4), arguments={"width": 8}).build()
        >>> images, generator = torch.zeros(3, 1, 2, 2), torch.Generator().manual_seed(0)
        >>> recall_keys(model, images, SolidMark(thickness=1), generator=generator, steps=2).shape
        torch.Size([1, 3])
    """
    if readout not in ("replace", "resample", "likelihood"):
        raise ValueError(f"readout must be 'replace', 'resample' or 'likelihood', got {readout!r}")
    if repeats < 1 or batch_size < 1:
        raise ValueError(f"repeats and batch_size must be at least 1, got {repeats} and {batch_size}")
    size = max(1, batch_size // 40) if readout == "likelihood" else batch_size
    mask = mark.pixels((images.shape[1], images.shape[2], images.shape[3]))
    estimates = images.new_empty(repeats, len(images), dtype=torch.promote_types(images.dtype, torch.float32))
    for repeat in range(repeats):
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            asked = None if given is None else given[part]
            if readout == "likelihood":
                keys, errors = key_likelihood(model, images[part], mark, generator=generator, given=asked)
                best = (errors == errors.amin(dim=1, keepdim=True)).float().to(generator.device)
                chosen = torch.multinomial(best, 1, generator=generator)[:, 0]
                estimates[repeat, part] = keys[chosen.to(keys.device)]
            else:
                blank, passes = mark.blank(images[part]), 5 if readout == "resample" else 1
                filled = outpaint(
                    model,
                    blank,
                    mask,
                    given=asked,
                    steps=steps,
                    passes=passes,
                    guidance=guidance,
                    generator=generator,
                )
                estimates[repeat, part] = mark.read(filled)
            if progress is not None:
                progress(repeat * len(images) + min(start + size, len(images)), repeats * len(images))
    return estimates
