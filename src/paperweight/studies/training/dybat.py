"""Training on the half of the batches with the highest loss generalizes better and sooner (Sahayam et al. 2023).

The authors compare with batches that are never shuffled. Hardly anybody trains so: the fair baseline is SGD on batches
drawn anew in each pass, and the verdict is on that comparison; the fixed order, which is the method at delta 1, is an
arm beside it. All arms make as many updates, with the same cosine decay of the rate.

What it can show: whether a small network becomes more accurate, or as accurate sooner. An accuracy that is not higher
than with shuffled batches would refute the claim as a user would take it. The control, rounds of as many fixed batches
drawn at random, asks whether the losses matter. Two more conditions: the rate is constant, as in the paper; or a tenth
of the labels to train and to validate on are wrong, where batches with many of them keep a high loss.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.data import wrong_labels
from paperweight.loops import evaluate_classifier, tune
from paperweight.nets import MLP
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
from paperweight.training.dybat import HardBatches

_RATES = (0.006, 0.012, 0.024, 0.048)
_CONSTANT_RATES = (0.002, 0.005, 0.012, 0.03)
_WRONG = 0.1


class _Cut(HardBatches):
    """Cuts the batches at random, once and for all."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        inputs: Tensor,
        labels: Tensor,
        delta: float = 0.5,
        *,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        super().__init__(model, optimizer, inputs[order], labels[order], delta, batch_size)
        self.generator = generator


class _Shuffled(_Cut):
    """Cuts them anew before each pass."""

    def step(self) -> Tensor:
        order = torch.randperm(len(self.inputs), generator=self.generator).to(self.inputs.device)
        self.inputs, self.labels = self.inputs[order], self.labels[order]
        return super().step()


class _AnyBatches(_Cut):
    """Draws the batches of a round, whatever their losses."""

    def next_round(self) -> Tensor:
        order = torch.randperm(len(self.losses), generator=self.generator)
        return order[: len(super().next_round())].sort().values


RECIPE = Recipe(
    words="after one pass, rounds of the half of the batches with the highest loss; the rate falls between passes",
    line="training = HardBatches(model, optimizer, inputs, labels, delta=0.5, batch_size=64)",
    training=lambda *given, epochs, **named: _Cut(*given, **named),
)


STUDY = Study(
    paper="dybat",
    question="Does a network generalize better if it is trained on the batches with the highest loss?",
    claim="At as many updates, training on the half of the batches with the highest loss is more accurate.",
    arms={
        "shuffled": Arm("SGD on batches drawn anew in each pass: the fair baseline", partial(_Shuffled, delta=1.0)),
        "dybat": Arm("after one pass, rounds of the half with the highest loss", partial(_Cut, delta=0.5)),
        "fixed_order": Arm(
            "the authors' baseline, batches never shuffled: the method at delta 1", partial(_Cut, delta=1.0)
        ),
        "any_batches": Arm(
            "control: rounds of half of the fixed batches, drawn at random", partial(_AnyBatches, delta=0.5)
        ),
        "delta_08": Arm("rounds of 0.8 of the batches", partial(_Cut, delta=0.8)),
        "delta_02": Arm("rounds of 0.2 of the batches", partial(_Cut, delta=0.2)),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "on_the_way": Metric.higher("validation accuracy, mean over all passes", 0.01),
        "accuracy_constant": Metric.higher("test accuracy, constant learning rate", 0.01),
        "accuracy_wrong": Metric.higher("test accuracy, a tenth of the labels wrong", 0.01),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 4 tries an arm, seed and condition, a factor of 2 to 2.5 apart, by accuracy on validation "
        "images, whose labels are as often wrong as those to train on"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions and batch "
        "normalization, 30 batches and 16 passes: nothing follows for large networks or long training. The batch size "
        "is not tuned."
    ),
    seeds=16,
)


class _Course(NamedTuple):
    """What was trained, and its validation accuracy after each pass."""

    trained: Trained
    passes: list[float]


def run(arm: Arm[Callable[..., HardBatches]], setting: Setting) -> Outcome:
    """Train with each rate in three conditions; report what the best of each does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_440, 2_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    passes = setting.pick(smoke=3, desk=16, gpu=100)
    right = task.train.labels, task.data.validation.labels
    method = setting.generator("method")
    wrong = tuple(wrong_labels(labels, _WRONG, task.classes, method) for labels in right)

    def train(rate: float, labels: tuple[Tensor, ...] = right, decays: bool = True) -> _Course:
        model = task.network(partial(MLP, hidden=(64,)))
        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        draw = setting.generator("batches")
        training = arm.make(model, optimizer, task.train.images, labels[0], batch_size=48, generator=draw)
        schedule = CosineAnnealingLR(optimizer, passes)
        losses: list[Tensor] = []
        validated: list[float] = []
        for _ in range(passes):
            losses.append(training.step())
            if decays:
                schedule.step()
            validated.append(evaluate_classifier(model, task.data.validation.images, labels[1]).accuracy)
        return _Course(Trained(task.data, model, optimizer, torch.stack(losses), {"training": training}), validated)

    def score(tried: _Course) -> float:
        return tried.passes[-1]

    tuned = tune(_RATES, train, score, better="higher")
    constant = tune(_CONSTANT_RATES, partial(train, decays=False), score, better="higher")
    astray = tune(_RATES, partial(train, labels=wrong), score, better="higher")
    best, best_astray = tuned.best.trained, astray.best.trained
    return task.outcome(
        tuned,
        trained=best,
        metrics={
            **best.accuracy_and_loss,
            "on_the_way": sum(tuned.best.passes) / passes,
            "accuracy_constant": constant.best.trained.tested.accuracy,
            "accuracy_wrong": best_astray.tested.accuracy,
        },
        more_tuned={"constant_lr": constant, "lr_with_wrong_labels": astray},
        arguments={"passes": passes, "wrong_labels": int((wrong[0] != right[0]).sum())},
        curves={
            "validation accuracy, by pass": list(enumerate(tuned.best.passes, start=1)),
            "updates of each batch, by rank": _visits(best.made["training"]),
            "updates of each batch, by rank, a tenth of the labels wrong": _visits(best_astray.made["training"]),
        },
    )


def _visits(training: HardBatches) -> list[tuple[float, float]]:
    return list(enumerate(training.visits.sort(descending=True).values.tolist(), start=1))
