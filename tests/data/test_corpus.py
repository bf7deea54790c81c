"""Every input of the corpus loads as it says or is refused as it says, and damage of any kind is refused."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.corpus import IMAGES, TABLES, Case, encode, npz, pair, parquet, ramp

from paperweight.data import ImageData, load_images, load_table
from paperweight.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(root))
    monkeypatch.delenv("PAPERWEIGHT_DATA", raising=False)
    return root


def test_corpus_is_large_and_its_names_are_distinct() -> None:
    assert len(IMAGES) + len(TABLES) >= 100
    assert len({case.name for case in IMAGES}) == len(IMAGES)
    assert len({case.name for case in TABLES}) == len(TABLES)


@pytest.mark.parametrize("case", [c for c in IMAGES if not c.says], ids=lambda c: c.name)
def test_good_images_load(case: Case, tmp_path: Path) -> None:
    data = load_images(case.build(tmp_path))
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert set(np.unique(data.train.labels)) <= set(range(len(data.classes)))
    for fact, value in case.holds.items():
        assert _fact(data, fact, value) == value, fact


def _fact(data: ImageData, fact: str, value: Any) -> Any:
    images = data.train.images
    match fact:
        case "shape":
            return images.shape
        case "test":
            return data.test.images.shape if data.test else None
        case "classes":
            return data.classes
        case "labels":
            return data.train.labels.tolist()
        case "test_labels":
            return data.test.labels.tolist() if data.test else None
        case "pixel":
            return tuple(images[0, :, 0, 0].tolist())
        case "brightest":
            return np.unravel_index(images[0].sum(0, dtype=int).argmax(), images.shape[2:])
        case "note":
            return value if any(value in note for note in data.notes) else data.notes
    raise KeyError(fact)


@pytest.mark.parametrize("case", [c for c in IMAGES if c.says], ids=lambda c: c.name)
def test_bad_images_are_refused(case: Case, tmp_path: Path) -> None:
    source = case.build(tmp_path)
    with pytest.raises(InputError) as caught:
        load_images(source)
    for words in case.says:
        assert words in str(caught.value)


@pytest.mark.parametrize("case", [c for c in TABLES if not c.says], ids=lambda c: c.name)
def test_good_tables_load(case: Case, tmp_path: Path) -> None:
    table = load_table(case.build(tmp_path), target=case.holds.get("column"))
    assert table.features.dtype == np.float32
    assert table.target.dtype == (np.int64 if table.classes else np.float32)
    assert table.features.shape == (len(table.target), len(table.feature_names))
    found = {
        "features": table.features.tolist(),
        "target": table.target.tolist(),
        "labels": table.target.tolist(),
        "names": table.feature_names,
        "classes": table.classes,
        "note": next((case.holds["note"] for note in table.notes if case.holds.get("note", "\0") in note), None),
        "column": case.holds.get("column"),
    }
    for fact, value in case.holds.items():
        assert found[fact] == value, fact


@pytest.mark.parametrize("case", [c for c in TABLES if c.says], ids=lambda c: c.name)
def test_bad_tables_are_refused(case: Case, tmp_path: Path) -> None:
    source = case.build(tmp_path)
    with pytest.raises(InputError) as caught:
        load_table(source, target=case.holds.get("column"))
    for words in case.says:
        assert words in str(caught.value)


def test_bombs_are_refused_before_pixels_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        pytest.fail(f"the pixels of {self.size} were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    bombs = [case for case in IMAGES if "bomb" in case.name]
    assert len(bombs) == 4
    for number, case in enumerate(bombs):
        with pytest.raises(InputError, match="pixels"):
            load_images(case.build(tmp_path / str(number)))


def test_archives_are_refused_before_arrays_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        pytest.fail("the array was read")

    monkeypatch.setattr("numpy.lib.format.read_array", read)
    cases = [case for case in IMAGES if "declares" in str(case.says) and case.name.startswith("npz")]
    assert len(cases) == 3
    for case in cases:
        with pytest.raises(InputError, match="declares"):
            load_images(case.build(tmp_path))


def _damage(content: bytes, draw: random.Random) -> bytes:
    """Cut the content off, or change one to four of its bytes."""
    if draw.random() < 0.3:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] ^= draw.randint(1, 255)
    return bytes(changed)


FUZZED = ("png", "jpeg", "gif", "tiff", "bmp", "webp", "parquet", "npz", "csv")


@pytest.mark.parametrize("kind", FUZZED)
def test_damage_loads_or_is_refused(kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    image = Image.fromarray(ramp(5, 7, 3))
    load: Any = load_images
    if kind == "parquet":
        victim = source = parquet(tmp_path / "x.parquet", names=["cat", "dog"])
    elif kind == "npz":
        victim = source = npz(tmp_path, x=ramp(2, 4, 6), y=["a", "b"])
    elif kind == "csv":
        victim = source = tmp_path / "x.csv"
        source.write_bytes(b"a,b,y\n" + b"1.5,red,2\n2.5,blue,3\n" * 5)
        load = load_table
    else:
        source = pair(tmp_path, encode(image, kind), ".png")
        victim = tmp_path / "a/1.png"
    content = victim.read_bytes()
    load(source)
    refusals = 0
    for _ in range(200):
        victim.write_bytes(_damage(content, draw))
        try:
            load(source)
        except InputError:
            refusals += 1
    assert refusals > 0
