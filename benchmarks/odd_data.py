"""Odd data files of the kinds that users bring, drawn at random: sound ones with what must load, and broken ones."""

import csv
import io
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from paperweight.data import load_images, load_table

__all__ = ["Odd", "odd"]

Pixels = np.ndarray
Draw = random.Random


@dataclass(frozen=True)
class Odd:
    """One source of data.

    Args:
        kind: What kind of odd it is.
        path: Where it lies.
        read: Loads it, and raises ``AssertionError`` where what loads is wrong.
        end: ``read``, ``refused``, or ``either``.
    """

    kind: str
    path: Path
    read: Callable[[Path], object]
    end: str


def _pixels(draw: Draw, channels: int = 3) -> Pixels:
    shape = (draw.randint(3, 9), draw.randint(3, 9), channels)
    return np.array([draw.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8).reshape(shape)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _first_is(truth: Pixels, within: int) -> Callable[[Path], object]:
    """Return a reader that compares the first image with (H, W) or (H, W, 3) pixels."""

    def read(path: Path) -> None:
        found = load_images(path).train.images[0].astype(int)
        grey = truth.ndim == 2
        wanted = np.stack([truth] if grey else list(np.moveaxis(truth, 2, 0))).astype(int)
        if grey and len(found) == 3:
            wanted = np.repeat(wanted, 3, 0)
        assert found.shape == wanted.shape, (found.shape, wanted.shape)
        assert np.abs(found - wanted).max() <= within, np.abs(found - wanted).max()

    return read


def _pair(root: Path, first: bytes, suffix: str, truth: Pixels) -> Path:
    """Write class folders a and b; the other image has the first one's size."""
    for name, content in ((f"a/1{suffix}", first), ("b/1.png", _encoded(Image.fromarray(255 - truth), "png"))):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(content)
    return root


def _on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


_LOSSLESS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("png", ".png", {}),
    ("png", ".PNG", {"optimize": True}),
    ("png", ".jpg", {}),
    ("bmp", ".bmp", {}),
    ("bmp", ".png", {}),
    ("tiff", ".tif", {}),
    ("tiff", ".tiff", {"compression": "tiff_lzw"}),
    ("tiff", ".tif", {"compression": "tiff_deflate"}),
    ("tiff", ".jpeg", {"compression": "packbits"}),
    ("ppm", ".ppm", {}),
    ("webp", ".webp", {"lossless": True}),
)


def _image(draw: Draw, root: Path) -> Odd:
    """Return a still image as a camera, a scanner or a designer writes it."""
    pixels = _pixels(draw)
    kind, suffix, options = draw.choice(_LOSSLESS)
    what = draw.choice(
        ["colour", "grey", "alpha", "palette", "clear palette", "cmyk", "jpeg", "turned", "deep", "tail"]
    )
    truth, within = pixels, 0
    match what:
        case "grey":
            truth = pixels[..., 0]
            content = _encoded(Image.fromarray(truth), kind, **options)
        case "alpha":
            kind, suffix, options = draw.choice([each for each in _LOSSLESS if each[0] in ("png", "tiff")])
            alpha = _pixels(draw, 1)[0, 0, 0]
            clear = np.full(pixels.shape[:2], alpha, np.uint8)
            truth, within = _on_white(pixels, clear), 1
            content = _encoded(Image.fromarray(np.dstack([pixels, clear])), kind, **options)
        case "palette" | "clear palette":
            colours = _pixels(draw)[0, :3]
            index = np.array([draw.randrange(len(colours)) for _ in range(20)], np.uint8).reshape(4, 5)
            image = Image.fromarray(index, "P")
            image.putpalette([*colours.ravel().tolist()])
            truth, clear = colours[index], what != "palette"
            if clear:
                truth = np.where((index == 0)[..., None], 255, truth).astype(np.uint8)
            kind, suffix = draw.choice([("png", ".png"), ("gif", ".gif"), ("png", ".gif")])
            content = _encoded(image, kind, **({"transparency": 0} if clear else {}))
        case "cmyk":
            kind, suffix, within = "tiff", draw.choice([".tif", ".png"]), 1
            content = _encoded(Image.fromarray(np.dstack([255 - pixels, pixels[..., 0] * 0]), "CMYK"), kind)
        case "jpeg":
            truth, within = np.broadcast_to(pixels[:1, :1], (9, 12, 3)).copy(), 4
            content = _encoded(Image.fromarray(truth), "jpeg", quality=95, progressive=draw.random() < 0.5)
            suffix = draw.choice([".jpg", ".JPEG", ".jpe", ".png"])
        case "turned":
            tags = Image.Exif()
            tags[0x0112] = draw.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 300))
            turned = {
                2: lambda p: p[:, ::-1],
                3: lambda p: p[::-1, ::-1],
                4: lambda p: p[::-1],
                5: lambda p: p.transpose(1, 0, 2),
                6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
                7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
                8: lambda p: p.transpose(1, 0, 2)[::-1],
            }
            truth = np.ascontiguousarray(turned.get(tags[0x0112], lambda p: p)(pixels))
            content, suffix = _encoded(Image.fromarray(pixels), "png", exif=tags), ".png"
        case "deep":
            deep = pixels[..., 0].astype(np.uint16) * 257
            deep[0, 0] = 65535
            truth, within = np.rint(deep / 257).astype(np.uint8), 1
            kind, suffix = draw.choice([("png", ".png"), ("tiff", ".tif"), ("png", ".tif")])
            content = _encoded(Image.fromarray(deep), kind)
            path = _pair(root, content, suffix, truth)
            other = np.full_like(deep, 65535)
            (path / "b/1.png").write_bytes(_encoded(Image.fromarray(other), "png"))
            return Odd(f"image: {what}", path, _first_is(truth, within), "read")
        case _:
            content = _encoded(Image.fromarray(pixels), kind, **options)
            if what == "tail":
                content += draw.randbytes(draw.randint(1, 99)) if kind == "png" else b""
    return Odd(f"image: {what}", _pair(root, content, suffix, truth), _first_is(truth, within), "read")


def _damaged_image(draw: Draw, root: Path) -> Odd:
    """Return an image that came to harm on its way."""
    pixels = np.array([draw.randrange(256) for _ in range(40 * 50 * 3)], np.uint8).reshape(40, 50, 3)
    kind, suffix = draw.choice(
        [("png", ".png"), ("jpeg", ".jpg"), ("tiff", ".tif"), ("webp", ".webp"), ("bmp", ".bmp")]
    )
    content = _encoded(Image.fromarray(pixels), kind)
    what = draw.choice(["cut off", "of zero bytes", "with changed bytes", "empty", "page of a browser", "two frames"])
    end = "refused"
    match what:
        case "cut off":
            content = content[: draw.randint(1, len(content) // 2)]
        case "of zero bytes":
            content = bytes(len(content))
        case "with changed bytes":
            changed = bytearray(content)
            for _ in range(draw.randint(1, 9)):
                changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
            content, end = bytes(changed), "either"
        case "empty":
            content = b""
        case "page of a browser":
            content = b"<!DOCTYPE html><html><title>404</title></html>"
        case _:
            kind, suffix = draw.choice([("gif", ".gif"), ("png", ".png"), ("tiff", ".tif"), ("webp", ".webp")])
            other = Image.fromarray(255 - pixels)
            content = _encoded(Image.fromarray(pixels), kind, save_all=True, append_images=[other])
    return Odd(f"image: {what}", _pair(root, content, suffix, pixels), load_images, end)


def _folder(draw: Draw, root: Path) -> Odd:
    """Return class folders as archives and file managers leave them."""
    what = draw.choice(["junk", "nested", "one class", "one image a class", "an empty class", "many classes", "copies"])
    names = draw.sample(["cat", "Dog", "café", "a b", "1", "01", "no'quote", "写真", "-x", "#1", "%s", "[red]"], 3)
    count = draw.randint(2, 4)
    if what == "many classes":
        names = [f"n{number:04}" for number in range(60)]
    if what == "one class":
        names = names[:1]
    if what == "one image a class":
        count = 1
    below = root / "x" / "y" if what == "nested" and draw.random() < 0.5 else root
    for name in names:
        for number in range(count):
            place = below / name / ("deeper" if what == "nested" and number else "") / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(
                _encoded(Image.fromarray(np.full((4, 4, 3), 20 + number, np.uint8) + len(name) % 9), "png")
            )
    total = len(names) * count
    if what == "junk":
        for name in (".DS_Store", "Thumbs.db", f"{names[0]}/.DS_Store", f"{names[0]}/._0.png", f"{names[1]}/Thumbs.db"):
            (root / name).write_bytes(b"\0junk")
        for name in ("__MACOSX/cat/._0.png", ".ipynb_checkpoints/0.png", f"{names[1]}/.ipynb_checkpoints/0.png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"junk")
    if what == "an empty class":
        (root / "empty").mkdir()

    def read(path: Path) -> None:
        data = load_images(path)
        found = len(data.train.labels) + (0 if data.test is None else len(data.test.labels))
        assert found == total, (found, total)
        assert sorted(data.classes) == sorted(names), data.classes

    end = {"one class": "refused", "an empty class": "refused", "nested": "either"}.get(what, "read")
    return Odd(f"folder: {what}", root, load_images if end == "either" else read, end)


def _archive(draw: Draw, root: Path) -> Odd:
    """Return an npz with arrays of any type and layout."""
    path, count = root / "set.npz", 6
    side = draw.choice([(8, 8), (8, 9), (28, 28)])
    layout = draw.choice(
        [side, (*side, 1), (*side, 3), (3, *side), (1, *side), (*side, 2), (*side, 4), (), (5,), (0, 0)]
    )
    kind = draw.choice(
        ["?", "u1", "i1", "u2", ">u2", "i4", "i8", "u8", "f2", "f4", ">f4", "f8", "c8", "S3", "U2", "O", "M8[s]"]
    )
    x = np.array([draw.randrange(256) for _ in range(count * int(np.prod(layout)))]).reshape(count, *layout)
    x = x / 255 if kind.strip(">").startswith("f") else x
    with np.errstate(all="ignore"):
        x = x.astype(kind)
    if kind.strip(">").startswith("f") and draw.random() < 0.4:
        x.ravel()[:1] = draw.choice([np.nan, np.inf, -np.inf])
    y: Any = draw.choice(
        [
            [0, 1] * 3,
            ["a", "b"] * 3,
            [b"a", b"b"] * 3,
            [True, False] * 3,
            [[0], [1]] * 3,
            [0.0, 1.0] * 3,
            [0.5, 1.0] * 3,
            [-1, 1] * 3,
            np.eye(2)[[0, 1] * 3],
            [0] * 6,
            [0, 1],
            [None, 1] * 3,
            [2**63, 1] * 3,
            np.array([0, 1] * 3, "M8[D]"),
            np.ma.array([0, 1] * 3),
            [float("nan"), 1] * 3,
        ]
    )
    names = draw.choice([("x", "y"), ("x", "y"), ("X", "Y"), ("images", "labels"), ("arr_0", "arr_1"), ("x", "z")])
    with path.open("wb") as file:
        (np.savez if draw.random() < 0.7 else np.savez_compressed)(file, **{names[0]: x, names[1]: np.asarray(y)})
    if draw.random() < 0.15:
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    if draw.random() < 0.1:
        path = path.rename(path.with_suffix(draw.choice([".npy", ".zip", ".pt", ".NPZ"])))
    return Odd("npz", path, _sane_images, "either")


def _sane_images(path: Path) -> None:
    """Load images, and see that what loads can be used."""
    data = load_images(path)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.ndim == 4
    assert data.train.images.shape[1] in (1, 3)
    assert len(data.train.images) == len(data.train.labels) > 0
    assert 0 <= data.train.labels.min() <= data.train.labels.max() < len(data.classes)


def _parquet(draw: Draw, root: Path) -> Odd:
    """Return a Parquet file with columns of any type."""
    count = 6
    images = [_encoded(Image.fromarray(np.full((4, 5, 3), 40 * n, np.uint8)), "png") for n in range(count)]
    label: Any = draw.choice(
        [
            pa.array(
                [0, 1] * 3, draw.choice([pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64(), pa.float64()])
            ),
            pa.array(["a", "b"] * 3),
            pa.array(["a", "b"] * 3, pa.large_string()),
            pa.array(["a", "b"] * 3).dictionary_encode(),
            pa.array([True, False] * 3),
            pa.array([0, None] * 3),
            pa.array([0.5, 1.0] * 3),
            pa.array([[0], [1]] * 3),
            pa.array([{"id": 0}, {"id": 1}] * 3),
            pa.array([None] * 6),
            pa.array([0, 1] * 3, pa.date32()),
            pa.array([0, 1] * 3, pa.timestamp("s")),
            pa.array([-1, 1] * 3),
            pa.array([2**40, 1] * 3),
            pa.array([b"a", b"b"] * 3),
            pa.array([0, 1] * 3).cast(pa.decimal128(21, 2)),
        ]
    )
    values: Any = draw.choice(
        [
            pa.array([{"bytes": each, "path": "x.png"} for each in images]),
            pa.array([{"bytes": each, "path": None} for each in images]),
            pa.array(images),
            pa.array(images, pa.large_binary()),
            pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(count)]),
            pa.array(["data:image/png;base64,xyz"] * count),
            pa.array([[1, 2, 3]] * count),
            pa.array([None] * count, pa.binary()),
            pa.array([images[0][:40]] * count),
        ]
    )
    names = draw.choice([("image", "label"), ("image", "label"), ("img", "fine_label"), ("jpg", "cls"), ("a", "b")])
    columns = {names[0]: values, names[1]: label}
    if draw.random() < 0.4:
        columns = {"id": pa.array(range(count)), **columns, "note": pa.array([None] * count)}
    path = root / draw.choice(["set.parquet", "train-00000-of-00001.parquet", "train.parquet", "data/0000.parquet"])
    path.parent.mkdir(parents=True, exist_ok=True)
    compression = draw.choice(["snappy", "gzip", "zstd", "none", "brotli"])
    pq.write_table(pa.table(columns), path, compression=compression, row_group_size=draw.choice([1, 4, 100]))
    if draw.random() < 0.15:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= draw.randint(1, 255)
        path.write_bytes(bytes(content[: draw.choice([None, -1, len(content) // 2])]))
    return Odd("Parquet", draw.choice([path, path.parent]), _sane_images, "either")


def _cells(draw: Draw, kind: str, rows: int) -> list[str]:
    makers: dict[str, Callable[[int], str]] = {
        "numbers": lambda _: f"{draw.uniform(-9, 9):.3f}",
        "whole": lambda _: str(draw.randint(-99, 99)),
        "words": lambda _: draw.choice(["red", "green", "blue"]),
        "decimal commas": lambda _: f"{draw.uniform(0, 9):.2f}".replace(".", ","),
        "percent": lambda _: f"{draw.randint(0, 100)}%",
        "dates": lambda n: f"2024-01-{n % 28 + 1:02}",
        "American dates": lambda n: f"{n % 12 + 1}/{n % 28 + 1}/2024",
        "missing": lambda _: draw.choice(["1.5", "2.5", draw.choice(["", "NA", "?", "nan", "NULL", "-", "n/a"])]),
        "infinite": lambda _: draw.choice(["1.5", "inf", "-Infinity"]),
        "mixed": lambda _: draw.choice(["1", "x", "2024-01-01", "1e5", "True"]),
        "huge": lambda _: draw.choice(["1e300", "9" * 40, "1"]),
        "money": lambda _: f"${draw.randint(1000, 9999):,}",
        "names": lambda n: f"person {n}",
        "truth": lambda _: draw.choice(["true", "False", "TRUE"]),
        "quotes": lambda _: draw.choice(['a "b"', "c, d", "line\nend"]),
        "blanks": lambda _: f" {draw.randint(0, 9)} ",
        "constant": lambda _: "7",
    }
    return [makers[kind](number) for number in range(rows)]


_COLUMNS = (
    ["numbers", "whole", "words"] * 3
    + ["decimal commas", "percent", "dates", "American dates", "missing", "infinite", "mixed", "huge", "money"]
    + ["names", "truth", "quotes", "blanks", "constant"]
)


def _table(draw: Draw, root: Path) -> Odd:
    """Return a CSV file as spreadsheets and scripts write it."""
    rows = draw.choice([2, 30, 60])
    kinds = [draw.choice(_COLUMNS) for _ in range(draw.randint(1, 5))]
    columns = [_cells(draw, kind, rows) for kind in [*kinds, draw.choice(["whole", "words", "numbers"])]]
    names = [*(draw.choice([f"c{n}", f"Column {n} (cm²)", "same", "", f"c{n}"]) for n in range(len(kinds))), "y"]
    stream = io.StringIO()
    end = draw.choice(["\n", "\r\n", "\r"])
    writer = csv.writer(stream, delimiter=draw.choice([",", ",", ";", "\t", "|"]), lineterminator=end)
    if draw.random() < 0.9:
        writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    text = stream.getvalue()
    if draw.random() < 0.1:
        text = draw.choice(["# a comment\n", "sep=;\n", "\n\n"]) + text
    coding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "cp1252", "cp437"])
    path = root / draw.choice(["x.csv", "x.CSV", "a table.csv"])
    content = text.encode(coding, "replace")
    if draw.random() < 0.1:
        content = draw.choice(
            [content[: len(content) // 2], content + b"\0\0", zlib.compress(content), b"\xff" + content]
        )
    path.write_bytes(content)
    return Odd("CSV", path, _sane_table, "either")


def _sane_table(path: Path) -> None:
    table = load_table(path)
    assert table.features.dtype == np.float32
    assert table.features.shape == (len(table.target), len(table.feature_names))
    assert len(set(table.feature_names)) == len(table.feature_names)
    for name, column in zip(table.feature_names, table.features.T, strict=True):
        assert np.isfinite(column).all() or f"{name} is missing" in table.feature_names
    assert not np.isinf(table.features).any()
    assert np.isfinite(table.target).all()


def _sound_table(draw: Draw, root: Path) -> Odd:
    """Return a CSV file of numbers and words alone, which must load as it is."""
    rows = draw.randint(4, 60)
    numbers = [[round(draw.uniform(-9, 9), 3) for _ in range(rows)] for _ in range(draw.randint(1, 4))]
    target = [draw.choice(["red", "green"]) if n > 1 else ["red", "green"][n] for n in range(rows)]
    separator, end = draw.choice([",", ";", "\t"]), draw.choice(["\n", "\r\n"])
    lines = [separator.join([*(f"c{n}" for n in range(len(numbers))), "y"])]
    lines += [separator.join([*map(str, row), word]) for *row, word in zip(*numbers, target, strict=True)]
    path = root / "x.csv"
    path.write_bytes((end.join(lines) + draw.choice([end, ""])).encode(draw.choice(["utf-8", "utf-8-sig"])))

    def read(path: Path) -> None:
        table = load_table(path)
        assert np.allclose(table.features, np.array(numbers).T, atol=1e-6)
        assert [table.classes[number] for number in table.target] == target

    return Odd("CSV, sound", path, read, "read")


def _other(draw: Draw, root: Path) -> Odd:
    """Return a file of a format that is not read."""
    suffix = draw.choice(
        [".pt", ".h5", ".mat", ".tfrecord", ".zip", ".tar.gz", ".pkl", ".json", ".npy", ".svg", "", ".heic"]
    )
    path = root / f"set{suffix}"
    path.write_bytes(draw.choice([b"", b"PK\x03\x04", b"\x80\x04K\x01.", b"\x89HDF\r\n\x1a\n", draw.randbytes(200)]))
    return Odd("another format", path, load_images, "refused")


MAKERS = (_image, _image, _damaged_image, _folder, _archive, _parquet, _table, _sound_table, _other)


def odd(root: Path, seed: int) -> Iterator[Odd]:
    """Yield sources of data, kinds in turn, without end."""
    number = 0
    while True:
        for make in MAKERS:
            place = root / f"{number}"
            place.mkdir()
            yield make(Draw(f"{seed} {number}"), place)
            number += 1
