"""EfficientTrain against Fourier transforms written out, waves whose samples are known, and hand-counted steps."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.studies.training.efficient_train import RECIPE, _takes_small_images
from paperweight.testing import FunctionSubject, LayerSubject
from paperweight.training.efficient_train import EfficientTrain, curriculum_share, low_frequency_crop


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Seen(nn.Module):
    """Notes the sizes of the images that it is called with, and gives their means."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[-2:]))
        return self.scale * images.mean(dim=(2, 3))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


BAD_CURRICULUM = {
    "shares": ((), (0.0, 0.5, 1.0), (0.5, 0.7, 1.1), (math.nan, 0.5, 1.0)),
    "milestones": ((0.8, 0.6), (0.5,), (-0.1, 0.5), (0.5, 1.5), (math.nan, 0.5)),
}

CONTRACT = {
    "EfficientTrain": LayerSubject(
        make=lambda steps=100, shares=(5 / 7, 6 / 7, 1.0), milestones=(0.6, 0.8): EfficientTrain(
            network(), steps, shares, milestones
        ),
        inputs=(normal(4, 1, 14, 14).float(),),
        shape=(4, 3),
        parameter_count=2 * 9 + 2 + 2 * 3 + 3,
        bad={"steps": (0, -1, 2.5, True), **BAD_CURRICULUM},
        null=lambda: EfficientTrain(network(), 100, shares=(1.0,), milestones=()),
        baseline=network,
    ),
    "low_frequency_crop": FunctionSubject(
        make=low_frequency_crop,
        arguments={"images": normal(2, 3, 8, 9), "size": (6, 5)},
        bad={
            "images": (torch.zeros(8), torch.zeros(8, 9, dtype=torch.uint8), torch.zeros(8, 9, dtype=torch.complex64)),
            "size": ((0, 5), (9, 5), (6, 10), (6.0, 5), (True, 5), (6,), (6, 5, 5)),
        },
    ),
    "curriculum_share": FunctionSubject(
        make=curriculum_share,
        arguments={"progress": 0.7},
        bad={"progress": (-0.1, math.nan, math.inf), **BAD_CURRICULUM},
    ),
}


def by_transforms(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle out of the spectrum of the whole image, and transform back."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
    (height, width), (rows, columns) = images.shape[-2:], size
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    cut = spectrum[..., top : top + rows, left : left + columns] * (rows * columns / (height * width))
    return torch.fft.ifft2(torch.fft.ifftshift(cut, dim=(-2, -1))).real


@pytest.mark.parametrize(
    ("sides", "size"),
    [((28, 28), (20, 24)), ((8, 9), (5, 4)), ((9, 7), (4, 7)), ((7, 7), (1, 1)), ((6, 6), (6, 4)), ((9, 9), (8, 8))],
)
def test_crops_are_the_middle_of_the_spectrum_transformed_back(sides, size):
    images = normal(2, 3, *sides)
    torch.testing.assert_close(low_frequency_crop(images, size), by_transforms(images, size), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (2, 3), (-3, 1)])
def test_a_wave_inside_the_band_is_the_same_wave_in_fewer_points_and_one_outside_is_gone(rows, columns):
    def wave(height: int, width: int, rows: int, columns: int) -> Tensor:
        y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
        return torch.cos(2 * math.pi * (rows * y / height + columns * x / width) + 0.3)

    torch.testing.assert_close(
        low_frequency_crop(wave(20, 16, rows, columns), (10, 8)), wave(10, 8, rows, columns), rtol=0, atol=1e-13
    )
    outside = low_frequency_crop(wave(20, 16, rows + 9, columns), (10, 8))
    torch.testing.assert_close(outside, torch.zeros(10, 8, dtype=torch.float64), rtol=0, atol=1e-13)


def test_means_stay_and_constant_images_stay_constant_and_whole_ones_are_themselves():
    images = 3 + normal(2, 3, 12, 10)
    torch.testing.assert_close(low_frequency_crop(images, (7, 6)).mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    constant = low_frequency_crop(torch.full((1, 12, 10), 0.7, dtype=torch.float64), (5, 8))
    torch.testing.assert_close(constant, torch.full((1, 5, 8), 0.7, dtype=torch.float64))
    assert low_frequency_crop(images, (12, 10)) is images
    assert low_frequency_crop(images.half(), (7, 6)).dtype == torch.float16


def test_gradients_reach_the_images_after_a_crop_in_inference_mode():
    with torch.inference_mode():
        low_frequency_crop(normal(11, 13), (3, 7))
    images = normal(11, 13).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: low_frequency_crop(x, (3, 7)), images)


def test_stages_begin_at_their_milestones():
    shares = [round(224 * curriculum_share(step / 10)) for step in range(11)]
    assert shares == [160] * 6 + [192] * 2 + [224] * 3
    assert curriculum_share(0.3, shares=(0.5, 1.0), milestones=(0.3,)) == 1.0
    assert curriculum_share(0.0, shares=(0.5, 1.0), milestones=(0.0,)) == 1.0
    assert curriculum_share(7.0, shares=(0.25,), milestones=()) == 0.25


def test_a_training_sees_growing_images_and_evaluation_whole_ones():
    seen = Seen()
    model = EfficientTrain(seen, steps=5)
    images = normal(3, 2, 28, 14)
    for _ in range(7):
        model.train()(images)
        with torch.no_grad():
            model(images)
        model.eval()(images)
    assert seen.sizes[::3] == [(20, 10)] * 3 + [(24, 12)] + [(28, 14)] * 3
    assert seen.sizes[2::3] == [(28, 14)] * 7
    assert model.passes == 7
    torch.testing.assert_close(model.eval()(images), images.mean(dim=(2, 3)))


def test_the_number_of_passes_goes_with_the_state_and_with_copies():
    model = EfficientTrain(Seen(), steps=10)
    for _ in range(7):
        model(normal(1, 1, 28, 28))
    fresh = EfficientTrain(Seen(), steps=10)
    fresh.load_state_dict(model.state_dict())
    for other in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.double()):
        assert other.passes == 7
        assert other.size(28, 28) == (24, 24)


def test_sides_are_rounded_and_the_smallest_keep_a_pixel():
    assert EfficientTrain(Seen(), steps=10).size(32, 30) == (23, 21)  # 22.9 and 21.4
    assert EfficientTrain(Seen(), steps=10, shares=(0.1, 1.0), milestones=(0.5,)).size(2, 30) == (1, 3)


class TestRecipe:
    """What the study's recipe does with networks that it does not know."""

    def splits(self, side: int = 8) -> Splits:
        part = LabelledImages(normal(6, 1, side, side).float(), torch.tensor([0, 1, 2, 0, 1, 2]))
        return Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=(1, side, side))

    def test_networks_of_any_size_fit_and_others_are_told_what_to_do(self):
        assert _takes_small_images(ResNet((1, 8, 8), 3), self.splits()) == ""
        for build in (LeNet, MLP, ViT):
            reason = _takes_small_images(build((1, 8, 8), 3), self.splits())
            assert reason.startswith("the network must take images of any size, such as 6 x 6 pixels, ")
            assert build.__name__ in reason
            assert "nn.AdaptiveAvgPool2d(1)" in reason
        assert "at least 4 pixels" in _takes_small_images(ResNet((1, 2, 2), 3), self.splits(side=2))

    def test_the_number_of_steps_is_that_of_the_training(self):
        model = ResNet((1, 8, 8), 3)
        changed = RECIPE.surgery(model)
        RECIPE.pretraining(changed, torch.zeros(0), 20, torch.Generator())
        assert changed.model is model
        assert [changed.size(28, 28) for changed.passes in (0, 11, 12, 16, 20)] == [
            (20, 20),
            (20, 20),
            (24, 24),
            (28, 28),
            (28, 28),
        ]


def test_what_is_no_batch_of_images_is_refused_in_train_mode():
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), got \(16, 64\)"):
        EfficientTrain(nn.Linear(64, 2), steps=10)(torch.zeros(16, 64))
