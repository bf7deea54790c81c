"""Filters that are designed, or learned without labels, are a better start than random ones (Hirani, Abdulla 2022).

A small convolutional network with 16 filters of 5 x 5 pixels in its first layer learns characters at half their size
from 500 images, by AdamW; each arm has its own rate. In each arm but the first these filters start as others; their
lengths are those that they had. What is learned without labels is learned from patches of the same 500 images. The
headline is test accuracy.

What it can show: whether such a start is worth anything where labels are few, which is where it should be. An accuracy
not above that of random filters would refute the claim here. The survey recommends no method above others; k-means
stands for it here, since it does best in the work that it goes back to, and the others beside it. Random filters that
are orthonormal ask whether it is enough that filters differ from each other; centroids that are not trained, whether
what they start from is what they need to be. What it cannot: anything about deep networks, or about large sets of
images without labels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import AdamW

from paperweight.architecture.filter_design import (
    dct_bank,
    gabor_bank,
    init_conv_,
    kmeans_filters,
    pca_filters,
    random_patches,
)
from paperweight.data import Splits
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import evaluating, halved
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Recipe, Setting, Study, Trained, classification

_RATES = (0.001, 0.003, 0.01, 0.03)
_PATCHES = 5_000
_IMAGES = 1_000

Bank = Callable[[nn.Conv2d, Tensor, torch.Generator], Tensor]


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def _patches(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return random_patches(images, min(_PATCHES, 10 * len(images)), conv.kernel_size[0], generator=draw)


def _kmeans(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return kmeans_filters(_patches(conv, images, draw), conv.out_channels, generator=draw)


def _components(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return pca_filters(_patches(conv, images, draw), min(conv.out_channels, conv.weight[0].numel()))


def _cosines(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return dct_bank(conv.out_channels, conv.kernel_size[0])


def _waves(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return gabor_bank(conv.out_channels, conv.kernel_size[0])


def _random(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return conv.weight


def _orthonormal(conv: nn.Conv2d, images: Tensor, draw: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(conv.weight.shape), generator=draw)


def _seen(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Give what the first convolution sees of some images, at each call."""
    seen: list[Tensor] = []
    hook = _convolutions(model)[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        hook.remove()
    return seen


def _start_from(bank: Bank, model: nn.Module, images: Tensor, draw: torch.Generator) -> nn.Conv2d:
    """Have the first convolution start from a bank that is made of what it sees of some images."""
    first = _convolutions(model)[0]
    return init_conv_(first, bank(first, _seen(model, images[:_IMAGES])[0], draw))


def _begin(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator) -> None:
    _start_from(_kmeans, model, inputs, generator)


def _fits(model: nn.Module, data: Splits) -> str:
    if not _convolutions(model):
        return "the network has no two-dimensional convolution"
    first = _convolutions(model)[0]
    side = first.kernel_size[0]
    if first.groups != 1 or side != first.kernel_size[1] or side < 3 or is_parametrized(first):
        return "the network's first convolution must be square, 3 pixels or more a side, and have no groups"
    given = _seen(model, data.train.images[:2])
    if not given or min(given[0].shape[2:]) < side:
        return "the network's first convolution must be called on images that are not smaller than its filters"
    return ""


RECIPE = Recipe(
    words="the first convolution starts from centroids of k-means on patches of the training images",
    line="init_conv_(conv, kmeans_filters(random_patches(images, 5_000, 5, generator=g), 16, generator=g))",
    pretraining=_begin,
    fits=_fits,
)

STUDY = Study(
    paper="filter_design",
    question="With few labels, does a network learn better from filters of k-means than from random ones?",
    claim="With filters from k-means to start from, a network has a higher test accuracy than with random ones.",
    arms={
        "random": Arm("random filters, as torch initialises them", (_random, True)),
        "kmeans": Arm("centroids of k-means on whitened patches", (_kmeans, True)),
        "components": Arm("principal components of patches", (_components, True)),
        "cosines": Arm("cosines of low frequency", (_cosines, True)),
        "waves": Arm("Gabor functions", (_waves, True)),
        "orthonormal": Arm("control: random filters that are orthonormal", (_orthonormal, True)),
        "kmeans_kept": Arm("control: centroids that are not trained", (_kmeans, False)),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, a network of two convolutions, 500 images to train on "
        "with and without labels, and 400 updates at the desk budget: nothing follows for deep networks, or where many "
        "images have no labels. Size and number of the filters are not varied, though the survey is about them, too."
    ),
    seeds=10,
)


class _Convolutions(nn.Sequential):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        first, second = nn.Conv2d(shape[0], 16, 5, padding=2), nn.Conv2d(16, 16, 3, padding=1)
        super().__init__(
            *(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            nn.Linear(16 * (shape[1] // 4) * (shape[2] // 4), classes),
        )


def run(arm: Arm[tuple[Bank, bool]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(500, 1_000, 4_000), gpu=(5_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=4, desk=400, gpu=8_000)
    bank, trained_on = arm.make

    def train(rate: float) -> Trained:
        model = task.network(halved(_Convolutions))
        first = _start_from(bank, model, task.train.images, setting.generator("method"))
        first.weight.requires_grad_(trained_on)
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    return task.outcome(
        tuned,
        metrics=tuned.best.accuracy_and_loss,
        arguments={"filters_trained": trained_on},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
