"""Transforms against Pillow and SciPy, and by their exact laws."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage

from paperweight.data import transforms as T


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=_generator(7), dtype=dtype)


def _one_hot(count: int) -> torch.Tensor:
    return torch.eye(count)


RANDOM = {
    "random_crop": lambda x, g: T.random_crop(x, 2, generator=g),
    "random_flip": lambda x, g: T.random_flip(x, generator=g),
    "cutout": lambda x, g: T.cutout(x, 3, generator=g),
    "mixup": lambda x, g: T.mixup(x, _one_hot(len(x)).to(x), 1.0, generator=g)[0],
    "cutmix": lambda x, g: T.cutmix(x, _one_hot(len(x)).to(x), 1.0, generator=g)[0],
}
FIXED = {
    "translate": lambda x: T.translate(x, torch.ones(len(x), 2, dtype=torch.long)),
    "adjust_colour": lambda x: T.adjust_colour(x, brightness=1.2, contrast=0.7, saturation=1.4),
    "gaussian_blur": lambda x: T.gaussian_blur(x, 1.0),
    "affine": lambda x: T.affine(x, angle=20.0, scale=1.1, shear=5.0, right=1.0, down=-2.0),
    "normalise": lambda x: T.normalise(x, torch.full((3,), 0.5), torch.full((3,), 0.2)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_transforms_depend_on_their_generator_alone(name: str) -> None:
    images = _images(8, 3, 9, 7)
    kept, state = images.clone(), torch.get_rng_state()
    one, two, other = (RANDOM[name](images, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_images_are_independent(name: str, dtype: torch.dtype) -> None:
    images = _images(4, 3, 9, 7, dtype=dtype)
    result = FIXED[name](images) if name in FIXED else RANDOM[name](images, _generator())
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert not torch.equal(result, images)
    if name in FIXED:
        torch.testing.assert_close(result[1:2], FIXED[name](images[1:2]))
    if name != "normalise":
        assert result.min() >= 0
        assert result.max() <= 1


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -3), (-1, 4), (20, 0)])
def test_translate_is_the_shift_of_scipy(down: int, right: int) -> None:
    images = _images(2, 3, 9, 7)
    moved = T.translate(images, torch.tensor([[down, right], [0, 0]]))
    truth = ndimage.shift(images[0].numpy(), (0, down, right), order=0, prefilter=False)
    np.testing.assert_array_equal(moved[0].numpy(), truth)
    assert torch.equal(moved[1], images[1])


def test_crop_takes_every_place_of_the_padded_image() -> None:
    images = _images(1, 1, 4, 4).expand(300, 1, 4, 4)
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = {tuple(padded[:, i : i + 4, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)}
    assert {tuple(crop.flatten().tolist()) for crop in T.random_crop(images, 1, generator=_generator())} == windows
    assert torch.equal(T.random_crop(images, 0, generator=_generator()), images)


def test_flip_mirrors_with_its_probability_and_twice_is_the_identity() -> None:
    images = _images(1000, 1, 3, 4)
    twice = T.random_flip(T.random_flip(images, 1.0, generator=_generator()), 1.0, generator=_generator())
    assert torch.equal(twice, images)
    assert torch.equal(T.random_flip(images, 0.0, generator=_generator()), images)
    flipped = (T.random_flip(images, 0.3, generator=_generator()) != images).flatten(1).any(1)
    assert abs(float(flipped.float().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 1000)
    assert torch.equal(T.random_flip(images, 0.3, generator=_generator())[flipped], images.flip(3)[flipped])


def test_cutout_removes_a_square_around_a_uniform_centre() -> None:
    images = torch.ones(4000, 2, 6, 6)
    assert torch.equal(T.cutout(images, 0, generator=_generator()), images)
    hole = 1 - T.cutout(images, 1, generator=_generator())
    assert torch.equal(hole.sum(dim=(1, 2, 3)), torch.full((4000,), 2.0))
    share = hole[:, 0].mean(0)
    assert ((share - 1 / 36).abs() < 5 * math.sqrt(1 / 36 / 4000)).all()
    sizes = {int(n) for n in (1 - T.cutout(images, 3, generator=_generator()))[:, 0].sum(dim=(1, 2))}
    assert sizes == {4, 6, 9}


def test_mixup_is_the_same_blend_of_images_and_targets() -> None:
    images, targets = _images(64, 3, 4, 4), _one_hot(64)
    mixed, soft = T.mixup(images, targets, 0.7, generator=_generator())
    torch.testing.assert_close(mixed, torch.einsum("nk,kchw->nchw", soft, images))
    torch.testing.assert_close(soft.sum(1), torch.ones(64))
    assert ((soft > 0).sum(1) <= 2).all()
    same, unchanged = T.mixup(images, targets, 0.0, generator=_generator())
    assert torch.equal(same, images)
    assert torch.equal(unchanged, targets)


def test_mixup_weights_have_the_variance_of_the_beta_distribution() -> None:
    count, alpha = 4000, 0.5
    images = torch.zeros(count, 1, 1, 1)
    _, soft = T.mixup(images, _one_hot(count), alpha, generator=_generator())
    own = soft.diagonal()
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(float(own.mean()) - 0.5) < 5 * math.sqrt(0.125 / count)
    assert abs(float(own.var()) - 0.125) < 0.01


def test_cutmix_weighs_targets_by_area_exactly() -> None:
    images = torch.arange(32.0)[:, None, None, None].expand(32, 2, 10, 7) / 32
    mixed, soft = T.cutmix(images, _one_hot(32), 1.0, generator=_generator())
    share = torch.stack([(mixed[:, 0] == k / 32).float().mean(dim=(1, 2)) for k in range(32)], dim=1)
    torch.testing.assert_close(soft, share)
    assert ((share > 0) & (share < 1)).sum() > 30
    for image, own in zip(mixed[:, 0], images[:, 0, 0, 0], strict=True):
        rows, columns = torch.nonzero(image != own, as_tuple=True)
        if len(rows):
            assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    same, unchanged = T.cutmix(images, _one_hot(32), 0.0, generator=_generator())
    assert torch.equal(same, images)
    assert torch.equal(unchanged, _one_hot(32))


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_is_that_of_pillow_within_rounding(kind: str, factor: float, mode: str) -> None:
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    pixels = np.random.default_rng(0).integers(0, 256, (12, 15, 3)[: 3 if mode == "RGB" else 2], dtype=np.uint8)
    truth = np.asarray(enhancers[kind](Image.fromarray(pixels)).enhance(factor)).reshape(12, 15, -1)
    images = torch.from_numpy(pixels.reshape(1, 12, 15, -1)).permute(0, 3, 1, 2) / 255
    ours = T.adjust_colour(images, **{kind: factor})[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - truth).max() <= 1.01 + abs(1 - factor)


def test_colour_factors_may_differ_between_images() -> None:
    images = _images(2, 3, 4, 4)
    result = T.adjust_colour(images, brightness=torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(result[0], images[0])
    torch.testing.assert_close(result[1], images[1] / 2)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    images = _images(2, 3, 9, 7, dtype=torch.float64)
    truth = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=3.0)
    np.testing.assert_allclose(T.gaussian_blur(images, sigma, truncate=3.0).numpy(), truth, atol=1e-12)
    assert torch.equal(T.gaussian_blur(images, 0.0), images)


@pytest.mark.parametrize(
    ("angle", "scale", "shear", "right", "down"),
    [
        (0, 1, 0, 0, 0),
        (30, 1, 0, 0, 0),
        (0, 1.5, 0, 0, 0),
        (0, 1, 20, 0, 0),
        (0, 1, 0, 1.5, -2.25),
        (-50, 0.7, 15, 1, 2),
    ],
)
def test_affine_is_that_of_scipy(angle: float, scale: float, shear: float, right: float, down: float) -> None:
    images = _images(1, 2, 9, 12, dtype=torch.float64)
    ours = T.affine(images, angle=angle, scale=scale, shear=shear, right=right, down=down)
    cos, sin, tan = (f(math.radians(a)) for f, a in ((math.cos, angle), (math.sin, angle), (math.tan, shear)))
    # Forward, in (row, column) with rows downward: lean, enlarge, turn counter-clockwise, move.
    lean = np.array([[1, 0], [-tan, 1]])
    turn = np.array([[cos, -sin], [sin, cos]])
    back = np.linalg.inv(scale * turn @ lean)
    middle = np.array([4.0, 5.5])
    offset = middle - back @ (middle + np.array([down, right]))
    for channel in range(2):
        truth = ndimage.affine_transform(images[0, channel].numpy(), back, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(ours[0, channel].numpy(), truth, atol=1e-9)


def test_affine_turns_as_pillow_does_and_takes_one_angle_per_image() -> None:
    pixels = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    ours = T.affine(torch.from_numpy(pixels).expand(2, 1, 8, 8), angle=torch.tensor([90.0, 180.0]))
    for image, angle in zip(ours, (90, 180), strict=True):
        truth = np.asarray(Image.fromarray(pixels).rotate(angle))
        np.testing.assert_allclose(image[0].numpy(), truth, atol=1e-5)


def test_affine_leans_the_top_to_the_right() -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4] = 1
    row = T.affine(images, shear=45.0)[0, 0].argmax(dim=1)
    assert row.tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("size", [(5, 4), (9, 7), (20, 30), (3, 30), (1, 1)])
def test_resize_is_that_of_pillow(size: tuple[int, int]) -> None:
    images = _images(2, 3, 9, 7)
    ours = T.resize(images, size)
    assert ours.shape == (2, 3, *size)
    for image, result in zip(images.flatten(0, 1), ours.flatten(0, 1), strict=True):
        truth = Image.fromarray(image.numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(result.numpy(), np.asarray(truth), atol=2e-6)


def test_normalising_by_its_own_statistics_gives_mean_0_and_variance_1() -> None:
    images = _images(5, 3, 8, 8, dtype=torch.float64)
    mean, std = T.channel_statistics(images)
    np.testing.assert_allclose(mean.numpy(), images.numpy().mean((0, 2, 3)))
    np.testing.assert_allclose(std.numpy(), images.numpy().std((0, 2, 3)))
    again = T.channel_statistics(T.normalise(images, mean, std))
    torch.testing.assert_close(again[0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(again[1], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: T.translate(x, torch.zeros(2)), "offsets must have shape"),
        (lambda x: T.random_crop(x, -1, generator=_generator()), "padding must be"),
        (lambda x: T.random_flip(x, 1.5, generator=_generator()), "probability must be"),
        (lambda x: T.cutout(x, -1, generator=_generator()), "size must be"),
        (lambda x: T.mixup(x, torch.arange(4), 1.0, generator=_generator()), "targets must be .*one_hot"),
        (lambda x: T.cutmix(x, torch.eye(4), math.nan, generator=_generator()), "alpha must be"),
        (lambda x: T.adjust_colour(x[:, :2]), "number of channels"),
        (lambda x: T.adjust_colour(x, contrast=-0.1), "contrast must be"),
        (lambda x: T.gaussian_blur(x, -1.0), "sigma must be"),
        (lambda x: T.gaussian_blur(x, 1.0, truncate=0.0), "truncate must be"),
        (lambda x: T.affine(x, scale=0.0), "scale must be"),
        (lambda x: T.resize(x, (0, 4)), "size must be"),
        (lambda x: T.normalise(x, torch.zeros(3), torch.zeros(3)), "std must be"),
        (lambda x: T.random_flip(x[0], generator=_generator()), "images must be floating-point of shape"),
        (lambda x: T.resize((x * 255).byte(), (4, 4)), "divide by 255"),
    ],
)
def test_bad_arguments_are_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(_images(4, 3, 6, 6))
