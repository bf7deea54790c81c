"""A network learns although ten random labels stand beside each right one (Rolnick et al. 2017).

A network of one hidden layer learns easy characters by AdamW in batches of 256. Each of 6,000 images has its right
label, and in the noisy arms stands ten times more in the training set with a random one; validation images likewise,
since whoever has wrong labels has them in both. Test labels are right. Each arm has its own rate. The paper has 60,000
images of digits and a hundred random labels for each; here both are ten times fewer.

What it can show: what noise costs beside the right labels alone. A loss of more than five points of test accuracy would
refute that the network is robust to it here. Three controls say what the loss is due to. Training on the expected
labels, which is label smoothing of 10 / 11, has the bias of noise without its variance: what a network loses there is
not due to randomness. One image in eleven, with right labels, has the share of right labels without any wrong ones.
Batches of 64 over as many images ask for the paper's reason, that noise shrinks the batch. Noise that favours one wrong
class, at half of the share where that class overtakes the right one and at twice of it, asks where learning ends. What
it cannot: anything about wrong labels that depend on the image.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch.optim import AdamW

from paperweight.data import LabelledImages
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.regularization.massive_label_noise import biased_noise, dilute, expected_loss, label_law
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Setting, Study, Trained, classification

_ALPHA = 10
_RATES = (0.0002, 0.0008, 0.0032, 0.0128, 0.0512)
_BATCH = 256


class _Plan(NamedTuple):
    """Random labels for each right one, their share on one class, images in an even part, and what stands for them."""

    alpha: int = _ALPHA
    delta: float = 0.0
    part: int = 1
    expected: bool = False
    batch: int = _BATCH


STUDY = Study(
    paper="massive_label_noise",
    question="What does a classifier lose when ten random labels stand beside each right one?",
    claim="A network trained with ten random labels beside each right one is as accurate as with the right ones alone.",
    arms={
        "clean": Arm("right labels alone", _Plan(alpha=0)),
        "diluted": Arm("ten random labels beside each right one", _Plan()),
        "expected": Arm("control: the mean of these labels, without their randomness", _Plan(expected=True)),
        "fewer": Arm("control: right labels alone, one image in eleven", _Plan(alpha=0, part=1 + _ALPHA)),
        "small_batches": Arm("random labels, batches of 64, four times the updates", _Plan(batch=_BATCH // 4)),
        "biased": Arm("a twentieth of the noise on one wrong class, which stays behind", _Plan(delta=0.5 / _ALPHA)),
        "overtaken": Arm("a fifth of the noise on one wrong class, which overtakes", _Plan(delta=2 / _ALPHA)),
    },
    metrics={"accuracy": Metric.higher(ACCURACY.label, 0.05, ACCURACY.unit)},
    headline="accuracy",
    tuned=(
        "the learning rate, 5 tries an arm and seed, a factor of 4 apart, from one grid: by the loss on validation "
        "images with labels as noisy as those to train on"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, one small network without convolutions, 600 updates "
        "at the desk budget: the paper's networks are larger, and larger ones were more robust. Wrong labels are drawn "
        "at random, whatever the image shows. Weight decay and the number of updates are not tuned."
    ),
    seeds=8,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on noisy validation labels does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(6_000, 2_000, 4_000), gpu=(40_000, 5_000, 10_000), default="glyphs-20"
    )
    plan, draw = arm.make, setting.generator("method")
    noise = biased_noise(task.classes, plan.delta)

    def diluted(part: LabelledImages, alpha: int) -> LabelledImages:
        index, labels = dilute(part.labels, alpha, noise, generator=draw)
        return LabelledImages(part.images[index], labels)

    right = LabelledImages(task.train.images[:: plan.part], task.train.labels[:: plan.part])
    train_part = diluted(right, 0 if plan.expected else plan.alpha)
    noisy = replace(
        task, data=replace(task.data, train=train_part, validation=diluted(task.data.validation, plan.alpha))
    )
    steps = setting.pick(smoke=4, desk=600, gpu=8_000) * _BATCH // plan.batch
    law = label_law(plan.alpha, noise)

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(64,)))
        optimizer = AdamW(model.parameters(), lr=rate)
        loss = partial(expected_loss, law=law) if plan.expected else torch.nn.functional.cross_entropy
        return noisy.fit(
            model, optimizer, steps=steps, batch_size=plan.batch, loss=loss, schedule=warmed_cosine(optimizer, steps)
        )

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    return noisy.outcome(
        tuned,
        metrics={"accuracy": tuned.best.tested.accuracy},
        arguments={"alpha": plan.alpha, "delta": plan.delta, "right_labels": len(right.labels)},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
