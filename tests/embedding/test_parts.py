"""Which images are learned, which choose and which judge: no copy of a test image is anywhere else."""

import numpy as np
import pytest

from paperweight.data import ImageData, ImageSet, load_images
from paperweight.embedding.parts import LEFT_OUT, TEST, TRAIN, VALIDATION, divided
from paperweight.errors import InputError


def pool(count: int, first: int = 0, classes: int = 2) -> ImageSet:
    numbers = np.arange(first, first + count)
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8).reshape(count, 1, 1, 2)
    return ImageSet(images, (numbers % classes).astype(np.int64))


def data(train: ImageSet, test: ImageSet | None = None, classes: int = 2) -> ImageData:
    return ImageData(train, test, tuple(map(str, range(classes))), "toy", "0", ())


def joined(*pools: ImageSet) -> ImageSet:
    return ImageSet(np.concatenate([p.images for p in pools]), np.concatenate([p.labels for p in pools]))


def test_a_fifth_judges_and_a_fifth_of_the_rest_chooses() -> None:
    parts = divided(data(pool(500)), seed=0)
    assert [len(parts.rows(part)) for part in (TRAIN, VALIDATION, TEST)] == [320, 80, 100]
    other = divided(data(pool(500)), seed=1)
    assert set(other.rows(TEST)) != set(parts.rows(TEST))
    assert (divided(data(pool(500)), seed=0).of == parts.of).all()


def test_of_copies_one_is_in_a_part_and_the_others_are_left_out() -> None:
    parts = divided(data(joined(pool(100), pool(100), pool(60))), seed=3)
    used = [row for part in (TRAIN, VALIDATION, TEST) for row in parts.rows(part)]
    assert sorted(used) == list(range(100))
    assert set(parts.of[100:]) == {LEFT_OUT}
    single = divided(data(pool(100)), seed=3)
    assert (single.of == parts.of[:100]).all()


def test_a_test_part_of_the_source_judges_and_its_copies_are_not_learned() -> None:
    parts = divided(data(pool(200), joined(pool(50, first=180), pool(2_600, first=1_000))), seed=0)
    tested = parts.rows(TEST)
    assert len(np.unique(parts.first[tested])) == len(tested) == 2_000
    assert (tested >= 200).all()
    assert not set(parts.first[parts.rows(TRAIN)]) & set(parts.first[200:])
    assert not set(parts.first[parts.rows(VALIDATION)]) & set(parts.first[200:])
    assert len(parts.rows(TRAIN)) + len(parts.rows(VALIDATION)) == 180
    assert len(parts.rows(VALIDATION)) == 36
    assert (parts.of[180:200] != TRAIN).all()
    assert len(parts.rows(LEFT_OUT)) == 2_850 - len(tested) - 180


def test_without_labels_all_is_learned() -> None:
    parts = divided(data(pool(60, classes=1), classes=1), seed=0)
    assert set(parts.of) == {TRAIN}


def test_few_different_images_are_refused() -> None:
    with pytest.raises(InputError, match="toy must hold at least 32 different images to learn from, got 26"):
        divided(data(joined(pool(39), pool(39))), seed=0)
    with pytest.raises(InputError, match="got 4 that are not for tests"):
        divided(data(pool(4), pool(60, first=10)), seed=0)
    with pytest.raises(InputError, match="got 0 that are not for tests"):
        divided(data(pool(60), pool(60)), seed=0)
    assert len(divided(load_images("digits"), 0).rows(TEST)) == 359
