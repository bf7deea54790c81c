"""Synthetic sets against the laws that they are drawn from."""

import math

import pytest
import torch

from paperweight.data import gaussian_grid, gaussian_mixture, shapes
from paperweight.data.synthetic import COLOURS, SHAPES


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixture_has_the_centres_scale_and_shares_of_its_law() -> None:
    points, mode = gaussian_mixture(20000, modes=5, radius=2.0, scale=0.1, generator=_generator())
    assert points.dtype == torch.float32
    for k in range(5):
        own = points[mode == k]
        assert abs(len(own) - 4000) < 5 * math.sqrt(20000 * 0.16)
        centre = torch.tensor([2 * math.cos(2 * math.pi * k / 5), 2 * math.sin(2 * math.pi * k / 5)])
        assert (own.mean(0) - centre).abs().max() < 5 * 0.1 / math.sqrt(len(own))
        assert (own.std(0) - 0.1).abs().max() < 5 * 0.1 / math.sqrt(2 * len(own))


def test_grid_without_scale_is_its_centres() -> None:
    points, mode = gaussian_grid(500, side=3, spacing=2.0, scale=0.0, generator=_generator())
    assert points.unique(dim=0).tolist() == [[x, y] for x in (-2.0, 0.0, 2.0) for y in (-2.0, 0.0, 2.0)]
    assert torch.equal(points, torch.stack([(mode // 3 - 1) * 2.0, (mode % 3 - 1) * 2.0], dim=1))
    assert gaussian_grid(3, side=1, scale=0.0, generator=_generator())[0].tolist() == [[0.0, 0.0]] * 3


# The area of each shape of radius 1.
AREAS = {"circle": math.pi, "square": 4.0, "triangle": 2.0, "cross": 4 * (1 - 4 / 9)}


def test_shapes_have_their_colour_area_and_place() -> None:
    images, attributes = shapes(400, size=32, generator=_generator())
    assert images.shape == (400, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    cover = images.amax(1)
    palette = torch.tensor(list(COLOURS.values()))
    torch.testing.assert_close(images, cover[:, None] * palette[attributes["colour"]][:, :, None, None])
    area = torch.tensor([AREAS[name] for name in SHAPES])[attributes["shape"]] * attributes["radius"] ** 2
    assert ((cover.sum(dim=(1, 2)) - area).abs() < 0.1 * area).all()
    at = torch.arange(32) + 0.5
    mean_x = (cover * at).sum(dim=(1, 2)) / cover.sum(dim=(1, 2))
    mean_y = (cover * at[:, None]).sum(dim=(1, 2)) / cover.sum(dim=(1, 2))
    assert ((mean_x - attributes["x"]).abs() < 0.2).all()
    # The centroid of a triangle that stands on its base lies a third of the radius below the middle of its height.
    low = (attributes["shape"] == SHAPES.index("triangle")) * attributes["radius"] / 3
    assert ((mean_y - attributes["y"] - low).abs() < 0.2).all()
    circles = cover[attributes["shape"] == SHAPES.index("circle")]
    assert ((circles > 0) & (circles < 1)).any(dim=(1, 2)).all()


def test_shapes_use_every_shape_and_colour_independently() -> None:
    _, attributes = shapes(2400, size=8, generator=_generator())
    counts = torch.bincount(attributes["shape"] * 6 + attributes["colour"], minlength=24)
    assert ((counts - 100).abs() < 5 * math.sqrt(100)).all()


@pytest.mark.parametrize("draw", [gaussian_mixture, gaussian_grid, shapes])
def test_draws_depend_on_their_generator_alone(draw) -> None:
    state = torch.get_rng_state()
    one, two, other = (draw(20, generator=_generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gaussian_mixture(0, generator=_generator()), "n must be at least 1"),
        (lambda: gaussian_mixture(5, modes=0, generator=_generator()), "modes must be"),
        (lambda: gaussian_mixture(5, scale=-1.0, generator=_generator()), "scale must be"),
        (lambda: gaussian_grid(5, side=0, generator=_generator()), "side must be"),
        (lambda: shapes(0, generator=_generator()), "n must be"),
        (lambda: shapes(5, size=7, generator=_generator()), "size must be"),
    ],
)
def test_bad_arguments_are_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
