"""Splits: sizes, shares of the classes, no overlap, and dependence on the generator alone."""

import numpy as np
import pytest
import torch

from paperweight.data import ImageData, ImageSet, load_images, split_images
from paperweight.errors import InputError


def _set(counts: list[int], start: int = 0) -> ImageSet:
    """Return images that each hold their own number, with so many of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    numbers = start + np.arange(len(labels))
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8).reshape(-1, 1, 1, 2)
    return ImageSet(images, labels)


def _data(train: list[int], test: list[int] | None = None) -> ImageData:
    classes = tuple("abcdefgh"[: len(train)])
    return ImageData(_set(train), _set(test, 10000) if test else None, classes, "toy", "", ())


def _numbers(images: torch.Tensor) -> list[int]:
    pixels = (images * 255).round().long()
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]).tolist()


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_have_the_sizes_asked_for_without_overlap_and_the_right_labels() -> None:
    data = _data([300, 200, 100])
    splits = split_images(data, train=120, validation=60, test=30, generator=_generator())
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [120, 60, 30]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[60, 40, 20], [30, 20, 10], [15, 10, 5]]
    drawn = [number for part in parts for number in _numbers(part.images)]
    assert len(set(drawn)) == 210
    for part in parts:
        assert part.labels.tolist() == data.train.labels[_numbers(part.images)].tolist()
        assert part.images.dtype == torch.float32
        assert part.labels.dtype == torch.int64


def test_a_draw_is_a_function_of_the_generator_alone() -> None:
    data = _data([300, 200])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = split_images(data, train=50, validation=20, test=20, generator=_generator(1))
    torch.rand(3)
    two = split_images(data, train=50, validation=20, test=20, generator=_generator(1))
    other = split_images(data, train=50, validation=20, test=20, generator=_generator(2))
    torch.set_rng_state(state)
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.test.labels, two.test.labels)
    assert _numbers(one.train.images) != _numbers(other.train.images)
    assert _numbers(one.train.images) != sorted(_numbers(one.train.images))


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    split_images(_data([30, 30]), train=10, validation=5, test=5, generator=_generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_is_drawn_equally_often() -> None:
    data = _data([40, 40])
    counts = torch.zeros(80)
    for seed in range(400):
        splits = split_images(data, train=20, validation=0, test=0, generator=_generator(seed))
        counts[_numbers(splits.train.images)] += 1
    # Each count is binomial with mean 100 and deviation 8.7.
    assert counts.sum() == 8000
    assert ((counts - 100).abs() < 5 * 8.7).all()


def test_the_test_part_comes_from_the_sources_own() -> None:
    splits = split_images(_data([50, 50], [20, 20]), train=40, validation=20, test=30, generator=_generator())
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [40, 20, 30]
    assert min(_numbers(splits.test.images)) >= 10000
    assert max(_numbers(splits.train.images) + _numbers(splits.validation.images)) < 100


def test_sizes_shrink_in_proportion() -> None:
    splits = split_images(_data([50, 50]), train=800, validation=100, test=100, generator=_generator())
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [80, 10, 10]
    own = split_images(_data([50, 50], [5, 5]), train=600, validation=200, test=100, generator=_generator())
    assert [len(own.train), len(own.validation), len(own.test)] == [75, 25, 10]


def test_a_rare_class_is_in_every_part() -> None:
    splits = split_images(_data([500, 3, 490]), train=200, validation=20, test=20, generator=_generator())
    for part in (splits.train, splits.validation, splits.test):
        assert int((part.labels == 1).sum()) == 1
    shrunk = split_images(_data([4, 3]), train=1000, validation=10, test=10, generator=_generator())
    assert [len(shrunk.train), len(shrunk.validation), len(shrunk.test)] == [3, 2, 2]


def test_random_requests_are_met_exactly() -> None:
    draw = np.random.default_rng(0)
    for seed in range(200):
        counts = draw.integers(3, 40, size=draw.integers(2, 8)).tolist()
        sizes = draw.integers(len(counts), 60, size=3).tolist()
        data = _data(counts)
        splits = split_images(data, train=sizes[0], validation=sizes[1], test=sizes[2], generator=_generator(seed))
        parts = (splits.train, splits.validation, splits.test)
        assert sum(len(part) for part in parts) == min(sum(sizes), sum(counts))
        assert all(len(part) <= size for part, size in zip(parts, sizes, strict=True))
        assert all(set(part.labels.tolist()) == set(range(len(counts))) for part in parts)
        drawn = [number for part in parts for number in _numbers(part.images)]
        assert len(set(drawn)) == len(drawn)


def test_empty_parts_have_the_right_shape() -> None:
    splits = split_images(load_images("digits"), train=20, validation=0, test=0, generator=_generator())
    assert splits.validation.images.shape == (0, 1, 8, 8)
    assert len(splits.test) == 0


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((0, 10, 10), "train must be at least 2"),
        ((1, 10, 10), "train must be at least 2"),
        ((10, 1, 10), "validation must be at least 2, one for each class, or 0"),
        ((10, 10, -5), "test must be"),
        ((10.0, 10, 10), "train must be"),
    ],
)
def test_bad_sizes_are_refused(sizes: tuple[int, int, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        split_images(_data([50, 50]), train=sizes[0], validation=sizes[1], test=sizes[2], generator=_generator())


def test_a_class_with_too_few_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"class 'b' has 2 images.*needs at least 3"):
        split_images(_data([50, 2]), train=10, validation=10, test=10, generator=_generator())
    with pytest.raises(InputError, match="class 'b' has 0 images to draw test from"):
        split_images(_data([50, 50], [5, 0]), train=10, validation=10, test=2, generator=_generator())
