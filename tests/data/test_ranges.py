"""Pixels of any depth: what becomes 0 and 255, over a whole set, and the note that says so."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.corpus import npz, tree

from paperweight.data import load_images
from paperweight.data.decoding import decode
from paperweight.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def _loaded(root: Path, values: list[float], kind: Any) -> tuple[list[int], tuple[str, ...]]:
    """Return what two images become that hold the given values and, each, another of them in all other pixels."""
    x = np.zeros((2, 4, 4), kind)
    x[0] = values[0]
    x[1] = values[-1]
    x[1, 0, : len(values)] = np.array(values, kind)
    data = load_images(npz(root, x=x, y=[0, 1]))
    return data.train.images[1, 0, 0, : len(values)].tolist(), data.notes


@pytest.mark.parametrize(
    ("kind", "values", "bytes_"),
    [
        ("uint16", [0, 2048, 4095], [0, 128, 255]),
        ("int16", [0, 2000, 3900], [0, 125, 243]),
        ("uint16", [0, 512, 1023], [0, 128, 255]),
        ("uint16", [0, 8191, 16383], [0, 127, 255]),
        ("uint16", [0, 128, 30000], [0, 0, 117]),
        ("int64", [0, 100, 255], [0, 100, 255]),
        ("uint16", [0, 100, 200], [0, 100, 200]),
        ("uint8", [0, 1], [0, 255]),
        ("bool", [False, True], [0, 255]),
        ("uint8", [0, 1, 2, 3], [0, 85, 170, 255]),
        ("uint8", [0, 8, 16], [0, 128, 255]),
        ("float64", [0.0, 8.0, 16.0], [0, 128, 255]),
        ("uint8", [0, 17, 90], [0, 17, 90]),
        ("uint32", [0, 50_000, 100_000], [0, 128, 255]),
        ("int16", [-1000, 1000, 3000], [0, 128, 255]),
        ("int64", [-1000, 0, 3080], [0, 62, 255]),
        ("float32", [-1024.0, 0.0, 3056.0], [0, 64, 255]),
        ("float32", [0.0, 0.5, 0.8], [0, 128, 204]),
        ("float32", [-1.0, 0.0, 0.6], [0, 128, 204]),
        ("float32", [-0.01, 0.0, 1.0], [0, 3, 255]),
        ("float64", [0.0, 100.0, 255.0], [0, 100, 255]),
        ("float32", [0.0, 99.5, 254.5], [0, 100, 254]),
        ("float32", [0.0, 0.02, 0.04], [0, 128, 255]),
        ("float32", [-2.0, 0.0, 2.0], [0, 128, 255]),
    ],
)
def test_pixels_are_scaled_by_the_range_of_the_set(
    kind: str, values: list[float], bytes_: list[int], tmp_path: Path
) -> None:
    found, notes = _loaded(tmp_path, values, kind)
    assert found == bytes_
    unsaid = [("uint8", [0, 17, 90]), ("int64", [0, 100, 255]), ("uint16", [0, 100, 200]), ("float32", [0.0, 0.5, 0.8])]
    assert bool(notes) is ((kind, values) not in unsaid)
    if notes:
        assert notes[0].startswith("pixels of 2 images, from ")


def test_train_and_test_share_one_range(tmp_path: Path) -> None:
    dark, bright = np.full((2, 4, 4), 100, np.uint16), np.full((2, 4, 4), 4000, np.uint16)
    dark[:, 0, 0] = 0
    data = load_images(npz(tmp_path, x=dark, y=[0, 1], x_test=bright, y_test=[0, 1]))
    assert data.test is not None
    assert (int(data.train.images.max()), int(data.test.images.max())) == (6, 249)  # 100 and 4000 of 4095
    assert data.notes[0] == "pixels of 4 images, from 0 to 4000, were scaled so that 0 to 4095 became 0 to 255"


@pytest.mark.parametrize(
    ("kind", "suffix", "values", "bytes_"),
    [
        ("uint16", ".png", [0, 1023], [0, 255]),
        ("uint16", ".tif", [0, 4000], [0, 249]),
        ("int32", ".tif", [-1000, 3000], [0, 255]),
        ("float32", ".tif", [0.0, 0.5], [0, 128]),
        ("uint8", ".png", [0, 1], [0, 255]),
    ],
)
def test_files_are_scaled_by_the_range_of_the_set(
    kind: str, suffix: str, values: list[float], bytes_: list[int], tmp_path: Path
) -> None:
    tree(tmp_path, {"a/": b"", "b/": b""})
    for name, value in zip("ab", values, strict=True):
        Image.fromarray(np.full((4, 6), value, kind)).save(tmp_path / f"{name}/1{suffix}")
    data = load_images(tmp_path)
    assert data.train.images[:, 0, 0, 0].tolist() == bytes_


def test_large_images_of_many_bits_keep_their_range_when_they_shrink(tmp_path: Path) -> None:
    x = np.zeros((2, 80, 80), np.uint16)
    x[1, :, 40:] = 4095
    images = load_images(npz(tmp_path, x=x, y=[0, 1]), max_side=8).train.images
    assert images[1, 0, 4].tolist()[:3] + images[1, 0, 4].tolist()[5:] == [0, 0, 0, 255, 255, 255]
    colour = np.stack([x, x // 2, np.zeros_like(x)], axis=3)
    assert load_images(npz(tmp_path, x=colour, y=[0, 1]), max_side=8).train.images[1, :, 4, 7].tolist() == [255, 127, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    x = np.zeros((2, 4, 6), np.float32)
    x[1, 2, 3] = value
    with pytest.raises(InputError, match=r"x\[1\] holds NaN or infinite pixels"):
        load_images(npz(tmp_path, x=x, y=[0, 1]))


def _colour_png(bits: int) -> bytes:
    """Return a colour PNG of 2 x 2 pixels and of so many bits a channel, written by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + bytes([200, 7][: bits // 8] * 6)
    header = struct.pack(">IIBBBBB", 2, 2, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")


def _colour_tiff() -> bytes:
    """Return a colour TIFF of one pixel of 16 bits a channel, written by hand."""
    tags = ((256, 1), (257, 1), (259, 1), (262, 2), (273, 8), (277, 3), (278, 1), (279, 6))
    pixel = struct.pack("<3H", 51207, 51207, 51207)
    depths, directory = 8 + len(pixel), 8 + len(pixel) + 6
    entries = sorted([*((tag, 1, value) for tag, value in tags), (258, 3, depths)])
    body = b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in entries)
    start = b"II*\0" + struct.pack("<I", directory) + pixel + struct.pack("<3H", 16, 16, 16)
    return start + struct.pack("<H", len(entries)) + body + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("encoded", "cut"),
    [
        (_colour_png(8), False),
        (_colour_png(16), True),
        (_colour_tiff(), True),
        (b"P6 2 2 255\n" + bytes([200] * 12), False),
        (b"P6\n# 3 4 5\n2 2\n65535\n" + bytes([200, 200] * 12), True),
    ],
    ids=["PNG of 8", "PNG of 16", "TIFF of 16", "PPM of 8", "PPM of 16"],
)
def test_colour_of_16_bits_is_cut_and_the_note_says_so(encoded: bytes, cut: bool) -> None:
    pixels, done = decode(encoded, "an image")
    assert pixels.dtype == np.uint8
    assert np.unique(pixels).tolist() == [200]
    words = "cut to 8 of its 16 bits a channel, which is all that is read of colour"
    assert done == ((words,) if cut else ())


def test_grey_of_16_bits_keeps_them() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 51207, np.uint16)).save(stream, "png")
    pixels, done = decode(stream.getvalue(), "an image")
    assert pixels.tolist() == [[51207, 51207]] * 2
    assert done == ()
