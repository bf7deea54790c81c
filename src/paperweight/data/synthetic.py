"""Sets drawn from known laws: Gaussian mixtures in the plane, and coloured shapes with their attributes."""

import math

import torch

__all__ = ["COLOURS", "SHAPES", "gaussian_grid", "gaussian_mixture", "shapes"]

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
}


def gaussian_mixture(
    n: int,
    modes: int = 8,
    radius: float = 1.0,
    scale: float = 0.05,
    *,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points from equally likely Gaussians on a ring around the origin.

    Args:
        n: How many points.
        modes: How many Gaussians, evenly spaced, the first on the positive first axis.
        radius: Distance of their centres from the origin.
        scale: Their standard deviation.
        generator: Decides the draw.

    Returns:
        Points, float32 of shape (n, 2), and the mode of each, int64 of shape (n,).

    Raises:
        ValueError: If `n` or `modes` is below 1, or `scale` is negative.

    Example:
        >>> points, mode = gaussian_mixture(4, scale=0.0, generator=torch.Generator().manual_seed(0))
        >>> points.norm(dim=1).round(decimals=3).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    _require(n >= 1, "n", "at least 1", n)
    _require(modes >= 1, "modes", "at least 1", modes)
    angles = torch.arange(modes) * (2 * math.pi / modes)
    return _around(radius * torch.stack([angles.cos(), angles.sin()], dim=1), n, scale, generator)


def gaussian_grid(
    n: int,
    side: int = 5,
    spacing: float = 1.0,
    scale: float = 0.05,
    *,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points from equally likely Gaussians on a square grid around the origin.

    Args:
        n: How many points.
        side: How many Gaussians in a row, so that there are side x side.
        spacing: Distance between neighbouring centres.
        scale: Their standard deviation.
        generator: Decides the draw.

    Returns:
        Points, float32 of shape (n, 2), and the mode of each, int64 of shape (n,), counted row by row.

    Raises:
        ValueError: If `n` or `side` is below 1, or `scale` is negative.

    Example:
        >>> points, mode = gaussian_grid(1000, side=3, generator=torch.Generator().manual_seed(0))
        >>> points.shape, mode.unique().tolist()
        (torch.Size([1000, 2]), [0, 1, 2, 3, 4, 5, 6, 7, 8])
    """
    _require(n >= 1, "n", "at least 1", n)
    _require(side >= 1, "side", "at least 1", side)
    line = (torch.arange(side) - (side - 1) / 2) * spacing
    return _around(torch.cartesian_prod(line, line).reshape(-1, 2), n, scale, generator)


def shapes(n: int, size: int = 16, *, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Draw antialiased shapes in one of six colours on black, at random positions and sizes, wholly inside the image.

    Args:
        n: How many images.
        size: Height and width in pixels, at least 8.
        generator: Decides shape, colour, position and size, each independently uniform.

    Returns:
        Images, float32 of shape (n, 3, size, size) in [0, 1], and by name the attributes of each, shape (n,): `shape`
        and `colour`, int64 positions in `SHAPES` and `COLOURS`; `x` and `y`, the centre in pixels; `radius`, half the
        extent in pixels.

    Raises:
        ValueError: If `n` is below 1 or `size` below 8.

    Example:
        >>> images, attributes = shapes(5, generator=torch.Generator().manual_seed(0))
        >>> images.shape, sorted(attributes)
        (torch.Size([5, 3, 16, 16]), ['colour', 'radius', 'shape', 'x', 'y'])
    """
    _require(n >= 1, "n", "at least 1", n)
    _require(size >= 8, "size", "at least 8", size)
    shape = torch.randint(len(SHAPES), (n,), generator=generator)
    colour = torch.randint(len(COLOURS), (n,), generator=generator)
    radius = size * (0.15 + 0.2 * torch.rand(n, generator=generator))
    centre = radius + (size - 2 * radius) * torch.rand(2, n, generator=generator)
    samples = 4
    grid = (torch.arange(size * samples) + 0.5) / samples
    u = ((grid[None, None, :] - centre[0, :, None, None]) / radius[:, None, None]).expand(n, size * samples, -1)
    v = ((grid[None, :, None] - centre[1, :, None, None]) / radius[:, None, None]).expand(n, -1, size * samples)
    in_square = torch.maximum(u.abs(), v.abs()) <= 1
    inside = torch.stack(
        [
            u**2 + v**2 <= 1,
            in_square,
            in_square & (2 * u.abs() <= v + 1),
            in_square & (torch.minimum(u.abs(), v.abs()) <= 1 / 3),
        ]
    )[shape, torch.arange(n)]
    cover = torch.nn.functional.avg_pool2d(inside[:, None].to(torch.float32), samples)
    palette = torch.tensor(list(COLOURS.values()))
    attributes = {"shape": shape, "colour": colour, "x": centre[0], "y": centre[1], "radius": radius}
    return cover * palette[colour][:, :, None, None], attributes


def _around(
    centres: torch.Tensor, n: int, scale: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw n points around equally likely centres of shape (modes, 2)."""
    _require(scale >= 0, "scale", "at least 0", scale)
    mode = torch.randint(len(centres), (n,), generator=generator)
    return centres[mode] + scale * torch.randn(n, 2, generator=generator), mode


def _require(holds: bool, name: str, rule: str, value: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
