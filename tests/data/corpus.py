"""Good and bad inputs, each with what must come of it: how it loads, or what its refusal must say."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

__all__ = ["IMAGES", "TABLES", "Case", "encode", "npz", "pair", "parquet", "picture", "ramp", "tree"]


@dataclass(frozen=True)
class Case:
    """One input. `build` writes it into an empty folder and returns the source; `holds` are facts of what loads.

    `says` are strings of the refusal. Facts of images: `shape` of the training images, `test` of the test images,
    `classes`, `labels`, `test_labels`, `pixel` (the first pixel of the first image, one value for each channel),
    `brightest` (row and column of the brightest pixel of the first image), `note` (a part of one of the notes).
    """

    name: str
    build: Callable[[Path], Any]
    holds: Mapping[str, Any]
    says: tuple[str, ...]


IMAGES: list[Case] = []
TABLES: list[Case] = []
Builder = Callable[[Path], Any]


def loads(name: str, build: Builder, **holds: Any) -> None:
    IMAGES.append(Case(name, build, holds, ()))


def refused(name: str, build: Builder, *says: str) -> None:
    IMAGES.append(Case(name, build, {}, says))


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 4), colour: Any = None) -> Image.Image:
    """Return an image of one colour, (10, 20, 30) or its like."""
    default = {"RGB": (10, 20, 30), "RGBA": (10, 20, 30, 255), "L": 40, "LA": (40, 255), "CMYK": (0, 0, 0, 0), "1": 1}
    return Image.new(mode, size, default.get(mode, 0) if colour is None else colour)


def encode(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PNG = encode(picture())
GREY = encode(picture("L"))


def tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their names below a folder; a name that ends in / makes an empty folder."""
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def pair(root: Path, first: bytes, suffix: str = ".png") -> Path:
    """Write class folders a and b; the first image of a is the given one, the other is plain."""
    return tree(root, {f"a/1{suffix}": first, "b/1.png": PNG})


def parquet(
    path: Path,
    images: Sequence[Any] = (PNG, PNG),
    labels: Any = (0, 1),
    *,
    nested: bool = True,
    names: Any = None,
    columns: tuple[str, str] = ("image", "label"),
) -> Path:
    """Write a Parquet file in the Hugging Face layout."""
    values = (
        pa.array([i if i is None else {"bytes": i, "path": "x.png"} for i in images], IMAGE)
        if nested
        else pa.array(images, pa.binary())
    )
    table = pa.table([values, labels if isinstance(labels, pa.Array) else pa.array(list(labels))], names=list(columns))
    if names is not None:
        info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def npz(root: Path, **arrays: Any) -> Path:
    path = root / "set.npz"
    np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


def ramp(*shape: int) -> np.ndarray:
    """Return uint8 pixels that count up, so that a wrong order of axes shows."""
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def declared(kind: str, width: int, height: int) -> bytes:
    """Return an image file that declares a size, with next to no pixels behind it."""
    if kind == "png":

        def chunk(tag: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 100))
            + chunk(b"IEND", b"")
        )
    if kind == "bmp":
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info
    return f"P6 {width} {height} 255\n".encode()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# --- one image in a set of two classes -----------------------------------------------------------------------------

for _name, _suffix, _content, _holds in [
    ("RGB PNG", ".png", PNG, {"pixel": (10, 20, 30)}),
    ("RGB BMP", ".bmp", encode(picture(), "bmp"), {"pixel": (10, 20, 30)}),
    ("RGB GIF", ".gif", encode(picture(), "gif"), {"pixel": (10, 20, 30)}),
    ("RGB TIFF", ".tif", encode(picture(), "tiff"), {"pixel": (10, 20, 30)}),
    ("RGB PPM", ".ppm", encode(picture(), "ppm"), {"pixel": (10, 20, 30)}),
    ("lossless WebP", ".webp", encode(picture(), "webp", lossless=True), {"pixel": (10, 20, 30)}),
    ("white JPEG", ".jpg", encode(picture(colour="white"), "jpeg"), {"pixel": (255, 255, 255)}),
    ("capital extension", ".PNG", PNG, {"pixel": (10, 20, 30)}),
    ("mixed-case JPEG extension", ".JpEg", encode(picture(colour="black"), "jpeg"), {"pixel": (0, 0, 0)}),
    ("PNG called JPEG", ".jpg", PNG, {"pixel": (10, 20, 30)}),
    (
        "opaque RGBA",
        ".png",
        encode(picture("RGBA")),
        {"pixel": (10, 20, 30), "note": "1 image was composited on white"},
    ),
    ("clear RGBA", ".png", encode(picture("RGBA", colour=(1, 2, 3, 0))), {"pixel": (255, 255, 255)}),
    ("half clear RGBA", ".png", encode(picture("RGBA", colour=(0, 0, 0, 51))), {"pixel": (204, 204, 204)}),
    ("palette", ".png", encode(picture().convert("P", palette=Image.Palette.ADAPTIVE)), {"pixel": (10, 20, 30)}),
    ("clear palette", ".png", encode(picture("P"), transparency=0), {"pixel": (255, 255, 255), "note": "composited"}),
    ("clear colour key", ".png", encode(picture(), transparency=(10, 20, 30)), {"pixel": (255, 255, 255)}),
    ("CMYK JPEG", ".jpg", encode(picture("CMYK"), "jpeg"), {"pixel": (255, 255, 255), "note": "from CMYK to RGB"}),
    ("CMYK TIFF", ".tiff", encode(picture("CMYK", colour=(255, 0, 0, 0)), "tiff"), {"pixel": (0, 255, 255)}),
    ("16-bit PPM", ".ppm", b"P6 6 4 65535\n" + b"\xff\xff\0\0\0\0" * 24, {"pixel": (255, 0, 0)}),
    ("grey beside colour", ".png", GREY, {"pixel": (40, 40, 40)}),
    ("still GIF with comment", ".gif", encode(picture(), "gif", comment=b"hello"), {"pixel": (10, 20, 30)}),
    ("interlaced GIF", ".gif", encode(picture(), "gif", interlace=1), {"pixel": (10, 20, 30)}),
    ("progressive JPEG", ".jpg", encode(picture(colour="white"), "jpeg", progressive=True), {"pixel": (255,) * 3}),
    ("compressed TIFF", ".tif", encode(picture(), "tiff", compression="tiff_deflate"), {"pixel": (10, 20, 30)}),
    ("PNG with bytes behind it", ".png", PNG + b"more", {"pixel": (10, 20, 30)}),
]:
    loads(_name, lambda root, c=_content, s=_suffix: pair(root, c, s), **({"shape": (2, 3, 4, 6)} | _holds))

for _name, _suffix, _content, _pixel in [
    ("grey PNG", ".png", GREY, 40),
    ("grey and alpha PNG", ".png", encode(picture("LA", colour=(40, 0))), 255),
    ("1-bit PNG", ".png", encode(picture("1")), 255),
    ("1-bit TIFF", ".tif", encode(picture("1", colour=0), "tiff"), 0),
    ("16-bit PNG", ".png", encode(Image.fromarray(np.full((4, 6), 257 * 77, np.uint16))), 77),
    ("16-bit TIFF", ".tif", encode(Image.fromarray(np.full((4, 6), 65535, np.uint16)), "tiff"), 255),
    ("16-bit PGM", ".pgm", b"P5 6 4 65535\n" + b"\x80\x80" * 24, 128),
    ("grey JPEG", ".jpg", encode(picture("L", colour=255), "jpeg"), 255),
    ("text PBM", ".pbm", b"P1 6 4\n" + b"0 " * 24, 255),
]:
    loads(
        _name,
        lambda root, c=_content, s=_suffix: tree(root, {f"a/1{s}": c, "b/1.png": GREY}),
        shape=(2, 1, 4, 6),
        pixel=(_pixel,),
    )

_stripe = np.zeros((4, 6, 3), np.uint8)
_stripe[0, 0] = 255
for _orientation, _corner in {2: (0, 5), 3: (3, 5), 4: (3, 0), 5: (0, 0), 6: (0, 3), 7: (5, 3), 8: (5, 0)}.items():
    loads(
        f"EXIF orientation {_orientation}",
        lambda root, o=_orientation: (
            pair(root, encode(Image.fromarray(_stripe), "png", exif=exif(o)))
            if o < 5
            else tree(
                root,
                {
                    "a/1.png": encode(Image.fromarray(_stripe), "png", exif=exif(o)),
                    "b/1.png": encode(picture(size=(4, 6))),
                },
            )
        ),
        shape=(2, 3, 4, 6) if _orientation < 5 else (2, 3, 6, 4),
        brightest=_corner,
        note="1 image was rotated as the EXIF tag says",
    )

for _name, _suffix, _content, *_says in [
    ("empty file", ".png", b"", "is empty (0 bytes)"),
    ("text called PNG", ".png", b"hello, this is text", "cannot be read as an image"),
    ("HTML called JPEG", ".jpg", b"<!DOCTYPE html><html></html>", "cannot be read as an image"),
    ("truncated PNG", ".png", encode(Image.fromarray(ramp(40, 60, 3)))[:-400], "cannot be read as an image"),
    ("truncated JPEG", ".jpg", encode(Image.fromarray(ramp(40, 60, 3)), "jpeg")[:-300], "cannot be read as an image"),
    ("truncated TIFF", ".tif", encode(Image.fromarray(ramp(40, 60, 3)), "tiff")[:400], "cannot be read as an image"),
    ("truncated WebP", ".webp", encode(Image.fromarray(ramp(40, 60, 3)), "webp")[:200], "cannot be read as an image"),
    ("PNG header alone", ".png", PNG[:33], "cannot be read as an image"),
    ("PNG with a wrong checksum", ".png", PNG[:29] + b"\0\0\0\0" + PNG[33:], "cannot be read as an image"),
    (
        "animated GIF",
        ".gif",
        encode(picture(), "gif", save_all=True, append_images=[picture(colour="red")]),
        "more than one frame",
    ),
    (
        "animated PNG",
        ".png",
        encode(picture(), "png", save_all=True, append_images=[picture(colour="red")]),
        "more than one frame",
    ),
    (
        "TIFF of two pages",
        ".tif",
        encode(picture(), "tiff", save_all=True, append_images=[picture(colour="red")]),
        "more than one frame",
    ),
    ("TIFF of NaN", ".tif", encode(picture("F", colour=float("nan")), "tiff"), "holds NaN or infinite pixels"),
    ("PNG bomb", ".png", declared("png", 60000, 60000), "pixels"),
    ("PNG bomb below the library's limit", ".png", declared("png", 9000, 8000), "9000 x 8000 pixels"),
    ("BMP bomb", ".bmp", declared("bmp", 100000, 100000), "pixels"),
    ("PPM bomb", ".ppm", declared("ppm", 200000, 200000), "pixels"),
    (
        "PostScript called PNG",
        ".png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n",
        "cannot be read as an image",
    ),
]:
    refused(_name, lambda root, c=_content, s=_suffix: pair(root, c, s), f"a/1{_suffix}", *_says)

# --- class folders -------------------------------------------------------------------------------------------------

TWO = {"a/1.png": PNG, "b/1.png": PNG}
loads(
    "train and test folders",
    lambda root: tree(root, {"train/a/1.png": PNG, "train/b/1.png": PNG, "test/b/1.png": PNG, "test/a/1.png": PNG}),
    shape=(2, 3, 4, 6),
    test=(2, 3, 4, 6),
)
loads(
    "train and val folders",
    lambda root: tree(root, {"Train/a/1.png": PNG, "Train/b/1.png": PNG, "val/b/1.png": PNG}),
    test=(1, 3, 4, 6),
    note="classes in the train part only: a",
)
loads(
    "train, validation and test folders",
    lambda root: tree(root, {f"{p}/{c}/1.png": PNG for p in ("train", "validation", "test") for c in "ab"}),
    shape=(4, 3, 4, 6),
    test=(2, 3, 4, 6),
    note="validation were joined",
)
loads(
    "a class called train",
    lambda root: tree(root, {"train/1.png": PNG, "car/1.png": PNG}),
    classes=("car", "train"),
)
loads(
    "unicode names",
    lambda root: tree(root, {"猫/приве́т.png": PNG, "été/ß 🙂.png": PNG}),
    classes=("été", "猫"),
)
loads(
    "names with spaces and quotes",
    lambda root: tree(root, {'it\'s a "cat"/1.png': PNG, "a, b; c/%s.png": PNG}),
    classes=("a, b; c", 'it\'s a "cat"'),
)
loads(
    "one class name in two Unicode forms",
    lambda root: tree(root, {"train/\u00e9/1.png": PNG, "train/b/1.png": PNG, "test/e\u0301/1.png": PNG}),
    classes=("b", "\u00e9"),
)
loads(
    "hidden files",
    lambda root: tree(root, TWO | {".DS_Store": b"x", "a/Thumbs.db": b"x", "a/._1.png": b"x", ".git/x.png": b""}),
    shape=(2, 3, 4, 6),
    classes=("a", "b"),
)
loads(
    "other files",
    lambda root: tree(root, TWO | {"readme.md": b"x", "a/labels.csv": b"x"}),
    shape=(2, 3, 4, 6),
    note="2 files were ignored",
)
loads("deeper folders", lambda root: tree(root, {"a/x/y/1.png": PNG, "b/images/1.png": PNG}), labels=[0, 1])
loads(
    "order of names",
    lambda root: tree(root, {"b/1.png": PNG, "a/2.png": PNG, "a/1.png": encode(picture(colour="red"))}),
    labels=[0, 0, 1],
    pixel=(255, 0, 0),
)
loads(
    "mixed sizes below the limit",
    lambda root: tree(root, {f"{c}/1.png": encode(picture(size=s)) for c, s in {"a": (6, 4), "b": (9, 8)}.items()}),
    shape=(2, 3, 6, 6),
    note="images of 2 sizes were cut to their centred square and resized to 6 x 6",
    pixel=(10, 20, 30),
)
loads(
    "mixed sizes above the limit",
    lambda root: tree(root, {f"{c}/1.png": encode(picture(size=s)) for c, s in {"a": (100, 80), "b": (9, 8)}.items()}),
    shape=(2, 3, 64, 64),
    pixel=(10, 20, 30),
)
loads(
    "one large size",
    lambda root: tree(root, {f"{c}/1.png": encode(picture(size=(200, 130))) for c in "ab"}),
    shape=(2, 3, 64, 64),
    note="images of size 130 x 200",
)
loads(
    "a long strip",
    lambda root: tree(root, {"a/1.png": encode(picture(size=(5000, 1))), "b/1.png": PNG}),
    shape=(2, 3, 64, 64),
)
loads(
    "one pixel", lambda root: tree(root, {f"{c}/1.png": encode(picture(size=(1, 1))) for c in "ab"}), shape=(2, 3, 1, 1)
)


def _linked(root: Path, target: str, link: str) -> Path:
    tree(root, TWO)
    (root / link).symlink_to(target)
    return root


def _pipe(root: Path, name: str) -> Path:
    os.mkfifo(tree(root, TWO) / name)
    return root


loads("linked class folder", lambda root: _linked(root, "a", "c"), classes=("a", "b", "c"))
loads("linked image", lambda root: _linked(root, "1.png", "a/2.png"), labels=[0, 0, 1])
refused("missing path", lambda root: root / "nowhere", "nowhere", "does not exist")
refused("missing relative path", lambda root: "./no/such/folder", "no/such/folder", "does not exist")
refused("unknown name", lambda root: "digitz", "digitz", "did you mean digits", "PAPERWEIGHT_DATA")
refused("empty name", lambda root: "", "source must be")
refused("number for a name", lambda root: 7, "source must be")
refused("name with a null byte", lambda root: "a\0b", "a\\x00b")
refused("very long name", lambda root: root / ("x" * 5000), "xxx")
refused("empty folder", lambda root: root, "is empty")
refused("folder of hidden files", lambda root: tree(root, {".DS_Store": b"x"}), "is empty")
refused("images without class folders", lambda root: tree(root, {"1.png": PNG}), "no class folders")
refused("one class", lambda root: tree(root, {"a/1.png": PNG}), "only one class ('a')")
refused(
    "class folder without an image", lambda root: tree(root, TWO | {"c/": b""}), "/c is a class folder without an image"
)
refused(
    "class folder of a format that is not read",
    lambda root: tree(root, TWO | {"c/1.heic": b"x"}),
    "/c is a class folder without an image",
)
refused(
    "train folder without classes", lambda root: tree(root, {"train/1.png": PNG, "test/1.png": PNG}), "no class folders"
)
refused(
    "empty test folder",
    lambda root: tree(root, {"train/a/1.png": PNG, "train/b/1.png": PNG, "test/": b""}),
    "test is empty",
)
refused("broken link to an image", lambda root: _linked(root, "gone.png", "a/2.png"), "a/2.png", "broken link")
refused("broken link to a class", lambda root: _linked(root, "gone", "c"), "c is neither", "broken link")
refused("link to itself", lambda root: _linked(root, "c", "c"), "c is neither", "broken link")
refused("loop of folders", lambda root: _linked(root, "..", "a/up"), "a/up", "leads back")
refused("pipe called PNG", lambda root: _pipe(root, "a/2.png"), "a/2.png is neither a file nor a folder")
refused("pipe called Parquet", lambda root: _pipe(root, "x.parquet") / "x.parquet", "x.parquet is neither")
refused("broken link to a set", lambda root: _linked(root, "gone", "c") / "c", "c is neither", "broken link")
refused("name that no file can have", lambda root: "\ud800", "no data set is named")
refused(
    "set that is not here",
    lambda root: "CIFAR-10",
    "available: digits, glyphs",
    "https://huggingface.co/datasets/uoft-cs/cifar10",
    "glyphs, glyphs-colour need no files",
)
refused("single image", lambda root: tree(root, {"1.png": PNG}) / "1.png", "1.png is a single image")
for _suffix, _format in {
    ".h5": "HDF5",
    ".pkl": "pickle",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".npy": "single-array NumPy",
    ".zip": "zip",
    ".csv": "CSV",
    ".docx": ".docx",
    "": "no suffix",
}.items():
    refused(
        f"file of format {_format}{_suffix}",
        lambda root, s=_suffix: tree(root, {f"x{s}": b"x"}) / f"x{s}",
        f"({_format})",
    )

# --- Parquet -------------------------------------------------------------------------------------------------------

loads("Parquet file", lambda root: parquet(root / "x.parquet"), shape=(2, 3, 4, 6), classes=("0", "1"))
loads("Parquet with plain bytes", lambda root: parquet(root / "x.parquet", nested=False), shape=(2, 3, 4, 6))
loads(
    "Parquet with names",
    lambda root: parquet(root / "x.parquet", labels=(1, 0), names=["猫", "dog"]),
    classes=("猫", "dog"),
    labels=[1, 0],
)
loads(
    "Parquet with unused names",
    lambda root: parquet(root / "x.parquet", labels=(3, 1), names=["a", "b", "c", "d"]),
    classes=("b", "d"),
    labels=[1, 0],
    note="2 of 4 declared classes have no image",
)
loads(
    "Parquet with label gaps",
    lambda root: parquet(root / "x.parquet", [PNG] * 3, (5, 0, 2)),
    classes=("0", "2", "5"),
    labels=[2, 0, 1],
    note="labels 0, 2, 5 were renumbered 0 to 2",
)
loads(
    "Parquet with string labels",
    lambda root: parquet(root / "x.parquet", labels=("zebra", "ant")),
    classes=("ant", "zebra"),
    labels=[1, 0],
)
loads(
    "Parquet with dictionary labels",
    lambda root: parquet(root / "x.parquet", labels=pa.array(["b", "a"]).dictionary_encode()),
    classes=("a", "b"),
)
loads(
    "Parquet with small integers",
    lambda root: parquet(root / "x.parquet", labels=pa.array([1, 0], pa.uint8())),
    labels=[1, 0],
)
loads(
    "Parquet with strange names", lambda root: parquet(root / "x.parquet", names={"not": "a list"}), classes=("0", "1")
)


def _splits(root: Path, *names: str) -> Path:
    for name in names:
        parquet(root / name)
    return root


loads("Parquet folder", lambda root: _splits(root, "train.parquet", "test.parquet"), test=(2, 3, 4, 6))
loads(
    "Parquet shards",
    lambda root: _splits(root, *(f"train-0000{i}-of-00003.parquet" for i in range(3))),
    shape=(6, 3, 4, 6),
)
loads(
    "Parquet validation",
    lambda root: _splits(root, "train.parquet", "validation-00000-of-00001.parquet"),
    shape=(2, 3, 4, 6),
    test=(2, 3, 4, 6),
)
loads(
    "Parquet beside others",
    lambda root: _splits(root, "train.parquet", "extra.parquet"),
    note="extra.parquet was ignored",
)


def _two_names(root: Path) -> Path:
    parquet(root / "train.parquet", names=["a", "b"])
    parquet(root / "test.parquet", names=["b", "c"])
    return root


loads("Parquet parts that name other classes", _two_names, classes=("a", "b", "c"), labels=[0, 1], test_labels=[1, 2])


def _mixed_labels(root: Path) -> Path:
    parquet(root / "train.parquet")
    parquet(root / "test.parquet", labels=("a", "b"))
    return root


refused("Parquet parts that label in two ways", _mixed_labels, "test.parquet", "another way")
refused("Parquet shard missing", lambda root: _splits(root, "train-00000-of-00002.parquet"), "of 2 shards", "holds 1")
refused("Parquet without train", lambda root: _splits(root, "test.parquet"), "test.parquet", "no train.parquet")
refused(
    "Parquet without image", lambda root: _numbers_alone(root / "x.parquet"), "no column 'image'", "only size, label"
)
refused("Parquet without label", lambda root: parquet(root / "x.parquet", columns=("image", "y")), "no column 'label'")
refused("Parquet null image", lambda root: parquet(root / "x.parquet", [PNG, None]), "x.parquet, row 1: the image")
refused(
    "Parquet null plain image", lambda root: parquet(root / "x.parquet", [None, PNG], nested=False), "row 0: the image"
)
refused("Parquet null label", lambda root: parquet(root / "x.parquet", labels=[0, None]), "x.parquet, row 1: the label")
refused("Parquet negative label", lambda root: parquet(root / "x.parquet", labels=[0, -1]), "row 1: the label is -1")
refused(
    "Parquet label without a name",
    lambda root: parquet(root / "x.parquet", labels=[0, 2], names=["a", "b"]),
    "row 1",
    "2 class names",
)
refused("Parquet of one class", lambda root: parquet(root / "x.parquet", labels=[3, 3]), "only one class")
refused("Parquet half labels", lambda root: parquet(root / "x.parquet", labels=[0.5, 1.0]), "'label', row 0", "0.5")
refused("Parquet date labels", lambda root: parquet(root / "x.parquet", labels=[date(2020, 1, 1)] * 2), "date32")
refused("Parquet of no rows", lambda root: parquet(root / "x.parquet", [], pa.array([], pa.int64())), "no rows")
refused(
    "Parquet with a damaged image",
    lambda root: parquet(root / "x.parquet", [PNG, PNG[:40]]),
    "x.parquet, row 1",
    "image",
)
refused(
    "Parquet with an empty image", lambda root: parquet(root / "x.parquet", [PNG, b""]), "x.parquet, row 1", "0 bytes"
)


def _numbers_alone(path: Path) -> Path:
    pq.write_table(pa.table({"size": [1, 2], "label": [0, 1]}), path)
    return path


def _damaged(root: Path, change: Callable[[bytes], bytes]) -> Path:
    path = parquet(root / "x.parquet")
    path.write_bytes(change(path.read_bytes()))
    return path


def _text_images(root: Path) -> Path:
    pq.write_table(pa.table({"image": ["a", "b"], "label": [0, 1]}), root / "x.parquet")
    return root / "x.parquet"


refused(
    "Parquet that repeats a class name",
    lambda root: parquet(root / "x.parquet", names=["a", "a"]),
    "x.parquet declares a class name twice: a, a",
)
refused(
    "truncated Parquet",
    lambda root: _damaged(root, lambda b: b[: len(b) // 2]),
    "x.parquet",
    "cannot be read as Parquet",
)
refused("empty Parquet", lambda root: _damaged(root, lambda b: b""), "x.parquet", "cannot be read as Parquet")
refused("Parquet that is text", lambda root: _damaged(root, lambda b: b"image,label\n"), "cannot be read as Parquet")
refused("Parquet of text images", _text_images, "x.parquet", "must be binary")

# --- NumPy archives ------------------------------------------------------------------------------------------------

loads("npz grey", lambda root: npz(root, x=ramp(2, 4, 6), y=[0, 1]), shape=(2, 1, 4, 6), pixel=(0,))
loads("npz channels last", lambda root: npz(root, x=ramp(2, 4, 6, 3), y=[0, 1]), shape=(2, 3, 4, 6), pixel=(0, 1, 2))
loads("npz channels first", lambda root: npz(root, x=ramp(2, 3, 4, 6), y=[0, 1]), shape=(2, 3, 4, 6), pixel=(0, 24, 48))
loads("npz one channel last", lambda root: npz(root, x=ramp(2, 4, 6, 1), y=[0, 1]), shape=(2, 1, 4, 6))
loads("npz one channel first", lambda root: npz(root, x=ramp(2, 1, 4, 6), y=[0, 1]), shape=(2, 1, 4, 6))
loads("npz string labels", lambda root: npz(root, x=ramp(2, 4, 6), y=["猫", "b"]), classes=("b", "猫"), labels=[1, 0])
loads("npz label gaps", lambda root: npz(root, x=ramp(2, 4, 6), y=[9, 7]), classes=("7", "9"), labels=[1, 0])
loads("npz unsigned labels", lambda root: npz(root, x=ramp(2, 4, 6), y=np.array([1, 0], np.uint64)), labels=[1, 0])
loads("npz float", lambda root: npz(root, x=np.full((2, 4, 6), 0.5), y=[0, 1]), pixel=(128,))
loads("npz half float", lambda root: npz(root, x=np.ones((2, 4, 6), np.float16), y=[0, 1]), pixel=(255,))
loads("npz 16 bits", lambda root: npz(root, x=np.full((2, 4, 6), 65535, np.uint16), y=[0, 1]), pixel=(255,))
loads("npz big-endian", lambda root: npz(root, x=np.full((2, 4, 6), 257, ">u2"), y=np.array([0, 1], ">i4")), pixel=(1,))
loads("npz column-major", lambda root: npz(root, x=np.asfortranarray(ramp(2, 4, 6, 3)), y=[0, 1]), pixel=(0, 1, 2))
loads(
    "npz with a test part",
    lambda root: npz(root, x=ramp(4, 4, 6), y=[0, 1, 0, 1], x_test=ramp(2, 4, 6), y_test=[1, 0]),
    shape=(4, 1, 4, 6),
    test_labels=[1, 0],
)
loads(
    "npz too large",
    lambda root: npz(root, x=np.full((2, 80, 100), 9, np.uint8), y=[0, 1]),
    shape=(2, 1, 64, 64),
    pixel=(9,),
)
for _name, _arrays, *_says in [
    ("npz without y", {"x": ramp(2, 4, 6)}, "no array 'y', only x"),
    ("npz without x", {"pictures": ramp(2, 4, 6), "y": [0, 1]}, "no array 'x'"),
    ("npz without y_test", {"x": ramp(2, 4, 6), "y": [0, 1], "x_test": ramp(2, 4, 6)}, "no array 'y_test'"),
    ("npz wrong lengths", {"x": ramp(3, 4, 6), "y": [0, 1]}, "x has 3 rows but y has 2"),
    ("npz two dimensions", {"x": ramp(3, 4), "y": [0, 1, 0]}, "(3, 4)"),
    ("npz five dimensions", {"x": ramp(2, 1, 3, 4, 6), "y": [0, 1]}, "(2, 1, 3, 4, 6)"),
    ("npz no rows", {"x": ramp(0, 4, 6), "y": []}, "(0, 4, 6)"),
    ("npz no pixels", {"x": ramp(2, 0, 6), "y": [0, 1]}, "(2, 0, 6)"),
    ("npz ambiguous axes", {"x": ramp(2, 3, 5, 3), "y": [0, 1]}, "channels first or last"),
    ("npz four channels", {"x": ramp(2, 5, 6, 4), "y": [0, 1]}, "no axis of 1 or 3 channels"),
    ("npz NaN", {"x": np.array([np.zeros((4, 6)), np.full((4, 6), np.nan)]), "y": [0, 1]}, "x[1] holds NaN"),
    ("npz infinite", {"x": np.array([np.zeros((4, 6)), np.full((4, 6), np.inf)]), "y": [0, 1]}, "x[1] holds NaN or"),
    ("npz complex pixels", {"x": ramp(2, 4, 6) * 1j, "y": [0, 1]}, "complex128"),
    ("npz object pixels", {"x": np.array([None, None]), "y": [0, 1]}, "x holds Python objects"),
    ("npz object labels", {"x": ramp(2, 4, 6), "y": np.array(["a", None])}, "y holds Python objects"),
    ("npz half labels", {"x": ramp(2, 4, 6), "y": [0.5, 1.0]}, "y, row 0", "0.5"),
    ("npz soft labels", {"x": ramp(2, 4, 6), "y": [[0, 1], [0.3, 0.7]]}, "y, row 1", "0.3, 0.7", "one class"),
    ("npz of two classes an image", {"x": ramp(2, 4, 6), "y": [[0, 1], [1, 1]]}, "y, row 1", "one class"),
    ("npz boxes for labels", {"x": ramp(2, 4, 6), "y": np.zeros((2, 3, 4))}, "y must be", "(2, 3, 4)"),
    ("npz negative label", {"x": ramp(2, 4, 6), "y": [0, -1]}, "y, row 1: the label is -1"),
    ("npz one class", {"x": ramp(2, 4, 6), "y": [1, 1]}, "only one class"),
]:
    refused(_name, lambda root, a=_arrays: npz(root, **a), "set.npz", *_says)


def _npz_bomb(root: Path, shape: tuple[int, ...], behind: int) -> Path:
    """Write an archive whose array declares a shape, with so many zero bytes behind its header."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(root / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(behind))
        labels = io.BytesIO()
        np.save(labels, np.arange(2))
        archive.writestr("y.npy", labels.getvalue())
    return root / "set.npz"


refused("npz that declares a terabyte", lambda root: _npz_bomb(root, (2, 1 << 20, 1 << 19), 100), "set.npz: x declares")
refused("npz that overflows", lambda root: _npz_bomb(root, (1 << 62, 1 << 62, 4), 100), "set.npz: x declares")
refused("npz of zeros", lambda root: _npz_bomb(root, (300, 1024, 1024), 1 << 20), "set.npz: x declares", "implausible")
refused("npz that is cut off", lambda root: _npz_bomb(root, (2, 100, 100), 100), "set.npz")
refused(
    "npz that is text", lambda root: tree(root, {"set.npz": b"hello"}) / "set.npz", "set.npz cannot be read as .npz"
)
refused("empty npz", lambda root: tree(root, {"set.npz": b""}) / "set.npz", "set.npz cannot be read as .npz")


# --- tables --------------------------------------------------------------------------------------------------------


def table(name: str, content: str | bytes, *says: str, column: str | None = None, **holds: Any) -> None:
    """Add a CSV file: facts are `features`, `target`, `names`, `classes`, `note`."""
    raw = content.encode() if isinstance(content, str) else content
    TABLES.append(Case(name, lambda root: tree(root, {"x.csv": raw}) / "x.csv", holds | {"column": column}, says))


NUMBERS = "a,b,y\n1,2,0.5\n3,4,1.5\n5,6,2.5\n"
table("numbers", NUMBERS, features=[[1, 2], [3, 4], [5, 6]], target=[0.5, 1.5, 2.5], names=("a", "b"), classes=())
table("another target", NUMBERS, column="a", names=("b", "y"), classes=())
table("semicolons", NUMBERS.replace(",", ";"), features=[[1, 2], [3, 4], [5, 6]])
table("tabs", NUMBERS.replace(",", "\t"), features=[[1, 2], [3, 4], [5, 6]])
table("byte order mark", b"\xef\xbb\xbf" + NUMBERS.encode(), names=("a", "b"))
table("Windows line ends", NUMBERS.replace("\n", "\r\n"), features=[[1, 2], [3, 4], [5, 6]])
table("no last line end", NUMBERS.rstrip(), features=[[1, 2], [3, 4], [5, 6]])
table("quoted commas", '"a, b",y\n1,0.5\n2,1.5\n', names=("a, b",))
table("unicode", "größe,猫\n1,ö\n2,ä\n", names=("größe",), classes=("ä", "ö"), labels=[1, 0])
table("text feature", "c,y\nred,1.5\nblue,2.5\nred,3.5\n", names=("c=blue", "c=red"), features=[[0, 1], [1, 0], [0, 1]])
table("text target", "a,y\n1,no\n2,yes\n3,no\n", classes=("no", "yes"), labels=[0, 1, 0])
table("true and false", "a,y\ntrue,false\nfalse,true\n", features=[[1], [0]], classes=("False", "True"), labels=[0, 1])
table("integer classes", "a,y\n1,7\n2,9\n3,7\n4,9\n", classes=("7", "9"), labels=[0, 1, 0, 1])
table("integers of many values", "a,y\n" + "".join(f"{i},{i}\n" for i in range(30)), classes=())
table("dates", "day,a,y\n2020-01-01,1,2.5\n2020-01-02,2,3.5\n", names=("a",), note="column day holds dates")
table("times of day", "t,y\n12:30:00,1.5\n13:00:00,2.5\n", names=("t=12:30:00", "t=13:00:00"))
table("negative and exponent", "a,y\n-1e3,1.5\n+2.5E-1,2.5\n", features=[[-1000], [0.25]])
table("line end in a quoted name", '"a\nb",y\n1,0.5\n2,1.5\n', names=("a\nb",))
table("first line empty", "\n1,2\n", "x.csv has no header")
table("name too long", "a" * 200000 + ",y\n1,2\n3,4\n", "x.csv has a header that cannot be read")
table("empty file", "", "x.csv has no header")
table("header alone", "a,y\n", "x.csv", "at least 2 rows", "holds 0")
table("one row", "a,y\n1,2\n", "x.csv", "at least 2 rows")
table("one column", "y\n1\n2\n", "x.csv", "no feature")
table("missing cell", "a,y\n1,2\n,3\n", names=("a", "a is missing"), note="column a: 1 of 2 cells are missing")
table("missing text", "a,y\nx,2.5\n,3.5\n", names=("a=x", "a is missing"), features=[[1, 0], [0, 1]])
table("missing truth", "b,a,y\n1,true,5\n2,,6\n3,false,7\n", names=("b", "a", "a is missing"))
table("missing day", "day,a,y\n2020-01-01,1,2.5\n,2,3.5\n", names=("a",), note="column day holds dates")
table("empty column", "a,b,y\n1,,5\n2,,6\n", names=("a",), note="column b holds nothing and was left out")
table("nothing but empty columns", "b,y\n,5\n,6\n", "no feature", "column b holds nothing")
table("missing and taken", "a,a is missing,y\n1,0,5\n,1,6\n", "column 'a is missing'", "taken name")
table(
    "missing in many words",
    "c,y\n,1\n" + "".join(f"w{i},{i % 2}\nw{i},1\n" for i in range(65)),
    "column 'c' is text (such as 'w0' in row 2) with 65 different values",
)
table("missing target", "a,y\n1,x\n2,NA\n3,\n", "target column 'y', row 2", "missing, as 2 of 3 are")
table("missing mixed", "a,y\n" + "1,0\n" * 8 + ",0\nx,1\n", "x.csv, column 'a' holds 'x' in row 10", "89% of its cells")
table("NaN", "a,y\n1,2.5\n2,nan\n", "target column 'y', row 2", "1 of 2")
table("infinite", "a,y\n1.5,2.5\ninf,3.5\n", "x.csv, row 2, column 'a'", "not a finite")
table("too large for 32 bits", "a,y\n1.5,2.5\n1e300,3.5\n", "x.csv, row 2, column 'a'", "1e+300")
table(
    "line end in a cell of what is no header",
    '1.5,"a\nb",3\n2.5,"c",4\n4.5,"d",5\n',
    "names of the columns should be ('1.5', 'a\\nb', '3')",
)
table("short row", "a,b,y\n1,2,3\n4,5\n", "x.csv, row 2 has 2 cells", "header has 3")
table("long row", "a,y\n1,2\n3,4,5\n", "x.csv, row 2 has 3 cells", "header has 2")
table("repeated name", "a,a,y\n1,2,3\n4,5,6\n", "x.csv", "twice or empty", "'a'")
table("empty name", "a,,y\n1,2,3\n4,5,6\n", "x.csv", "twice or empty")
table("clash of names", "c=x,c,y\n1,x,1.5\n2,z,2.5\n", "x.csv, column 'c'", "taken name")
table("constant target", "a,y\n1,5\n2,5\n", "target column 'y'", "5 in every row")
table("unknown target", NUMBERS, "x.csv has no column 'z'", "a, b, y", column="z")
table("target of dates", "a,y\n1,2020-01-01\n2,2020-01-02\n", "target column 'y' holds dates")
table(
    "too many words",
    "a,y\n" + "".join(f"w{i // 2},{i}.5\n" for i in range(198)),
    "column 'a'",
    "99 different values",
)
table("only names", "a,y\n" + "".join(f"w{i},{i}.5\n" for i in range(99)), "no feature", "column a holds another text")
table(
    "one word among numbers", "a,y\n" + "".join(f"{i}.5,{i}.5\n" for i in range(99)) + "oops,1.5\n", "'oops' in row 100"
)
table("Latin-1", "a,y\n1,caf\xe9\n2,b\n".encode("latin-1"), "x.csv, line 2", "UTF-8")
table("UTF-16", NUMBERS.encode("utf-16"), "x.csv, line 1", "UTF-8")
table("zip called CSV", b"PK\x03\x04" + bytes(range(256)), "x.csv")
TABLES.append(
    Case("folder with one CSV", lambda root: tree(root, {"x.csv": NUMBERS.encode()}), {"names": ("a", "b")}, ())
)
TABLES.append(
    Case("folder without CSV", lambda root: tree(root, {"x.txt": b"x"}), {}, ("exactly one CSV file, holds 0",))
)
TABLES.append(Case("no CSV", lambda root: tree(root, {"x.xlsx": b"x"}) / "x.xlsx", {}, ("x.xlsx is not a .csv file",)))
TABLES.append(Case("missing CSV", lambda root: root / "x.csv", {}, ("x.csv does not exist",)))
