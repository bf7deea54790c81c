"""Leaving out a random part of what is learned well saves a third of training and no accuracy (Qin et al. 2024).

The claim is that of a saving without a loss, so that the verdict to expect on test accuracy is "no effect"; the share
of gradients that are evaluated is told beside it. The learning rate falls along a cosine, epoch by epoch.

What it can show: whether so many gradients can be spared here. An accuracy below the baseline's would refute the claim.
Since a network on small images may need less training than it gets, the controls get as many gradients as the method
took at the same rate and seed, and no more: fewer epochs, or in every epoch a random part of all samples. As high an
accuracy with either would show that the losses are not needed for it. The variants do what the paper says not to.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.loops import tune
from paperweight.nets import LeNet
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
from paperweight.training.infobatch import InfoBatch

_RATES = (0.01, 0.03, 0.1, 0.3)


class _AnySample(InfoBatch):
    """Leaves out a share of all samples, whatever their losses."""

    def order(self) -> tuple[Tensor, Tensor]:
        kept = len(self.inputs) - round(self.ratio * len(self.inputs))
        return torch.randperm(len(self.inputs), generator=self.generator)[:kept], torch.ones(kept).to(self.scores)


class _Unweighted(InfoBatch):
    def order(self) -> tuple[Tensor, Tensor]:
        index, weight = super().order()
        return index, torch.ones_like(weight)


class _Plan(NamedTuple):
    """What trains, and at which epochs and ratio, by the epochs, the samples and the gradients that InfoBatch took."""

    training: Callable[..., InfoBatch] = InfoBatch
    as_spent: Callable[[int, int, int], dict[str, float]] | None = None


class _NoLoneSample(InfoBatch):
    """Leaves out a last sample that is alone in its batch: layers of batch normalization refuse to train on one."""

    def order(self) -> tuple[Tensor, Tensor]:
        index, weight = super().order()
        kept = len(index) - 1 if len(index) % self.batch_size == 1 < min(len(index), self.batch_size) else len(index)
        return index[:kept], weight[:kept]


RECIPE = Recipe(
    words="half of the samples below the mean loss left out, rescaled, in 7 of 8 epochs; the rate falls between epochs",
    line="training = InfoBatch(model, optimizer, inputs, labels, batch_size=64, epochs=epochs, generator=generator)",
    training=_NoLoneSample,
)


STUDY = Study(
    paper="infobatch",
    question="Can training leave out a third of its gradients, by the losses it has seen, and lose no accuracy?",
    claim="InfoBatch evaluates fewer gradients than training on every sample in every epoch, and is as accurate.",
    arms={
        "all": Arm("every sample in every epoch, which the method is at ratio 0", _Plan(partial(InfoBatch, ratio=0.0))),
        "infobatch": Arm("half of the samples below the mean loss left out, rescaled, in 7 of 8 epochs", _Plan()),
        "fewer_epochs": Arm(
            "control: every sample, in as many epochs as have no more gradients than InfoBatch took",
            _Plan(partial(InfoBatch, ratio=0.0), lambda _, samples, spent: {"epochs": max(1, spent // samples)}),
        ),
        "any_sample": Arm(
            "control: in each epoch random samples, in all as many as InfoBatch took, whatever their loss",
            _Plan(_AnySample, lambda epochs, of, spent: {"epochs": epochs, "ratio": 1 - spent // epochs / of}),
        ),
        "no_rescaling": Arm("variant: InfoBatch with weight 1 for all", _Plan(_Unweighted)),
        "no_annealing": Arm("variant: InfoBatch to the end", _Plan(partial(InfoBatch, delta=1.0))),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "gradients": Metric.lower("gradients evaluated", 0.05, "share of those of the baseline"),
    },
    headline="accuracy",
    tuned="the learning rate: 4 tries an arm and seed, a factor of about 3 apart, by validation loss",
    limits=(
        "Small images, a network of five layers and 24 epochs at the desk budget, no augmentation: nothing follows for "
        "large networks or data, or data that are learned slowly. Ratio and share of epochs are the paper's, not tuned."
    ),
    seeds=16,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 400, 790), gpu=(20_000, 5_000, 10_000))
    epochs, samples = setting.pick(smoke=4, desk=24, gpu=100), len(task.train)

    def train(rate: float, plan: _Plan = arm.make) -> Trained:
        model, draw = task.network(LeNet), setting.generator("batches")
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        data = (task.train.images, task.train.labels)
        limits = plan.as_spent(epochs, samples, spent(rate)) if plan.as_spent else {"epochs": epochs}
        training = plan.training(model, optimizer, *data, batch_size=32, generator=draw, **limits)
        return task.fit_by(training, training.epochs, CosineAnnealingLR(optimizer, training.epochs))

    def spent(rate: float) -> int:
        rates = _RATES if rate in _RATES else (rate,)

        def count() -> dict[str, Tensor]:
            return {str(each): torch.tensor(train(each, _Plan()).made["training"].samples) for each in rates}

        return int(setting.cached(f"gradients of infobatch at {rates}", count)[str(rate)])

    def share(tried: Trained) -> float:
        return tried.made["training"].samples / (epochs * samples)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "gradients": share(tuned.best)},
        curves={"share of the gradients, by log10 learning rate": tuned.curve(share)},
    )
