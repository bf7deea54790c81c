"""Planting: what lies in the folder is what the keybook says, and nothing is overwritten."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paperweight.audits import plant
from paperweight.audits.planting import folder_names, record_ids
from paperweight.data import load_images
from paperweight.errors import InputError
from paperweight.marks.keybook import Keybook


def test_the_files_hold_the_images_and_the_keys_of_the_keybook(tmp_path: Path):
    seen = []
    planted = plant(
        "digits",
        tmp_path / "out",
        thickness=2,
        copies=[1, 4],
        records=60,
        held_out=0.25,
        progress=lambda *done: seen.append(done),
    )
    book = Keybook.load(tmp_path / "out" / "keybook.json")
    assert book == planted.keybook
    source = load_images("digits")
    assert (book.fingerprint, book.name, book.max_side) == (source.fingerprint, "digits", 64)
    assert (len(book.trained), len(book.held_out)) == (45, 15)
    files = sorted((tmp_path / "out" / "images").rglob("*.png"))
    assert len(files) == planted.images == sum(book.copies(record) for record in book.trained)
    assert seen[-1] == ("marked images", planted.images, planted.images)
    for file in files:
        record, copy = file.stem.split("-")
        pixels = np.asarray(Image.open(file))
        assert pixels.shape == (12, 12)
        assert record not in book.held_out
        assert file.parent.name == source.classes[source.train.labels[int(record)]]
        np.testing.assert_array_equal(pixels[2:-2, 2:-2], source.train.images[int(record), 0])
        border = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[2:-2, :2].ravel()])
        assert set(border.tolist()) == {round(255 * book.keys[record][int(copy)])}
        assert border[0] / 255 == book.keys[record][int(copy)]


def test_the_folder_loads_with_the_labels_of_the_data(tmp_path: Path):
    planted = plant("digits", tmp_path / "out", thickness=3, records=40)
    loaded = load_images(planted.folder / "images", max_side=planted.max_side)
    assert loaded.train.images.shape == (planted.images, *planted.shape)
    assert loaded.classes == load_images("digits").classes
    labels = load_images("digits").train.labels
    names = [f.name for f in sorted((planted.folder / "images").rglob("*.png"))]
    assert sorted(labels[int(name.split("-")[0])] for name in names) == sorted(loaded.train.labels)


def test_copies_are_dealt_evenly_and_the_same_key_is_shared_if_asked_for(tmp_path: Path):
    book = plant("digits", tmp_path / "own", copies=[1, 4, 16], records=90, held_out=1 / 3).keybook
    assert Counter(book.copies(record) for record in book.trained) == {1: 20, 4: 20, 16: 20}
    assert Counter(book.copies(record) for record in book.held_out) == {1: 10, 4: 10, 16: 10}
    assert np.mean([len(set(book.keys[record])) for record in book.keys if book.copies(record) == 16]) > 14
    shared = plant("digits", tmp_path / "same", copies=[1, 4], records=40, same_key=True).keybook
    assert all(len(set(own)) == 1 for own in shared.keys.values())
    assert {len(shared.drawn(record)) for record in shared.keys} == {1}
    assert max(map(len, shared.keys.values())) == 4


def test_a_seed_gives_the_same_plant_and_a_subset_keeps_its_keys(tmp_path: Path):
    books = [
        plant("digits", tmp_path / str(i), records=records, seed=seed).keybook
        for i, (records, seed) in enumerate([(50, 1), (50, 1), (80, 1), (50, 2)])
    ]
    assert books[0] == books[1]
    assert {record: books[2].keys[record] for record in books[0].keys} == books[0].keys
    assert books[3].keys != books[0].keys
    assert books[0].held_out != books[3].held_out


def test_colour_centre_and_odd_class_names(tmp_path: Path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (30, 6, 7, 3), np.uint8)
    names = np.array(["b/c", "../a", "B"])[np.arange(30) % 3]
    np.savez(tmp_path / "set.npz", x=images, y=names)
    planted = plant(tmp_path / "set.npz", tmp_path / "out", pattern="centre", thickness=2)
    source = load_images(tmp_path / "set.npz")
    assert planted.shape == (3, 6, 7)
    assert [path.name for path in sorted((tmp_path / "out" / "images").iterdir())] == folder_names(source.classes)
    loaded = load_images(tmp_path / "out" / "images")
    assert len(loaded.classes) == 3
    file = next((tmp_path / "out" / "images").rglob("*.png"))
    record = int(file.stem.split("-")[0])
    pixels = np.asarray(Image.open(file))
    outside = np.ones((6, 7), bool)
    outside[2:4, 2:4] = False
    np.testing.assert_array_equal(pixels[outside], source.train.images[record].transpose(1, 2, 0)[outside])
    assert len(set(pixels[~outside].ravel().tolist())) == 1
    assert file.parent.name == folder_names(source.classes)[source.train.labels[record]]


def test_names():
    assert record_ids(1) == ["0"]
    assert len(record_ids(101)[0]) == 3
    assert folder_names(["0", "1", "10"]) == ["0", "1", "10"]
    numbered = folder_names([str(i) for i in range(11)])
    assert numbered == sorted(numbered)
    assert folder_names(["A", "a"]) == ["0-A", "1-a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thickness": 0}, "thickness must be a whole number of at least 1, got 0"),
        ({"thickness": 9, "pattern": "centre"}, "thickness must be at most the image's 8 x 8 pixels, got 9"),
        ({"thickness": 8, "pattern": "centre"}, "the mark must be smaller than the images of 8 x 8 pixels"),
        ({"thickness": 9}, "the mark must be smaller than the images of 8 x 8 pixels"),
        ({"copies": 0}, "copies must be whole numbers from 1 to 1000, got 0"),
        ({"copies": []}, "copies must be"),
        ({"held_out": 1.0}, "held_out must be a share from 0 to below 1, got 1.0"),
        ({"records": 10}, "records must be above the number of classes, 10, and at most that of images, 1797, got 10"),
        ({"records": 1798}, "records must be above"),
        ({"max_side": 0}, "max_side"),
    ],
)
def test_what_cannot_be_planted_is_refused_and_leaves_nothing(arguments: dict, message: str, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        plant("digits", tmp_path / "out", **arguments)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file"):
        with pytest.raises(InputError, match="is not an empty folder; nothing is overwritten, choose another --out"):
            plant("digits", tmp_path / name, records=20)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert plant("digits", tmp_path / "empty", records=20).images == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
    with pytest.raises(InputError, match="cannot be written"):
        plant("digits", tmp_path / "file" / "below", records=20)
