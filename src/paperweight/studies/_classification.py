"""The template of studies of classifiers: train a try, tune on validation images, judge the best on test images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits, channel_statistics, normalise
from paperweight.loops import Evaluation, OnStep, Schedule, Tuned, evaluate_classifier, fit_classifier, loss_curve
from paperweight.studies._declaration import Outcome
from paperweight.studies._setting import Setting

__all__ = ["Classification", "Trained", "classification"]

_Sizes = tuple[int, int, int]


class Procedure(Protocol):
    """What trains its own model by its own loop, such as a `paperweight.kinds.TrainingProcedure`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self) -> Tensor:
        """Train for a round and return its loss, a scalar."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A classifier as training left it, evaluated when it is asked for and then once.

    Attributes:
        data: The parts of the data.
        model: The classifier.
        optimizer: What it was trained with.
        losses: The loss of every step, (steps,); shorter after a divergence.
        made: What else was made for it.
        arguments: How it was trained.
    """

    data: Splits
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Tensor
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])

    @cached_property
    def validated(self) -> Evaluation:
        """Its evaluation on the validation images."""
        return evaluate_classifier(self.model, self.data.validation.images, self.data.validation.labels)

    @cached_property
    def tested(self) -> Evaluation:
        """Its evaluation on the test images."""
        return evaluate_classifier(self.model, self.data.test.images, self.data.test.labels)

    @property
    def accuracy_and_loss(self) -> dict[str, float]:
        """The metrics ``accuracy`` and ``test_loss`` of its evaluation on the test images."""
        return {"accuracy": self.tested.accuracy, "test_loss": self.tested.loss}


@final
@dataclass(frozen=True, eq=False)
class Classification:
    """Labelled images in three parts, and what is done with them alike in every arm.

    Attributes:
        setting: The setting of the run.
        data: The parts; images normalised by the statistics of the training images, unless told otherwise.

    Example:
        >>> task = classification(Setting(study="example", seed=0, budget="smoke"), smoke=(100, 20, 50),
        ...     desk=(500, 100, 500), gpu=(5_000, 1_000, 5_000))
        >>> len(task.data.train), task.classes
        (100, 10)
    """

    setting: Setting
    data: Splits

    @property
    def train(self) -> LabelledImages:
        """The images to train on."""
        return self.data.train

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.data.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    def with_images(self, change: Callable[[Tensor], Tensor]) -> "Classification":
        """Return the same task with the images of all parts changed by a function, labels as they are."""

        def changed(part: LabelledImages) -> LabelledImages:
            return LabelledImages(change(part.images), part.labels)

        data = self.data
        parts = {"train": changed(data.train), "validation": changed(data.validation), "test": changed(data.test)}
        return replace(self, data=replace(data, **parts))

    def network(self, default: Callable[..., nn.Module]) -> nn.Module:
        """Return a new classifier, the user's or the default, with the same weights at every call."""
        return self.setting.network(self.shape, self.classes, default=default)

    def fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int,
        batch_size: int,
        labels: Tensor | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        schedule: Schedule | None = None,
        on_step: OnStep | None = None,
    ) -> Trained:
        """Train on the training images, by `paperweight.loops.fit_classifier`; the batches are those of every arm.

        Args:
            model: The classifier, trained in place.
            optimizer: Holds its parameters.
            steps: Number of updates.
            batch_size: Images a batch.
            labels: Targets in place of the labels, (N, ...).
            loss: Maps output and targets of a batch to a scalar.
            augment: Maps a batch of images to the batch to train on.
            schedule: Stepped after every update.
            on_step: Called after every update with its number and loss.

        Returns:
            What was trained, with the loss of every step.
        """
        losses = fit_classifier(
            model,
            optimizer,
            self.train.images,
            self.train.labels if labels is None else labels,
            steps=steps,
            batch_size=batch_size,
            generator=self.setting.generator("batches"),
            loss=loss,
            augment=augment,
            schedule=schedule,
            on_step=on_step,
        )
        return Trained(self.data, model, optimizer, losses, arguments={"steps": steps, "batch_size": batch_size})

    def fit_by(self, training: Procedure, rounds: int, schedule: Schedule | None = None) -> Trained:
        """Train by what replaces the training loop, round by round.

        Args:
            training: Trains its model for a round at each ``step``, and returns the loss.
            rounds: Number of rounds, at least 1.
            schedule: Stepped after every round.

        Returns:
            What was trained, with the loss of every round.
        """
        losses: list[Tensor] = []
        for _ in range(rounds):
            losses.append(training.step())
            if schedule is not None:
                schedule.step()
        return Trained(self.data, training.model, training.optimizer, torch.stack(losses), {"training": training})

    def validate(self, model: nn.Module) -> Evaluation:
        """Evaluate a classifier on the validation images."""
        return evaluate_classifier(model, self.data.validation.images, self.data.validation.labels)

    def test(self, model: nn.Module) -> Evaluation:
        """Evaluate a classifier on the test images."""
        return evaluate_classifier(model, self.data.test.images, self.data.test.labels)

    def outcome(
        self,
        tuned: Tuned[Any],
        *,
        metrics: Mapping[str, float],
        made: Mapping[str, object] | None = None,
        of: str = "lr",
        more_tuned: Mapping[str, Tuned[Any]] | None = None,
        arguments: Mapping[str, object] | None = None,
        curves: Mapping[str, list[tuple[float, float]]] | None = None,
        images: Mapping[str, Tensor] | None = None,
        trained: Trained | None = None,
        tested: Evaluation | None = None,
    ) -> Outcome:
        """Return what the run gives, with the optimizer, sizes and steps, the tries and the course of training.

        Args:
            tuned: The tries; each a `Trained`, or ``trained`` is given.
            metrics: Metric to value.
            made: What else the arm made.
            of: What was tuned.
            more_tuned: What else was tuned, by name.
            arguments: What else the run resolved.
            curves: More curves.
            images: Images to show.
            trained: The best try, where it is not that of ``tuned`` itself.
            tested: The evaluation of the best try on test images, where it is not its own.
        """
        best: Trained = tuned.best if trained is None else trained
        final = best.tested if tested is None else tested
        return Outcome(
            metrics=metrics,
            made={"optimizer": best.optimizer, **best.made, **(made or {})},
            tuned={of: tuned, **(more_tuned or {})},
            arguments={
                **best.arguments,
                **(arguments or {}),
                "training_images": len(self.train),
                "test_images": len(self.data.test),
                "image_shape": " x ".join(map(str, self.shape)),
            },
            curves={
                "training loss, by step": loss_curve(best.losses),
                **(curves or {}),
            },
            images=images or {},
            correct=final.correct,
        )


def classification(
    setting: Setting,
    *,
    smoke: _Sizes,
    desk: _Sizes,
    gpu: _Sizes,
    default: str = "digits",
    max_side: int = 32,
    normalised: bool = True,
) -> Classification:
    """Return the user's images or a default set, split by the seed.

    Args:
        setting: The setting of the run.
        smoke: Numbers of training, validation and test images at the smoke budget.
        desk: The same at the desk budget.
        gpu: The same on a GPU.
        default: Name of the set that is used where the user gives no data.
        max_side: Larger images are resized to at most this many pixels a side.
        normalised: Whether images get mean 0 and standard deviation 1 a channel, by the training images.

    Returns:
        The images, on the run's device, with what studies do with them.
    """
    train, validation, test = setting.pick(smoke=smoke, desk=desk, gpu=gpu)
    data = setting.images(default=default, train=train, validation=validation, test=test, max_side=max_side)
    if normalised:
        statistics = channel_statistics(data.train.images)

        def scaled(part: LabelledImages) -> LabelledImages:
            return LabelledImages(normalise(part.images, *statistics), part.labels)

        data = replace(data, train=scaled(data.train), validation=scaled(data.validation), test=scaled(data.test))
    return Classification(setting, data)
