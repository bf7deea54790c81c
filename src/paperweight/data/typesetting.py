"""Glyphs: characters typeset in the fonts that matplotlib ships, disturbed as much as a difficulty says.

Images are drawn when they are asked for, any number of them, and need no files and no network. A difficulty sets how
accurate a small network becomes, from nearly always right to three in five.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.data.labelled import LabelledImages

__all__ = ["CHARACTERS", "MAKERS", "glyphs"]

CHARACTERS = "ABDEGHKPRS"
"""The classes, in the order of their labels."""

_FONTS = (
    *(f"DejaVu{family}" for family in ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Bold")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10", "cmmi10", "cmsy10"),
)
_SIDE = 64
_CHUNK = 2_000


def glyphs(
    count: int,
    *,
    difficulty: float = 0.5,
    side: int = 28,
    colour: bool = False,
    generator: torch.Generator,
) -> LabelledImages:
    """Draw characters: shifted, turned, slanted, blurred, crossed by strokes, on a textured ground.

    Args:
        count: How many images.
        difficulty: From 0, upright and clean, to 1: all disturbances at their strongest.
        side: Height and width in pixels, at least 8.
        colour: Whether ink and ground have colours, 3 channels, or are grey, 1 channel.
        generator: Decides the draw. On the CPU.

    Returns:
        Images in [0, 1], (count, C, side, side), and labels that number ``CHARACTERS``, each equally likely.

    Raises:
        ValueError: If ``count`` is below 1, ``difficulty`` outside [0, 1], or ``side`` below 8.

    Example:
        >>> drawn = glyphs(4, side=16, generator=torch.Generator().manual_seed(0))
        >>> drawn.images.shape, len(drawn.labels)
        (torch.Size([4, 1, 16, 16]), 4)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty must lie in [0, 1], got {difficulty}")
    if side < 8:
        raise ValueError(f"side must be at least 8 pixels, got {side}")
    parts: list[LabelledImages] = []
    for start in range(0, count, _CHUNK):
        parts.append(_drawn(min(_CHUNK, count - start), difficulty, side, colour, generator))
    return LabelledImages(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _drawn(count: int, difficulty: float, side: int, colour: bool, generator: torch.Generator) -> LabelledImages:
    channels = 3 if colour else 1

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.randint(len(CHARACTERS), (count,), generator=generator)
    fonts = torch.randint(len(_FONTS), (count,), generator=generator)
    turn, slant, size = (difficulty * uniform(-1, 1) * most for most in (0.35, 0.25, 0.2))
    shift = difficulty * uniform(-0.15, 0.15, 2)
    ink = _placed(_masks()[fonts, labels], turn, slant, size.exp(), shift, side)
    for ends, width in ((uniform(-1, 1, 2, 2), uniform(0.02, 0.08)) for _ in range(2)):
        stroke = _segment(ends, width, side) * (uniform(0, 1) < difficulty).float()[:, None, None]
        covers = uniform(0, 1)[:, None, None] < 0.5
        ink = torch.where(covers, ink * (1 - stroke), torch.maximum(ink, stroke))
    soft = F.avg_pool2d(F.pad(ink[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    ink = torch.lerp(ink[:, None], soft, difficulty * uniform(0, 1, 1, 1, 1))
    ground = 0.05 + difficulty * uniform(0.1, 0.3, channels, 1, 1)
    strength = (1 - difficulty) * 0.9 + difficulty * uniform(0.3, 0.6, channels, 1, 1)
    coarse = F.interpolate(torch.randn(count, channels, 6, 6, generator=generator), size=(side, side), mode="bicubic")
    fine = torch.randn(count, channels, side, side, generator=generator)
    images = ground + strength * ink + difficulty * (0.07 * coarse + 0.09 * fine)
    inverted = uniform(0, 1, 1, 1, 1) < difficulty / 2
    return LabelledImages(torch.where(inverted, 1 - images, images).clamp(0, 1), labels)


@cache
def _masks() -> Tensor:
    """Typeset every character in every font: how much of each pixel is ink, (fonts, characters, side, side)."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = np.empty((len(_FONTS), len(CHARACTERS), _SIDE, _SIDE), np.float32)
    for number, name in enumerate(_FONTS):
        font = ImageFont.truetype(folder / f"{name}.ttf", 44, layout_engine=ImageFont.Layout.BASIC)
        for place, character in enumerate(CHARACTERS):
            image = Image.new("L", (_SIDE, _SIDE))
            left, top, right, bottom = font.getbbox(character)
            corner = (_SIDE - left - right) / 2, (_SIDE - top - bottom) / 2
            ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
            masks[number, place] = np.asarray(image, np.float32) / 255
    return torch.from_numpy(masks)


def _placed(masks: Tensor, turn: Tensor, slant: Tensor, size: Tensor, shift: Tensor, side: int) -> Tensor:
    """Turn (radians), slant, enlarge and shift (in half sides) each mask (N, H, W), onto ``side`` pixels a side."""
    cos, sin = turn.cos() / size, turn.sin() / size
    rows = torch.stack([torch.stack([cos, slant * cos - sin], dim=1), torch.stack([sin, slant * sin + cos], dim=1)], 1)
    grid = F.affine_grid(torch.cat([rows, -(rows @ shift[:, :, None])], dim=2), [len(masks), 1, side, side], False)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def _segment(ends: Tensor, width: Tensor, side: int) -> Tensor:
    """Draw the segment between two points (N, 2, 2) of [-1, 1]^2 as ink, (N, side, side)."""
    axis = (torch.arange(side) * 2 + 1) / side - 1
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    start, along = ends[:, None, None, 0], (ends[:, 1] - ends[:, 0])[:, None, None]
    share = (((points - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    distance = (points - start - share[..., None] * along).norm(dim=-1)
    return ((width[:, None, None] - distance) * side / 2 + 0.5).clamp(0, 1)


MAKERS = (glyphs, _drawn, _masks.__wrapped__, _placed, _segment)
"""What draws: whoever keeps what was drawn lets a recording see these."""
