"""SolidMark against marks by hand, oracles whose memory is known, a scalar loop of the reverse process, and chance."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from paperweight.auditing.solidmark import SolidMark, key_likelihood, recall_keys
from paperweight.generators.model import ModelSpec
from paperweight.generators.outpainting import outpaint
from paperweight.generators.process import NoiseSchedule, cosine_schedule
from paperweight.marks.patched_l2 import patched_l2
from paperweight.testing import DataTransformSubject, FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


class Oracle:
    """A model of pixels whose predicted data are a function of z and the share of signal."""

    def __init__(self, data: Callable[[Tensor, float], Tensor], schedule: NoiseSchedule | None = None) -> None:
        self.schedule = schedule or cosine_schedule(50)
        self.clamp: tuple[float, float] | None = None
        self._data = data

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        abar = self.schedule.abar[t[0]].item()
        return (z - math.sqrt(abar) * self._data(z, abar)) / math.sqrt(1 - abar)

    def condition(self, given: Any, count: int) -> Tensor | None:
        return None

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, z: Tensor) -> Tensor:
        return (z + 1) / 2

    def latent_mask(self, mask: Tensor) -> Tensor:
        return mask


def remembers(stored: Tensor) -> Oracle:
    """The exact denoiser of a generator that knows these images, (M, C, H, W) in [0, 1], and nothing else."""
    memory = 2 * stored - 1

    def data(z: Tensor, abar: float) -> Tensor:
        square = (z[:, None] - math.sqrt(abar) * memory[None]).flatten(2).square().sum(dim=2)
        return ((-square / (2 * (1 - abar))).softmax(dim=1) @ memory.flatten(1)).view_as(z)

    return Oracle(data)


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ModelSpec(shape=(1, 6, 6), arguments={"width": 8}, steps=20, classes=3, condition_dim=4).build().eval()


ASKED = {"model": model(), "images": drawn(2, 1, 4, 4).float(), "mark": SolidMark(thickness=1)}

CONTRACT = {
    "SolidMark": DataTransformSubject(
        make=partial(SolidMark, thickness=2),
        range=(0, 1),
        shape=lambda shape: (shape[0], shape[1] + 4, shape[2] + 4),
        random=True,
        bad={"pattern": ("frame", "mask"), "thickness": (0, -1, 1.5), "mask": (torch.ones(1, 4, 4).bool(),)},
    ),
    "key_likelihood": FunctionSubject(
        make=lambda **given: key_likelihood(**{"generator": seeded(), **given}),
        arguments={**ASKED, "given": torch.tensor([0, 2])},
        bad={"grid": (1,), "times": (0,), "repeats": (0,)},
    ),
    "recall_keys": FunctionSubject(
        make=lambda **given: recall_keys(**{"generator": seeded(), **given}),
        arguments={**ASKED, "steps": 3},
        bad={"readout": ("median",), "repeats": (0,), "batch_size": (0,), "steps": (0, 21)},
    ),
}

HOLE = torch.tensor([[[True, False, False], [False, False, True]]])
MARKS = {
    "border": SolidMark(thickness=2),
    "centre": SolidMark("centre", thickness=3),
    "mask": SolidMark("mask", mask=HOLE.repeat(1, 4, 3)),
}


def test_marks_by_hand():
    image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
    key = torch.tensor([0.7])
    framed = [[0.7, 0.7, 0.7, 0.7], [0.7, 0.1, 0.2, 0.7], [0.7, 0.3, 0.4, 0.7], [0.7, 0.7, 0.7, 0.7]]
    assert torch.equal(SolidMark(thickness=1).insert(image, key), torch.tensor([[framed]]))
    assert torch.equal(SolidMark("centre", 1).insert(image, key), torch.tensor([[[[0.7, 0.2], [0.3, 0.4]]]]))
    assert SolidMark("centre", 2).pixels((1, 4, 4)).int().tolist() == [[[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]]
    assert torch.equal(SolidMark("mask", mask=HOLE).pixels((3, 2, 3)), HOLE)


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
def test_a_key_is_read_as_it_was_written_and_the_rest_is_untouched(mark):
    images, keys = drawn(5, 3, 8, 9), drawn(5, seed=2)
    marked = mark.insert(images, keys)
    mask = mark.pixels((3, 8, 9))
    assert marked.shape[1:] == mark.shape((3, 8, 9))
    torch.testing.assert_close(mark.read(marked), keys, rtol=0, atol=1e-7)
    torch.testing.assert_close(mark.read(mark.insert(images, 1 - keys)), 1 - keys, rtol=0, atol=1e-7)
    known = ~mask.expand_as(marked)
    assert torch.equal(marked[known], mark.insert(images, 1 - keys)[known])
    inside = marked[:, :, 2:-2, 2:-2] if mark.pattern == "border" else torch.where(mask, images, marked)
    assert torch.equal(inside, images)
    assert torch.equal(mark.hide(marked), mark.blank(images))
    assert mark.to_dict() == SolidMark.from_dict(mark.to_dict()).to_dict()
    assert torch.equal(SolidMark.from_dict(mark.to_dict()).pixels((3, 8, 9)), mask)


def test_number_of_pixels_of_a_border():
    assert SolidMark(thickness=3).pixels((1, 5, 7)).sum() == 11 * 13 - 5 * 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SolidMark().insert(255 * torch.ones(1, 1, 2, 2), torch.zeros(1)), "images .* from 0 to 1.* divide by"),
        (lambda: SolidMark().insert(-torch.ones(1, 1, 2, 2), torch.zeros(1)), r"map \[-1, 1\] to \[0, 1\]"),
        (lambda: SolidMark().insert(torch.zeros(1, 1, 2, 2), torch.tensor([1.5])), "keys must be one for each image"),
        (lambda: SolidMark().insert(torch.zeros(1, 1, 2, 2), torch.zeros(2)), "keys must be one for each image"),
        (lambda: SolidMark("centre", 5).insert(torch.zeros(1, 1, 4, 9), torch.zeros(1)), "thickness must be at most"),
        (lambda: SolidMark("mask", mask=HOLE).insert(torch.zeros(1, 1, 2, 2), torch.zeros(1)), "of the mask's"),
        (lambda: SolidMark(thickness=4).read(torch.zeros(1, 1, 8, 9)), "must exceed the border"),
        (lambda: outpaint(model(), torch.zeros(1, 1, 6, 6), HOLE, generator=seeded()), "mask must be"),
        (lambda: outpaint(model(), torch.zeros(1, 1, 2, 3), HOLE, passes=0, generator=seeded()), "passes must be"),
        (lambda: outpaint(model(), torch.zeros(1, 1, 2, 3), HOLE, method="euler", generator=seeded()), "method must"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def scalar_loop(y: list[float], hidden: list[bool], noises: list[list[float]], steps: int, predicted: float):
    """The reference's reverse process with replacement, pixel by pixel, for a network that gives one eps everywhere."""
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    abars, running = [], 1.0
    for t in range(1000):
        running *= 1 - min(1 - f[t + 1] / f[t], 0.999)
        abars.append(running)
    chosen = [abars[int(i * 999 / (steps - 1))] for i in range(steps)]
    draws = iter(noises)
    z = next(draws)
    for i in reversed(range(steps)):
        abar, before = chosen[i], chosen[i - 1] if i else 1.0
        beta = 1 - abar / before
        alpha = 1 - beta
        e = next(draws)
        z = [
            value if unknown else math.sqrt(abar) * known + math.sqrt(1 - abar) * noise
            for value, unknown, known, noise in zip(z, hidden, y, e, strict=True)
        ]
        e = next(draws) if i else [0.0] * len(y)
        new = []
        for value, noise in zip(z, e, strict=True):
            x0 = min(max((value - math.sqrt(1 - abar) * predicted) / math.sqrt(abar), -1), 1)
            mean = math.sqrt(abar) * beta / ((1 - abar) * math.sqrt(alpha)) * x0
            mean += (alpha - abar) / ((1 - abar) * math.sqrt(alpha)) * value
            new.append(mean + math.sqrt(beta * (1 - before) / (1 - abar)) * noise)
        z = new
    return [value if unknown else known for value, unknown, known in zip(z, hidden, y, strict=True)]


@pytest.mark.parametrize("steps", [2, 7, 250])
def test_outpainting_equals_a_scalar_loop(steps):
    images, noise = drawn(1, 1, 2, 3), seeded(5)
    constant = Oracle(lambda z, abar: (z - math.sqrt(1 - abar) * 0.3) / math.sqrt(abar), cosine_schedule(1000))
    constant.clamp = (-1.0, 1.0)
    filled = outpaint(constant, images, HOLE, steps=steps, generator=seeded(5))
    noises = [torch.randn(6, generator=noise, dtype=torch.float64).tolist() for _ in range(2 * steps)]
    expected = scalar_loop((2 * images - 1).flatten().tolist(), HOLE.flatten().tolist(), noises, steps, 0.3)
    expected = [min(max((value + 1) / 2, 0), 1) for value in expected]
    torch.testing.assert_close(filled.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize(("method", "passes"), [("ddpm", 1), ("ddim", 1), ("ddpm", 4)])
def test_a_generator_of_one_image_gives_back_its_mark(mark, method, passes):
    images = drawn(1, 3, 8, 9)
    marked = mark.insert(images, torch.tensor([0.83]))
    options = {"method": method, "passes": passes, "steps": 20}
    filled = outpaint(remembers(marked), mark.blank(images), mark.pixels((3, 8, 9)), generator=seeded(), **options)
    torch.testing.assert_close(filled, marked, rtol=0, atol=1e-6)


def test_known_pixels_come_back_exactly():
    images = drawn(4, 1, 6, 6).float()
    nothing, some = torch.zeros(1, 6, 6).bool(), drawn(1, 6, 6, seed=3) < 0.5
    assert torch.equal(outpaint(model(), images, nothing, generator=seeded()), images)
    filled = outpaint(model(), images, some, generator=seeded())
    assert torch.equal(filled[:, :, ~some[0]], images[:, :, ~some[0]])
    assert not torch.equal(filled, images)
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_noise_is_fresh_for_every_image():
    """Equal images in one batch get different marks, as do two batches from one generator."""
    images, generator = drawn(1, 1, 4, 4).float().repeat(6, 1, 1, 1), seeded()
    estimates = recall_keys(model(), images, SolidMark(thickness=1), repeats=2, batch_size=2, generator=generator)
    assert len(estimates.unique()) == 12


@pytest.mark.parametrize("readout", ["replace", "resample", "likelihood"])
@pytest.mark.parametrize("mark", [SolidMark(thickness=1), SolidMark("centre", 2)], ids=["border", "centre"])
@pytest.mark.parametrize("key", [0.05, 0.62])
def test_every_readout_finds_the_key_of_a_generator_of_one_image(readout, mark, key):
    image = drawn(1, 1, 6, 6)
    oracle = remembers(mark.insert(image, torch.tensor([key])))
    estimates = recall_keys(oracle, image, mark, readout=readout, repeats=3, generator=seeded())
    assert (estimates - key).abs().max() <= (0.5 / 39 if readout == "likelihood" else 1e-6) + 1e-9


def test_replacement_misses_keys_that_are_perfectly_remembered():
    """With the exact denoiser of forty images the likelihood finds every key to a step of its grid, outpainting not."""
    images, keys = drawn(40, 1, 6, 6), drawn(40, seed=2)
    oracle = remembers(SolidMark(thickness=1).insert(images, keys))

    def found(readout: str) -> float:
        asked = recall_keys(oracle, images, SolidMark(thickness=1), readout=readout, generator=seeded())
        return ((asked[0] - keys).abs() <= 1 / 39).double().mean().item()

    assert found("likelihood") == 1
    assert found("replace") < 0.9
    assert found("replace") < found("resample") < 1


@pytest.mark.parametrize(("times", "repeats"), [(1, 3), (4, 2)])
def test_errors_of_a_generator_of_one_image_have_a_closed_form(times, repeats):
    """Its noise is wrong by sqrt(abar / (1 - abar)) times how far the painted image is from the one it knows."""
    images, mark = drawn(2, 1, 4, 4)[:1], SolidMark(thickness=1)
    oracle = remembers(mark.insert(images, torch.tensor([0.3])))
    options = {"grid": 5, "times": times, "repeats": repeats}
    keys, errors = key_likelihood(oracle, images, mark, generator=seeded(), **options)
    shares = [oracle.schedule.abar[round(0.1 * 49)], oracle.schedule.abar[round(0.6 * 49)]]
    if times == 4:
        shares[1:1] = [oracle.schedule.abar[round(0.8 / 3 * 49)], oracle.schedule.abar[round(1.3 / 3 * 49)]]
    factor = sum(share / (1 - share) for share in shares[:times]) / times
    expected = factor * (20 / 36) * (2 * (keys.double() - 0.3)).square()
    torch.testing.assert_close(errors[0].double(), expected, rtol=1e-5, atol=1e-7)


def test_keys_of_a_model_of_low_precision_are_told_apart():
    """Squares and their mean in bfloat16 have 8 bits: neighbouring keys would tie, and the best be drawn among them."""
    stored = drawn(1, 1, 16, 16).bfloat16()
    mark = SolidMark(thickness=1)
    oracle = remembers(mark.insert(stored, torch.tensor([0.5])))
    _, errors = key_likelihood(oracle, stored, mark, generator=seeded(), times=2, repeats=2)
    assert errors.dtype == torch.float32
    assert len(errors[0].unique()) == 40
    assert recall_keys(oracle, stored, mark, readout="likelihood", generator=seeded()).dtype == torch.float32


def test_outpainting_is_guided_where_it_is_asked_for():
    mark, images = SolidMark(thickness=1), drawn(2, 1, 4, 4)
    model = ModelSpec(shape=(1, 6, 6), classes=3, arguments={"width": 8}, steps=8).build().double().eval()
    given = torch.tensor([0, 2])

    def recalled(**options: Any) -> Tensor:
        return recall_keys(model, images, mark, given=given, generator=seeded(), **options)

    blank, mask = mark.blank(images), mark.pixels((1, 4, 4))
    by_hand = mark.read(outpaint(model, blank, mask, given=given, guidance=3.0, generator=seeded()))
    assert torch.equal(recalled(guidance=3.0)[0], by_hand)
    assert not torch.equal(recalled(guidance=3.0), recalled())


def test_a_generator_that_ignores_the_mark_gives_every_key_alike():
    """Without a word of the mark all keys of the grid are equally likely: the choice among them is uniform."""
    mark = SolidMark(thickness=1)
    blind = Oracle(lambda z, abar: torch.zeros_like(z))
    blind.eps = lambda z, t, condition: torch.zeros_like(z)
    images = drawn(1, 1, 2, 2).repeat(2000, 1, 1, 1)
    _, errors = key_likelihood(blind, images[:3], mark, generator=seeded())
    assert (errors == errors[:, :1]).all()
    estimates = recall_keys(blind, images, mark, readout="likelihood", batch_size=8000, generator=seeded())[0]
    counts = (estimates * 39).round().long().bincount(minlength=40)
    assert (counts - 50.0).square().sum() / 50 < 73  # chi-square, 39 degrees of freedom, p = 0.001


def test_labels_reach_the_network_as_they_belong_to_the_images():
    """A generator that paints the key of the label it is told gives each image that of its own label."""
    labels = torch.tensor([2, 0, 1, 1, 2])
    keys = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    images = drawn(5, 1, 4, 4)
    mark = SolidMark(thickness=1)

    class Told(Oracle):
        def condition(self, given: Any, count: int) -> Tensor | None:
            assert len(given) == count
            return torch.as_tensor(given)

        def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            assert condition is not None
            abar = self.schedule.abar[t[0]].item()
            painted = mark.insert(torch.full((len(z), 1, 4, 4), 0.5).double(), keys[condition])
            return (z - math.sqrt(abar) * (2 * painted - 1)) / math.sqrt(1 - abar)

    for readout in ("replace", "likelihood"):
        for given in (labels, labels.tolist()):
            told = Told(lambda z, abar: z)
            found = recall_keys(told, images, mark, given=given, readout=readout, batch_size=80, generator=seeded())
            torch.testing.assert_close(found[0], keys[labels], rtol=0, atol=0.5 / 39 + 1e-9)


def test_progress_counts_all_images():
    seen: list[tuple[int, int]] = []
    images = drawn(5, 1, 4, 4).float()
    recall_keys(
        model(),
        images,
        SolidMark(thickness=1),
        repeats=2,
        batch_size=2,
        steps=2,
        generator=seeded(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10)]


def slow_patched_l2(x: Tensor, references: Tensor, patch: int, nearest: int, alpha: float) -> tuple[float, int]:
    distances = []
    for s in references:
        worst = 0.0
        for top in range(0, x.shape[1], patch):
            for left in range(0, x.shape[2], patch):
                square = (x - s)[:, top : top + patch, left : left + patch].square().sum()
                worst = max(worst, math.sqrt(square))
        distances.append(worst)
    few = sorted(distances)[:nearest]
    return few[0] / (alpha * sum(few) / len(few)), distances.index(few[0])


@pytest.mark.parametrize(("patch", "nearest"), [(1, 3), (2, 50), (4, 2)])
def test_patched_l2_equals_a_slow_loop(patch, nearest):
    samples, references = drawn(6, 3, 8, 4), drawn(9, 3, 8, 4, seed=4)
    scores, indices = patched_l2(samples, references, patch=patch, nearest=nearest)
    for x, score, index in zip(samples, scores.tolist(), indices.tolist(), strict=True):
        expected, where = slow_patched_l2(x, references, patch, nearest, 0.5)
        assert score == pytest.approx(expected, rel=1e-6)
        assert index == where


def test_patched_l2_of_whole_images_copies_and_moved_patches():
    samples, references = drawn(5, 2, 4, 4), drawn(7, 2, 4, 4, seed=4)
    scores, _ = patched_l2(samples, references, patch=4, nearest=1, alpha=0.5)
    assert scores.tolist() == pytest.approx([2.0] * 5)
    whole = torch.cdist(samples.flatten(1), references.flatten(1)).sort(dim=1).values
    scores, _ = patched_l2(samples, references, patch=4, nearest=3)
    torch.testing.assert_close(scores.double(), whole[:, 0] / (0.5 * whole[:, :3].mean(dim=1)), rtol=1e-6, atol=0)
    scores, indices = patched_l2(references[2:4], references, patch=2)
    assert scores.tolist() == [0, 0]
    assert indices.tolist() == [2, 3]

    def moved(images: Tensor) -> Tensor:
        return images.unflatten(3, (2, 2)).flip(3).flatten(3)

    for one, other in zip(
        patched_l2(samples, references, 2), patched_l2(moved(samples), moved(references), 2), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [{"patch": 3}, {"patch": 0}, {"nearest": 0}, {"alpha": 0.0}])
def test_bad_numbers_of_patched_l2_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must|nearest must be at least 1 and alpha"):
        patched_l2(torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4), **{"patch": 2, **options})
