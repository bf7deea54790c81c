"""Training that begins with low frequencies as smaller images saves time and no accuracy (Wang et al. 2023).

A small convolutional network with batch normalization, which ends in a mean over all pixels, learns characters by AdamW
with a rate that rises and falls along a cosine. The claim is of a saving without a loss, so the verdict to expect on
test accuracy is "no effect", and beside it a lower time of training. Time is measured around all steps, in which the
crops are counted; the work is the multiplications in convolutions and the linear layer.

What it can show: what is saved here, and whether it costs accuracy. An accuracy below that of whole images would refute
the claim. As high a one by images that a bilinear filter makes smaller would show that cropping in the spectrum is not
needed for it; as high a one by whole images in as few steps as have the same work, that a curriculum is not: then
training was longer than it had to be.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from paperweight.data import Splits, resize
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import count_multiplications, evaluating
from paperweight.studies import (
    ACCURACY,
    TEST_LOSS,
    Arm,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)
from paperweight.training.efficient_train import EfficientTrain, curriculum_share

_RATES = (0.1,)
_BATCH = 32


def _network(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Make three convolutions, the mean over all pixels and a linear layer."""
    layers: list[nn.Module] = []
    inputs = shape[0]
    for width, side in ((6, 5), (12, 3), (24, 3)):
        layers += [nn.Conv2d(inputs, width, side, padding=side // 2), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < 24 else []
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@final
class _Resized(nn.Module):
    """The method with a bilinear filter in place of the crop."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        self.model = model
        self.steps = steps
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            share = curriculum_share(self.passes / self.steps)
            height, width = images.shape[-2:]
            images = resize(images, (round(share * height), round(share * width)))
            self.passes += 1
        return self.model(images)


class _Plan(NamedTuple):
    """What is trained for a number of steps, and whether these are as few as have the work of the method."""

    wrap: Callable[[nn.Module, int], nn.Module]
    shorter: bool = False


_whole = partial(EfficientTrain, shares=(1.0,), milestones=())


def _takes_small_images(model: nn.Module, data: Splits) -> str:
    """Say why a network cannot be trained on smaller images, and nothing where it can."""
    height, width = data.shape[1:]
    if min(height, width) < 4:
        return f"the data must be images of at least 4 pixels a side, they have {height} x {width}"
    sizes = [(round(share * height), round(share * width)) for share in (5 / 7, 6 / 7, 1, 2)]
    given = [data.train.images.new_zeros(2, data.shape[0], *size) for size in sizes]
    with evaluating(model), torch.no_grad():
        try:
            if len({model(images).shape for images in given}) == 1:
                return ""
        except Exception:  # what a network raises at a size that it does not take is its own
            pass
    return (
        f"the network must take images of any size, such as {sizes[0][0]} x {sizes[0][1]} pixels, "
        f"{type(model).__name__} does not; let it end in a mean over all pixels, nn.AdaptiveAvgPool2d(1)"
    )


def _set_steps(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator) -> None:
    if isinstance(model, EfficientTrain):
        model.steps = steps


RECIPE = Recipe(
    words="three fifths of the steps on images of 5/7 of the side, one fifth on 6/7, by a crop of the spectrum",
    line="model = EfficientTrain(model, steps=steps)  # model.model after training",
    surgery=partial(EfficientTrain, steps=1),
    pretraining=_set_steps,
    fits=_takes_small_images,
)

STUDY = Study(
    paper="efficient_train",
    question="Does training that begins with the low frequencies of images, as smaller images, save time for nothing?",
    claim="EfficientTrain takes less time than training on whole images, and is as accurate.",
    arms={
        "whole": Arm("whole images in all steps, which the method is with one share of 1", _Plan(_whole)),
        "efficient": Arm("low frequencies: 5/7 of the side in 3/5 of the steps, 6/7 in 1/5", _Plan(EfficientTrain)),
        "bilinear": Arm("control: the same sizes by a bilinear filter", _Plan(_Resized)),
        "shorter": Arm("control: whole images, in as many steps as have the work of the method", _Plan(_whole, True)),
    },
    metrics={
        "accuracy": ACCURACY,
        "time": Metric.lower("computing time of training", 400.0, "ms"),
        "work": Metric.lower("multiplications in training", 0.05, "share of those of whole images"),
        "test_loss": TEST_LOSS,
    },
    headline="accuracy",
    tuned="nothing in an arm; on another seed the rate was, of three, the best for whole images and for the method",
    limits=(
        "Small images, one small network, and some 13 epochs of training, where the paper has 300: nothing follows for "
        "large images and networks, or for training as long as that. Shares and milestones are the paper's, and its "
        "augmentation, which grows with the size, is left out. Time is that of one thread, in which a step of so "
        "small a network is not convolutions alone; benchmarks/efficient_train.py has larger ones."
    ),
    seeds=8,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once; report accuracy and time."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(4_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs-20"
    )
    steps, plan = setting.pick(smoke=10, desk=1_600, gpu=20_000), arm.make
    channels, height, width = task.shape

    def work(wrapped: EfficientTrain) -> int:
        """Count the multiplications of one image in every step."""
        total, counts = 0, dict[tuple[int, int], int]()
        for wrapped.passes in range(steps):
            size = wrapped.size(height, width)
            if size not in counts:
                image = torch.zeros(1, channels, *size, device=setting.device)
                counts[size] = count_multiplications(wrapped.model, image)
            total += counts[size]
        return total

    model = task.network(_network)
    spared = work(EfficientTrain(model, steps)) / work(_whole(model, steps))
    taken = max(1, round(spared * steps)) if plan.shorter else steps
    times: dict[float, float] = {}

    def train(rate: float) -> Trained:
        model = plan.wrap(task.network(_network), taken)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        start = time.process_time()
        schedule = warmed_cosine(optimizer, taken)
        trained = task.fit(model, optimizer, steps=taken, batch_size=_BATCH, schedule=schedule)
        times[rate] = time.process_time() - start
        return trained

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    share = taken / steps if plan.wrap is _whole else spared
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "time": 1_000 * times[tuned.value], "work": share},
        made={"network": tuned.best.model},
    )
