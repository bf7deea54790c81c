"""A grey key on images: painted, hidden and read.

Source:
    N. Kriplani, M. Pham, G. Somepalli, C. Hegde, N. Cohen, "SolidMark: Evaluating Image Memorization in Generative
    Models", 2025, https://arxiv.org/abs/2503.00592.

Deviations:
    those of `paperweight.auditing.solidmark`
"""

from typing import Any, Literal, final

import torch
from torch import Tensor

__all__ = ["SolidMark"]


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
        self.mask = mask

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
        if self.mask is not None and self.mask.shape[1:] != (height, width):
            raise ValueError(f"images must be of the mask's {tuple(self.mask.shape[1:])} pixels, got {height, width}")
        return shape

    def pixels(self, shape: tuple[int, int, int]) -> Tensor:
        """Give the marked pixels, bool, (1, H', W'), from the shape (C, H, W) of the image."""
        _, height, width = self.shape(shape)
        if self.mask is not None:
            return self.mask
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
            raise ValueError(f"keys must be one for each image, from 0 to 1, got {keys.tolist()[:5]} for {len(images)}")
        margin = self.thickness if self.pattern == "border" else 0
        marked = torch.nn.functional.pad(images, [margin] * 4)
        mask = self.pixels((images.shape[1], images.shape[2], images.shape[3])).to(images.device)
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
        mask = None if self.mask is None else self.mask.int().tolist()
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
        return self.pixels((channels, height - less, width - less)).to(marked.device)
