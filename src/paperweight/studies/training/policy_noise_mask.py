"""A classifier that is trained with learned noise masks, and then on clean images, is better (Yavuz and Yang 2024).

A small network with batch normalization tells characters in three kinds of images, as they are, inverted, or by their
edges alone, each kind with classes of its own: the kind is seen at a glance, as the modality of medical images is. The
rate rises over a tenth of the steps and falls along a cosine. With masks, four fifths of the steps are on images times
masks and the last fifth, when the rate is low, on clean ones; all arms have as many steps. The policy is a small
network on the same images.

What it can show: whether masks that are learned make such a network more accurate than clean images alone, at a tuned
rate. A balanced accuracy not above that would refute the claim. As high a one by masks of uniform noise, which nothing
learns, would show that a policy is not needed for it; as high a one by the policy gradient in place of the authors'
objective, which is none, that it is not that objective.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import SGD

from paperweight.data import LabelledImages, Splits, channel_statistics, gaussian_blur, normalise
from paperweight.loops import index_batches, tune, warmed_cosine
from paperweight.nets import NormalisedMLP, halved
from paperweight.studies import (
    TEST_LOSS,
    Arm,
    Classification,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)
from paperweight.training.policy_noise_mask import MaskPolicy, PolicyNoiseMask

_BATCH = 32
_GRID = 8
_MASKED = 0.8  # of the steps
_RATES = (0.04, 0.16, 0.64)


def _policy(channels: int) -> MaskPolicy:
    """Make a policy that sees images as 8 x 8 means."""
    layers = nn.Linear(64 * channels, 32), nn.BatchNorm1d(32), nn.ReLU()
    return MaskPolicy(nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), *layers), features=32, grid=_GRID)


@final
class _Uniform(nn.Module):
    """Gives every cell the uniform distribution."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.new_zeros(len(images), _GRID**2), images.new_zeros(len(images), _GRID**2)


class _Plan(NamedTuple):
    """Whose masks there are, the objective, and the rates tried."""

    masks: Literal["none", "uniform", "learned"]
    objective: Literal["summed_density", "score"] = "score"
    rates: tuple[float, ...] = _RATES


@final
class _ThenClean:
    """Trains with learned masks in the first passes and on clean images in the last."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            policy = _policy(inputs.shape[1]).to(inputs.device)
        policy_optimizer = SGD(policy.parameters(), lr=0.01, momentum=0.9)
        masked = PolicyNoiseMask(
            model, optimizer, policy, policy_optimizer, "score", kernel=3, sigma=1.0, generator=generator
        )
        clean = PolicyNoiseMask(model, optimizer, generator=generator)
        passes = int(_MASKED * epochs)
        self._trainings = iter([masked] * passes + [clean] * (epochs - passes))
        self._data = inputs, labels
        self._steps = max(1, len(inputs) // batch_size)
        self._batches = index_batches(len(inputs), batch_size, generator, inputs.device)

    def step(self) -> Tensor:
        """Train for one pass, and return the mean of its losses."""
        return _steps(next(self._trainings), self._data, self._batches, self._steps).mean()


def _steps(training: PolicyNoiseMask, data: tuple[Tensor, Tensor], batches: Iterator[Tensor], steps: int) -> Tensor:
    inputs, labels = data
    losses: list[Tensor] = []
    for _, index in zip(range(steps), batches, strict=False):
        losses.append(training.step(inputs.index_select(0, index), labels.index_select(0, index)))
    return torch.stack(losses)


RECIPE = Recipe(
    words="images times learned noise masks in four fifths of the passes, then clean; the rate falls between epochs",
    line='training = PolicyNoiseMask(model, optimizer, policy, policy_optimizer, "score", generator=generator)',
    training=_ThenClean,
)

STUDY = Study(
    paper="policy_noise_mask",
    question="Is a classifier of images of several kinds better if it begins with images under learned noise?",
    claim="Training with the masks of a policy, and then on clean images, is more accurate than on clean images alone.",
    arms={
        "clean": Arm("clean images in all steps: the method without a policy", _Plan("none")),
        "policy": Arm(
            "masks of a policy, by the authors' objective, which scales the gradient by about 4: rates a fourth",
            _Plan("learned", "summed_density", tuple(rate / 4 for rate in _RATES)),
        ),
        "policy_gradient": Arm("variant: masks of a policy that learns by the policy gradient", _Plan("learned")),
        "uniform": Arm("control: masks of uniform noise in every cell", _Plan("uniform")),
    },
    metrics={"balanced_accuracy": Metric.higher("balanced test accuracy", 0.01), "test_loss": TEST_LOSS},
    headline="balanced_accuracy",
    tuned=(
        "the learning rate, 3 tries an arm and seed, a factor of 4 apart, by validation loss, from one grid, which is "
        "a fourth as high for the authors' objective"
    ),
    limits=(
        "Small images of three kinds, one small network without convolutions, some 20 epochs: nothing follows for "
        "medical images or deep networks. Grid, blur, the share of the steps with masks and the policy's "
        "rate are not tuned."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    plan = arm.make
    given = classification(
        setting,
        smoke=(100, 90, 90),
        desk=(1_500, 1_000, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs-20",
        normalised=False,
    )
    task = Classification(setting, _in_three_kinds(given.data))
    steps = setting.pick(smoke=6, desk=1_000, gpu=20_000)
    data = task.train.images, task.train.labels
    masked = 0 if plan.masks == "none" else int(_MASKED * steps)

    def train(rate: float) -> Trained:
        model = task.network(halved(partial(NormalisedMLP, hidden=(128,))))
        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        schedule, draw = warmed_cosine(optimizer, steps), setting.generator("method")
        policy, policy_optimizer = None, None
        if plan.masks == "uniform":
            policy = _Uniform()
        elif plan.masks == "learned":
            policy = setting.initialised(lambda: _policy(task.shape[0]))
            policy_optimizer = SGD(policy.parameters(), lr=0.01, momentum=0.9)
        trainings = [
            PolicyNoiseMask(
                model, optimizer, policy, policy_optimizer, plan.objective, kernel=3, sigma=1.0, generator=draw
            ),
            PolicyNoiseMask(model, optimizer, generator=draw),
        ]
        batches = index_batches(len(data[0]), _BATCH, setting.generator("batches"), setting.device)
        losses: list[Tensor] = []
        for step in range(steps):
            losses.append(_steps(trainings[step >= masked], data, batches, 1))
            schedule.step()
        made = {"training": trainings[0]}
        return Trained(task.data, model, optimizer, torch.cat(losses), made, {"steps": steps, "batch_size": _BATCH})

    tuned = tune(plan.rates, train, lambda tried: tried.validated.loss, better="lower")
    tested, labels = tuned.best.tested, task.data.test.labels
    shares = [tested.correct[labels == label].double().mean() for label in labels.unique()]
    return task.outcome(
        tuned,
        metrics={"balanced_accuracy": torch.stack(shares).mean().item(), "test_loss": tested.loss},
        arguments={"masked_steps": masked},
        curves={"validation loss, by log10 lr": tuned.curve()},
    )


def _in_three_kinds(data: Splits) -> Splits:
    """Leave a third of the images as they are, invert a third, and leave the edges of a third; each its own classes."""
    classes = len(data.classes)

    def part(given: LabelledImages) -> LabelledImages:
        images, kind = given.images, torch.arange(len(given.images), device=given.images.device) % 3
        kinds = torch.stack([images, 1 - images, 2 * (images - gaussian_blur(images, 2.0)).abs()])
        return LabelledImages(kinds[kind, torch.arange(len(kind), device=kind.device)], given.labels + classes * kind)

    train, validation, test = map(part, (data.train, data.validation, data.test))
    statistics = channel_statistics(train.images)
    parts = {
        name: LabelledImages(normalise(made.images, *statistics), made.labels)
        for name, made in (("train", train), ("validation", validation), ("test", test))
    }
    names = tuple(f"{name}, {kind}" for kind in ("as it is", "inverted", "edges") for name in data.classes)
    return replace(data, **parts, classes=names)
