"""One encoded image to pixels, and the centred square of an image at another size."""

import io
import re
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps

from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["EXTENSIONS", "decode", "square"]

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
_DEPTH_OF_PNG, _DEPTHS_OF_TIFF = 24, 258


def decode(encoded: bytes, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image file.

    The declared size is examined before anything is decoded. Transparency is composited on white, the EXIF
    orientation is applied, and palettes and other colour spaces become RGB.

    Args:
        encoded: The bytes of the file.
        where: How messages name it.

    Returns:
        The pixels, of shape (H, W) for grey and (H, W, 3) for colour, uint8 or, where a grey image has more bits, of
        the type that holds them, and what was done beside plain decoding, as past participles ("rotated as its EXIF
        tag says").

    Raises:
        InputError: If the bytes are not one still image of a supported format and a sensible size.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(stream, "png")
        >>> pixels, done = decode(stream.getvalue(), "clear.png")
        >>> pixels.shape, int(pixels.min()), done
        ((2, 3, 3), 255, ('composited on white because of transparency',))
    """
    if not encoded:
        raise InputError(f"{where} is empty (0 bytes); restore or remove it")
    remedy = "restore or remove it"
    with refusing(where, f"cannot be read as an image ({', '.join(FORMATS)})", remedy):
        try:
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{where} declares more than {MAX_PIXELS:,} pixels; {remedy}") from error
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{where} declares {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; {remedy}"
            )
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise InputError(f"{where} holds more than one frame; save one frame as a still image")
        done = []
        if _bits(image, encoded) > 8 and not image.mode.startswith(("I", "F")):
            done.append("cut to 8 of its 16 bits a channel, which is all that is read of colour")
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            done.append("rotated as the EXIF tag says")
        return _to_grey_or_rgb(ImageOps.exif_transpose(image), done), tuple(done)


def _bits(image: Image.Image, encoded: bytes) -> int:
    """Return the bits of a channel that the file declares, 8 where it does not say."""
    if image.format == "PNG":
        return encoded[_DEPTH_OF_PNG]
    if image.format == "TIFF":
        return max(cast(Any, image).tag_v2.get(_DEPTHS_OF_TIFF, (8,)))
    if image.format == "PPM":
        header = re.sub(rb"#[^\n]*", b" ", encoded[:1_024]).split()
        return 16 if header[0] == b"P6" and int(header[3]) > 255 else 8
    return 8


def _to_grey_or_rgb(image: Image.Image, done: list[str]) -> np.ndarray:
    """Return the pixels of a decoded image as grey or RGB, and add what that took to `done`."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    grey = image.mode in {"1", "L", "LA"}
    if image.has_transparency_data:
        done.append("composited on white because of transparency")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        done.append(f"converted from {image.mode} to RGB")
    return np.asarray(image.convert("L" if grey else "RGB"))


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize the centred square of an image with antialiasing.

    Args:
        pixels: Shape (H, W) or (H, W, 3).
        side: Height and width of the result in pixels.

    Returns:
        Shape (side, side) or (side, side, 3), uint8 if the pixels are, else float32.

    Example:
        >>> square(np.full((4, 9), 7, np.uint8), 2).tolist()
        [[7, 7], [7, 7]]
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box))
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR, box=box))
        for plane in np.moveaxis(np.atleast_3d(pixels), 2, 0)
    ]
    return planes[0] if pixels.ndim == 2 else np.stack(planes, axis=2)
