"""XGrad makes SGD with momentum, Adam and AdamW converge faster and generalise better (Guan et al. 2023).

A network of one hidden layer learns characters in batches of 32, with momentum 0.9 or Adam's betas, weight decay 5e-4
and a rate that rises over a tenth of the steps and falls along a cosine. XGrad is evaluated at its true weights, every
arm at the rate that is best on validation images. The headline is test accuracy; who converges fast is told by the
validation loss after a quarter of the steps.

What it can show: whether gradients at predicted weights train this network better or faster than gradients at the
present ones. An accuracy that is not higher and an early loss that is not lower would refute the claim here. The
control is Nesterov's momentum, an option of torch's SGD without cost: it looks ahead by 0.9 of the momentum where XGrad
looks ahead by all of it, so that what both gain is no news. The two arms with Adam are to be compared with each other.
What it cannot: anything about deep networks, large batches, language models or long training.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.optim.xgrad import XGrad
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


class _Plan(NamedTuple):
    """What makes the inner optimizer, its rates, and how many steps ahead it is predicted."""

    inner: Callable[..., Optimizer]
    rates: tuple[float, ...]
    steps: float


class _Try(NamedTuple):
    """What was trained, and its validation loss after a quarter of the steps."""

    trained: Trained
    early_loss: float


_SGD = partial(SGD, momentum=0.9, weight_decay=5e-4)
_ADAM = partial(Adam, weight_decay=5e-4)
_SGD_RATES = (0.005, 0.01, 0.02, 0.04, 0.08)
_ADAM_RATES = (0.001, 0.002, 0.004, 0.008, 0.016)

RECIPE = Recipe(
    words="XGrad on the baseline's optimizer: gradients at weights predicted one step ahead",
    line="optimizer = XGrad(optimizer, steps=1)",
    optimizer=lambda parameters, lr, baseline: XGrad(baseline(parameters, lr), steps=1),
)

STUDY = Study(
    paper="xgrad",
    question="Does XGrad help SGD with momentum, once both have their own learning rate?",
    claim="XGrad trains a network to a higher test accuracy than the optimizer that it wraps, and faster.",
    arms={
        "sgd": Arm("SGD with momentum: the method at 0 steps", _Plan(_SGD, _SGD_RATES, 0)),
        "xgrad": Arm("XGrad on it, 1 step ahead", _Plan(_SGD, _SGD_RATES, 1)),
        "nesterov": Arm(
            "control: torch's SGD with Nesterov's momentum", _Plan(partial(_SGD, nesterov=True), _SGD_RATES, 0)
        ),
        "adam": Arm("Adam", _Plan(_ADAM, _ADAM_RATES, 0)),
        "xgrad_adam": Arm("XGrad on Adam, 1 step ahead", _Plan(_ADAM, _ADAM_RATES, 1)),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "early_loss": Metric.lower("validation loss after a quarter of the steps", 0.05, "nats"),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 5 tries an arm and seed, a factor of 2 apart in each grid: by validation loss, and for the "
        "loss after a quarter of the steps by that loss"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions and 1,000 steps "
        "at the desk budget: nothing follows for deep networks or long training. Weights are predicted one step ahead; "
        "momentum, betas, weight decay and schedule are not tuned."
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
    steps = setting.pick(smoke=20, desk=1_000, gpu=8_000)
    plan = arm.make

    def train(rate: float) -> _Try:
        model = task.network(partial(MLP, hidden=(64,)))
        optimizer = XGrad(plan.inner(model.parameters(), lr=rate), steps=plan.steps)
        early = math.nan

        def look(step: int, _: Tensor) -> None:
            nonlocal early
            if step + 1 == steps // 4:
                with optimizer.true_weights():
                    early = task.validate(model).loss

        schedule = warmed_cosine(optimizer, steps)
        trained = task.fit(model, optimizer, steps=steps, batch_size=32, schedule=schedule, on_step=look)
        optimizer.restore()
        return _Try(replace(trained, made={"inner": optimizer.optimizer}), early)

    tuned = tune(plan.rates, train, lambda tried: tried.trained.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.early_loss, better="lower")
    best = tuned.best.trained
    return task.outcome(
        tuned,
        metrics={**best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        more_tuned={"lr_of_first_quarter": early},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.trained.tested.accuracy)},
        trained=best,
    )
