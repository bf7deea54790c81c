"""Copies of images: found by their pixels, named, and kept on one side of a split."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.corpus import encode, picture, tree

from paperweight.data import ImageData, ImageSet, Splits, load_images, split_images
from paperweight.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def _split(data: ImageData, train: int, validation: int, test: int) -> Splits:
    draw = torch.Generator().manual_seed(0)
    return split_images(data, train=train, validation=validation, test=test, generator=draw)


def _content(splits: Splits) -> list[set[bytes]]:
    parts = (splits.train, splits.validation, splits.test)
    return [{image.numpy().tobytes() for image in part.images} for part in parts]


def _numbered(numbers: list[int], classes: int) -> ImageSet:
    images = np.array(numbers, np.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(images, np.array(numbers, np.int64) % classes)


def test_copies_in_one_folder_are_named_and_drawn_once(tmp_path: Path) -> None:
    files = {f"{c}/{n}.png": encode(picture(colour=(50 * (n % 5), 0, ord(c)))) for c in "ab" for n in range(20)}
    files["a/19.png"] = encode(picture(colour=(200, 0, ord("a"))), compress_level=0)  # other bytes, the same pixels
    data = load_images(tree(tmp_path, files))
    assert data.notes == (
        "30 images are copies of others in their part, such as a/0.png and a/10.png; a split takes each image once",
    )
    splits = _split(data, 4, 2, 4)
    content = _content(splits)
    assert [len(part) for part in content] == [4, 2, 4] == [len(splits.train), len(splits.validation), len(splits.test)]
    assert len(set.union(*content)) == 10


def test_test_images_in_the_training_part_are_named_and_not_trained_on(tmp_path: Path) -> None:
    files = {f"train/{c}/{n}.png": encode(picture(colour=(n, 0, ord(c)))) for c in "ab" for n in range(10)}
    files |= {f"test/{c}/{n}.png": encode(picture(colour=(n, 0, ord(c)))) for c in "ab" for n in range(7, 12)}
    data = load_images(tree(tmp_path, files))
    assert data.notes == (
        "6 images are in the test part and in the training part, such as train/a/7.png and test/a/7.png; a split does "
        "not train on them",
    )
    splits = _split(data, 100, 4, 100)
    train, validation, test = _content(splits)
    assert len(test) == 10
    assert not (train | validation) & test
    assert len(train) + len(validation) == 14


def test_an_image_of_two_classes_is_named(tmp_path: Path) -> None:
    files = {f"{c}/{n}.png": encode(picture(colour=(n, 0, 0 if n == 1 else ord(c)))) for c in "ab" for n in range(3)}
    notes = load_images(tree(tmp_path, files)).notes
    assert "1 image is of two classes at once, such as a/1.png and b/1.png; correct the labels" in notes


def test_a_test_part_that_is_the_training_part_is_refused() -> None:
    part = _numbered(list(range(20)), 2)
    data = ImageData(part, part, ("a", "b"), "toy", "", ())
    with pytest.raises(InputError, match=r"class 'a' has 0 images, 'b' has 0 images.*not for training if"):
        _split(data, 4, 2, 4)


def test_without_copies_splits_are_what_they_were_before_copies_were_looked_for() -> None:
    """The hashes are those of revision 04fefa7, computed before this change."""
    data = load_images("digits")
    draw = torch.Generator().manual_seed(3)
    splits = split_images(data, train=300, validation=100, test=200, generator=draw)
    parts = (splits.train, splits.validation, splits.test)
    content = b"".join(values.numpy().tobytes() for part in parts for values in (part.images, part.labels))
    assert hashlib.sha256(content).hexdigest() == "ff6c807562e13440950ec43190a3af7c2b22a1eee57afeedb6c4243f94fe696e"
    assert data.fingerprint == "2bb196d6b69534f9779a2e92f76a4d463394bc1a29326674b4bf5d113d00b94a"


def test_with_a_test_part_and_without_copies_splits_are_what_they_were() -> None:
    data = ImageData(_numbered(list(range(100)), 4), _numbered(list(range(100, 140)), 4), tuple("abcd"), "toy", "", ())
    splits = split_images(data, train=20, validation=8, test=12, generator=torch.Generator().manual_seed(5))
    drawn = [
        (part.images * 255).round().int().flatten().tolist() for part in (splits.train, splits.validation, splits.test)
    ]
    assert drawn == [
        [86, 39, 19, 18, 24, 70, 83, 96, 57, 26, 41, 43, 33, 66, 44, 97, 28, 37, 71, 16],
        [75, 58, 36, 17, 45, 60, 35, 74],
        [134, 103, 101, 111, 102, 106, 129, 131, 117, 128, 116, 132],
    ]
