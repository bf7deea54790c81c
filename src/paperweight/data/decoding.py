"""One encoded image to 8-bit pixels, and the centred square of an image at another size."""

import io

import numpy as np
from PIL import Image, ImageOps

from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["EXTENSIONS", "decode", "square", "to_8_bits"]

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112


def decode(encoded: bytes, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode one image file.

    The declared size is examined before anything is decoded. Transparency is composited on white, 16 bits are
    scaled to 8, the EXIF orientation is applied, and palettes and other colour spaces become RGB.

    Args:
        encoded: The bytes of the file.
        where: How messages name it.

    Returns:
        The pixels, uint8 of shape (H, W) for grey and (H, W, 3) for colour, and what was done beside plain
        decoding, as past participles ("rotated as its EXIF tag says").

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
        if image.getexif().get(ORIENTATION, 1) in range(2, 9):
            done.append("rotated as the EXIF tag says")
        return _to_grey_or_rgb(ImageOps.exif_transpose(image), where, done), tuple(done)


def _to_grey_or_rgb(image: Image.Image, where: str, done: list[str]) -> np.ndarray:
    """Return the pixels of a decoded image as 8-bit grey or RGB, and add what that took to `done`."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{where} holds values outside 0 to 65535; save it with 8 or 16 bits a pixel")
        done.append("scaled from 16 to 8 bits")
        return to_8_bits(values.astype(np.uint16))
    if image.mode == "F":
        raise InputError(f"{where} holds floating-point pixels; save it with 8 or 16 bits a pixel")
    grey = image.mode in {"1", "L", "LA"}
    if image.has_transparency_data:
        done.append("composited on white because of transparency")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        done.append(f"converted from {image.mode} to RGB")
    return np.asarray(image.convert("L" if grey else "RGB"))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale uint16 values to the nearest uint8, so that 65535 becomes 255.

    Example:
        >>> to_8_bits(np.array([0, 128, 129, 65535], np.uint16)).tolist()
        [0, 0, 1, 255]
    """
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize the centred square of an image with antialiasing.

    Args:
        pixels: uint8, shape (H, W) or (H, W, 3).
        side: Height and width of the result in pixels.

    Returns:
        uint8, shape (side, side) or (side, side, 3).

    Example:
        >>> square(np.full((4, 9), 7, np.uint8), 2).tolist()
        [[7, 7], [7, 7]]
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box))
