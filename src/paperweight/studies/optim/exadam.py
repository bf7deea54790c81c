"""EXAdam converges faster than Adam and reaches a higher accuracy (Adly 2024).

A network of one hidden layer learns characters in batches of 32, with betas of 0.9 and 0.999, no weight decay, and a
rate that rises over a tenth of the steps and falls along a cosine; each arm has its own rate. The headline is test
accuracy; who converges fast is told by the early training loss.

What it can show: whether the corrected moments, the present gradient and the growing step train this network better
than Adam once both rates are tuned; at equal rates EXAdam takes steps twice as large, and the paper compares at equal
rates. An accuracy that is not higher and an early loss that is not lower would refute the claim here. Its parts are
asked for one by one: EXAdam without the growing step, as in the author's later code; Adam with the growing step; and
NAdam, which adds the present gradient to its average, too, in the proportion of Nesterov's momentum. What it cannot:
anything about convolutional networks, other data or long training.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch.optim import Adam, NAdam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.optim.exadam import EXAdam
from paperweight.studies import (
    ACCURACY,
    EARLY_LOSS,
    TEST_LOSS,
    Arm,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)

_RATES = (0.00004, 0.0001, 0.00025, 0.0006, 0.0015, 0.004, 0.01)


class _Plan(NamedTuple):
    """What makes the optimizer, and whether its step size grows as EXAdam's does."""

    optimizer: Callable[..., Optimizer]
    grows: bool = False


RECIPE = Recipe(
    words="EXAdam with the paper's betas and growing step, without weight decay",
    line="optimizer = EXAdam(model.parameters(), lr)",
    optimizer=lambda parameters, lr, _: EXAdam(parameters, lr=lr),
    lr=0.001,
)

STUDY = Study(
    paper="exadam",
    question="Does a classifier learn faster or better with EXAdam than with Adam, once each has its own rate?",
    claim="EXAdam trains a network to a higher test accuracy than Adam.",
    arms={
        "adam": Arm("Adam", _Plan(Adam)),
        "exadam": Arm("EXAdam with its growing step", _Plan(EXAdam)),
        "exadam_constant": Arm("EXAdam without the growing step", _Plan(partial(EXAdam, log_step=False))),
        "adam_growing": Arm("control: Adam with the growing step", _Plan(Adam, grows=True)),
        "nadam": Arm("control: NAdam, which adds the present gradient in the proportion of Nesterov", _Plan(NAdam)),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS, "early_loss": EARLY_LOSS},
    headline="accuracy",
    tuned=(
        "the learning rate, 7 tries an arm and seed, a factor of about 2.5 apart, from one grid: by validation loss, "
        "and for the loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions, batches of 32 "
        "and 1,500 steps at the desk budget, after a warm-up that softens EXAdam's large first steps: nothing follows "
        "for other models or long training. Betas, eps and schedule are not tuned. The lowest rate was added after a "
        "first weighing on the same seeds, in which EXAdam mostly chose the lowest that there was: no arm chose it."
    ),
    seeds=16,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 1_000, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
    )
    steps = setting.pick(smoke=20, desk=1_500, gpu=8_000)

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(64,)))
        optimizer = arm.make.optimizer(model.parameters(), lr=rate)
        schedule = _schedule(optimizer, steps, grows=arm.make.grows)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=schedule)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[: max(1, steps // 4)].mean().item(), better="lower")
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        more_tuned={"lr_of_first_quarter": early},
        arguments={"step_size_grows": arm.make.grows},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )


def _schedule(optimizer: Optimizer, steps: int, *, grows: bool) -> LambdaLR:
    schedule = warmed_cosine(optimizer, steps)
    if not grows:
        return schedule
    (factor,) = schedule.lr_lambdas
    return LambdaLR(optimizer, lambda step: factor(step) * math.log(2 * (step + 2)) / 2)
