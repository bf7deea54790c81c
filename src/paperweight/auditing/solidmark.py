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
    - In a latent space the known part is replaced there, in every step; the authors replace decoded pixels in every
      tenth. A centred mark covers the image's middle; the authors first frame it by zeros.
"""

from collections.abc import Callable
from typing import Any, Literal, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.diffusion._outpainting import outpaint
from paperweight.diffusion._process import add_noise, normal
from paperweight.diffusion._protocol import ConditionalDiffusion, predicted_noise

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


@final
class SolidMark:
    """Paints a grey key onto images, hides it and reads it.

    Called as ``mark(images, labels, generator=...)`` it draws a key for each image, uniform in [0, 1].

    Args:
        pattern: ``border`` frames the image, which grows; ``centre`` covers a square in its middle; ``mask`` covers
            the pixels of ``mask``.
        thickness: Width of the border or side of the square, in pixels, at least 1; 4 and 16 in the authors' code.
        mask: The pixels of pattern ``mask``, bool, (1, H, W), at least one.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> mark = SolidMark(thickness=1)
        >>> marked = mark.insert(torch.zeros(1, 1, 2, 2), torch.tensor([0.5]))
        >>> marked.flatten(1).sum(), mark.read(marked)
        (tensor(6.), tensor([0.5000]))
    """

    def __init__(
        self, pattern: Literal["border", "centre", "mask"] = "border", thickness: int = 4, mask: Tensor | None = None
    ) -> None:
        if pattern not in ("border", "centre", "mask"):
            raise ValueError(f"pattern must be 'border', 'centre' or 'mask', got {pattern!r}")
        if not isinstance(thickness, int) or thickness < 1:
            raise ValueError(f"thickness must be a whole number of at least 1, got {thickness!r}")
        if (mask is None) == (pattern == "mask"):
            raise ValueError(f"mask must be given with pattern 'mask' and no other, got {pattern!r}")
        if mask is not None and (mask.ndim != 3 or len(mask) != 1 or mask.dtype != torch.bool or not mask.any()):
            raise ValueError(f"mask must be bool, (1, H, W), and mark a pixel, got {mask.dtype} {tuple(mask.shape)}")
        self.pattern = pattern
        self.thickness = thickness
        self._mask = mask

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Give the shape (C, H', W') of the marked image from that of the image, (C, H, W).

        Raises:
            ValueError: If the mark does not fit into the image.
        """
        channels, height, width = shape
        if self.pattern == "border":
            return channels, height + 2 * self.thickness, width + 2 * self.thickness
        if self.pattern == "centre" and self.thickness > min(height, width):
            raise ValueError(f"thickness must be at most the image's {height} x {width} pixels, got {self.thickness}")
        if self._mask is not None and self._mask.shape[1:] != (height, width):
            raise ValueError(f"images must be of the mask's {tuple(self._mask.shape[1:])} pixels, got {height, width}")
        return shape

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        """Give the marked pixels, bool, (1, H', W'), from the shape (C, H, W) of the image."""
        _, height, width = self.shape(shape)
        if self._mask is not None:
            return self._mask
        border, t = self.pattern == "border", self.thickness
        rows, columns = (slice(t, n - t) if border else slice((n - t) // 2, (n + t) // 2) for n in (height, width))
        marked = torch.full((1, height, width), border)
        marked[:, rows, columns] = not border
        return marked

    def insert(self, images: Tensor, keys: Tensor) -> Tensor:
        """Paint a key onto each image: m k + (1 - m) x.

        Args:
            images: Images, entries in [0, 1], (N, C, H, W).
            keys: Keys in [0, 1], (N,).

        Returns:
            Marked images, (N, C, H', W').

        Raises:
            ValueError: If an entry or a key is outside [0, 1], or a shape does not fit.
        """
        if images.ndim != 4 or (images.numel() and not 0 <= images.min() <= images.max() <= 1):
            raise ValueError(
                f"images must be (N, C, H, W) with entries from 0 to 1, got {tuple(images.shape)}; keys and images are "
                "in one unit, so divide by 255, or map [-1, 1] to [0, 1]"
            )
        if keys.shape != images.shape[:1] or (keys.numel() and not 0 <= keys.min() <= keys.max() <= 1):
            raise ValueError(f"keys must be one an image, from 0 to 1, got {keys.tolist()[:5]} for {len(images)}")
        margin = self.thickness if self.pattern == "border" else 0
        marked = torch.nn.functional.pad(images, [margin] * 4)
        mask = self.mask((images.shape[1], images.shape[2], images.shape[3])).to(images.device)
        return torch.where(mask, keys.to(marked)[:, None, None, None], marked)

    def blank(self, images: Tensor) -> Tensor:
        """Give images (N, C, H, W) as marked ones whose mark is hidden, (N, C, H', W')."""
        return self.insert(images, images.new_full((len(images),), 0.5))

    def hide(self, marked: Tensor) -> Tensor:
        """Give marked images (N, C, H', W') with 0.5 in place of the key."""
        return marked.masked_fill(self._mask_of(marked), 0.5)

    def read(self, marked: Tensor) -> Tensor:
        """Read the key of each marked image, (N,): the mean of the marked entries."""
        return marked[:, :, self._mask_of(marked)[0]].flatten(1).double().mean(dim=1).to(marked.dtype)

    def __call__(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images with keys drawn for them, and their labels; `read` gives the keys back."""
        keys = torch.rand(len(images), generator=generator, device=generator.device)
        return self.insert(images, keys.to(images)), labels.clone()

    def to_dict(self) -> dict[str, Any]:
        """Give what `from_dict` makes it from, of JSON's types."""
        mask = None if self._mask is None else self._mask.int().tolist()
        return {"pattern": self.pattern, "thickness": self.thickness, "mask": mask}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "SolidMark":
        """Make it from what `to_dict` gave; a ``ValueError`` says what is wrong with it."""
        mask = given.get("mask")
        return cls(given["pattern"], given["thickness"], None if mask is None else torch.tensor(mask).bool())

    def _mask_of(self, marked: Tensor) -> Tensor:
        channels, height, width = marked.shape[1:]
        less = 2 * self.thickness if self.pattern == "border" else 0
        if min(height, width) <= less:
            raise ValueError(f"marked images must exceed the border of {self.thickness} pixels, got {height} x {width}")
        return self.mask((channels, height - less, width - less)).to(marked.device)


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
        >>> from paperweight.diffusion._model import ModelSpec
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
    errors = torch.zeros(count * grid, device=latents.device)
    for time in torch.linspace(0.1, 0.6, times).tolist():
        index = round(time * last)
        t = model.schedule.times[index].expand(len(latents)).to(latents.device)
        for _ in range(repeats):
            noise = normal(latents[::grid], generator).repeat_interleave(grid, dim=0)
            z = add_noise(latents, noise, model.schedule.abar[index].item())
            errors += (eps(z, t) - noise).square().flatten(1).mean(dim=1)
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
        steps: Steps of outpainting; left out, 250, the paper's, or all that the model has.
        batch_size: Images a call of the network, at least 1.
        progress: Called with the number of images done and of all.

    Returns:
        Estimates in [0, 1], (repeats, N).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from paperweight.diffusion._model import ModelSpec
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
    mask = mark.mask((images.shape[1], images.shape[2], images.shape[3]))
    estimates = images.new_empty(repeats, len(images))
    for repeat in range(repeats):
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            asked = None if given is None else given[part]
            if readout == "likelihood":
                keys, errors = key_likelihood(model, images[part], mark, generator=generator, given=asked)
                best = (errors == errors.amin(dim=1, keepdim=True)).float().cpu()
                chosen = torch.multinomial(best, 1, generator=generator)[:, 0]
                estimates[repeat, part] = keys[chosen.to(keys.device)]
            else:
                blank, passes = mark.blank(images[part]), 5 if readout == "resample" else 1
                filled = outpaint(model, blank, mask, given=asked, steps=steps, passes=passes, generator=generator)
                estimates[repeat, part] = mark.read(filled)
            if progress is not None:
                progress(repeat * len(images) + min(start + size, len(images)), repeats * len(images))
    return estimates
