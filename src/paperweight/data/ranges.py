"""Pixels of any depth as 8 bits: what becomes black and white follows from a whole set, never from one image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paperweight.errors import InputError

__all__ = ["Extent", "extent", "scale", "to_bytes"]

DEPTHS = (1, 2, 4, 8, 10, 12, 14, 16)
FAINT = 1 / 16
"""Floats from 0 to no more than this were divided by more than their range, such as 12 bits by 65535."""


@dataclass(frozen=True)
class Extent:
    """How pixels are stored ("byte", "whole", "float"), the type's name, and the least and greatest of them."""

    kind: str
    type: str
    low: float
    high: float


def extent(pixels: np.ndarray, where: str) -> Extent:
    """Return the extent of an image.

    Raises:
        InputError: If it holds NaN or infinite values.

    Example:
        >>> extent(np.array([[3, 700]], np.uint16), "scan.png")
        Extent(kind='whole', type='uint16', low=3.0, high=700.0)
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{where} holds NaN or infinite pixels; replace them, or leave the image out")
    kind = "byte" if pixels.dtype == np.uint8 else "float" if pixels.dtype.kind == "f" else "whole"
    return Extent(kind, pixels.dtype.name, low, high)


def scale(extents: Sequence[Extent]) -> tuple[float, float, str]:
    """Return the values that become 0 and 255 in images stored in one way, and a note, empty where nothing is to say.

    Whole numbers from 0 on have the smallest usual depth that holds the greatest of the set (1, 2, 4, 8, 10, 12, 14 or
    16 bits), so that sets of one instrument are scaled alike. Floats lie in [0, 1] or [-1, 1], or are whole numbers of
    such a depth; all else, as Hounsfield units, is scaled from the least to the greatest of the set. A set of one value
    does not say what it could hold, and has the range of its type.

    Args:
        extents: Those of all images, at least one, of one kind.

    Example:
        >>> scale([Extent("whole", "uint16", 0.0, 900.0), Extent("whole", "uint16", 0.0, 3900.0)])
        (0.0, 4095.0, 'pixels of 2 images, from 0 to 3900, were scaled so that 0 to 4095 became 0 to 255')
    """
    low, high = min(each.low for each in extents), max(each.high for each in extents)
    kind, types = extents[0].kind, {each.type for each in extents}
    if low == high:
        black, white = _of_one_value(high, types)
    elif low < 0:
        black, white = (-1.0, 1.0) if kind == "float" and -1 <= low <= -0.5 and high <= 1 else (low, high)
    elif kind == "float" and high <= 1:
        black, white = 0.0, 1.0 if high > FAINT else high
    elif kind == "float" and not high.is_integer() and not 128 < high <= 255:
        black, white = 0.0, high
    else:
        black, white = 0.0, _deepest(high)
    if (black, white) == (0.0, 1.0 if kind == "float" else 255.0):
        return black, white, ""
    count = f"{len(extents)} image{'' if len(extents) == 1 else 's'}"
    return (
        black,
        white,
        f"pixels of {count}, from {_plain(low)} to {_plain(high)}, were scaled so that {_plain(black)} to "
        f"{_plain(white)} became 0 to 255",
    )


def to_bytes(pixels: np.ndarray, black: float, white: float) -> np.ndarray:
    """Return pixels as uint8, each rounded to the nearest.

    Example:
        >>> to_bytes(np.array([0, 128, 129, 65535], np.uint16), 0, 65535).tolist()
        [0, 0, 1, 255]
    """
    if pixels.dtype == np.uint8 and (black, white) == (0, 255):
        return pixels
    scaled = (pixels.astype(np.float64) - black) * (255 / (white - black))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _deepest(high: float) -> float:
    """Return the greatest value of the smallest usual depth; a power of two itself is what some count up to."""
    bits = next((bits for bits in DEPTHS if high <= 2**bits), None)
    return high if bits is None or high == 2**bits else float(2**bits - 1)


def _of_one_value(value: float, types: set[str]) -> tuple[float, float]:
    if value < 0:
        return value, value + 1
    limits = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
    if len(types) == 1 and types <= limits.keys():
        return 0.0, limits[next(iter(types))]
    floats = all(name.startswith("float") for name in types)
    return 0.0, next((top for top in (1.0, 255.0, 65535.0) if value <= top and (floats or top > 1)), value)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
