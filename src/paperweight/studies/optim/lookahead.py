"""Lookahead improves SGD and Adam, lowers their variance and is robust to the learning rate (Zhang et al. 2019).

A network of one hidden layer learns characters with momentum 0.9, weight decay 5e-4 and a rate that falls to a fifth
after 30, 60 and 80% of the steps, as in the authors' CIFAR experiments; Lookahead has their k = 5 and the alpha of 0.5
of their other ones. Every arm is evaluated just after a synchronisation, at the rate that is best on validation images.
The headline is test accuracy; the mean over the four rates that are best for an arm, on validation images, tells how
much the choice of the rate matters: one over all would tell which grid has more rates that diverge. Beside it stands
the paper's noisy quadratic, with SGD without momentum inside: the excess loss that stays at a common constant rate,
and the one after few steps at the rate that is best for the arm, with the same decay of the rate.

What it can show: whether Lookahead makes this network more accurate or less sensitive to its rate, and whether less
noise on the quadratic is more than the smaller step that brings it. What it cannot: anything about convolutional
networks, ImageNet, language models or long training. An accuracy that is not higher, or a mean over those rates that is
not higher, would refute the claim here. Lookahead at a constant rate asks whether it stands in for the decay. The
control beside it takes the same average of SGD's weights, but leaves the weights in training alone: what it gains, too,
is due to averaging, and not to going back. With the decay it would be SGD itself, since at the end the weights hardly
move any more. The two arms with Adam are to be compared with each other.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.loops import ExponentialMovingAverage, minimise, tune
from paperweight.nets import MLP
from paperweight.optim.lookahead import Lookahead
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

_K = 5
_ALPHA = 0.5
_QUADRATIC_RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 2.4)


class _Inner(NamedTuple):
    """What makes the inner optimizer of network and quadratic, the rates for one, and a common rate for the other."""

    of_network: Callable[..., Optimizer]
    of_quadratic: Callable[..., Optimizer]
    rates: tuple[float, ...]
    common_rate: float


class _Plan(NamedTuple):
    """Inner optimizer, alpha, whether the rate decays, and the share of new weights in the average to evaluate."""

    inner: _Inner
    alpha: float = 1.0
    decays: bool = True
    share: float = 1.0


_SGD = _Inner(partial(SGD, momentum=0.9, weight_decay=5e-4), SGD, (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04), 0.5)
_ADAM = _Inner(partial(Adam, weight_decay=5e-4), Adam, (0.001, 0.002, 0.004, 0.008, 0.016, 0.032), 0.1)

RECIPE = Recipe(
    words="Lookahead on the baseline's optimizer, k = 5, alpha = 0.5, momentum maintained",
    line="optimizer = Lookahead(optimizer, k=5, alpha=0.5)",
    optimizer=lambda parameters, lr, baseline: Lookahead(baseline(parameters, lr), k=_K, alpha=_ALPHA),
)

STUDY = Study(
    paper="lookahead",
    question="Does Lookahead help SGD with momentum, once both have their own learning rate and a decay of it?",
    claim="Lookahead raises the accuracy that its inner optimizer reaches, lowers its variance and needs less tuning.",
    arms={
        "sgd": Arm("SGD with momentum: the method at alpha 1", _Plan(_SGD)),
        "lookahead": Arm("Lookahead on it, k = 5, alpha = 0.5, momentum maintained", _Plan(_SGD, _ALPHA)),
        "lookahead_constant": Arm("Lookahead at a rate that does not decay", _Plan(_SGD, _ALPHA, decays=False)),
        "average_constant": Arm(
            "control: SGD at such a rate, evaluated at Lookahead's average, not going back to it",
            _Plan(_SGD, decays=False, share=_ALPHA),
        ),
        "adam": Arm("Adam", _Plan(_ADAM)),
        "lookahead_adam": Arm("Lookahead on Adam, k = 5, alpha = 0.5", _Plan(_ADAM, _ALPHA)),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "mean_accuracy": Metric.higher("test accuracy, mean over the best four learning rates", 0.01),
        "noise_floor": Metric.lower("excess loss of the quadratic at a common rate", 0.02),
        "quadratic_loss": Metric.lower("excess loss of the quadratic at the best rate", 0.02),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 6 tries an arm and seed, a factor of 2 apart in each grid: by validation loss for the "
        "network, by the excess loss itself on the quadratic"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions and 1,500 steps "
        "at the desk budget: nothing follows for long training or other models; k, alpha, momentum, weight decay and "
        "the decay of the rate are those of the paper, not tuned. The common rate of the quadratic is 0.5 for SGD and "
        "0.1 for Adam, so that its noise compares arms of the same inner optimizer alone."
    ),
    seeds=16,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train the network and descend the quadratic with each rate; report the best and the mean."""
    task = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 1_000, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
    )
    steps = setting.pick(smoke=20, desk=1_500, gpu=8_000)
    plan = arm.make

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(64,)))
        optimizer = Lookahead(plan.inner.of_network(model.parameters(), lr=rate), k=_K, alpha=plan.alpha)
        average = ExponentialMovingAverage(model, decay=1 - plan.share)

        def update(step: int, _: Tensor) -> None:
            if (step + 1) % _K == 0:
                average.update(model)

        schedule = _schedule(plan, optimizer, steps)
        trained = task.fit(model, optimizer, steps=steps, batch_size=32, schedule=schedule, on_step=update)
        return replace(trained, model=average.average)

    long, short = setting.pick(smoke=(50, 20), desk=(500, 100), gpu=(2_000, 100))
    tuned = tune(plan.inner.rates, train, lambda tried: tried.validated.loss, better="lower")
    quadratic = tune(
        _QUADRATIC_RATES,
        lambda rate: _descend(plan, setting, rate, short),
        lambda course: course[-1],
        better="lower",
    )
    constant = _descend(plan._replace(decays=False), setting, plan.inner.common_rate, long)
    late = constant[len(constant) // 2 :]
    best = sorted(tuned.scores, key=lambda rate: min(math.inf, tuned.scores[rate]))[:4]  # min: not a number is the last
    optimizer = cast(Lookahead, tuned.best.optimizer)
    return task.outcome(
        tuned,
        metrics={
            **tuned.best.accuracy_and_loss,
            "mean_accuracy": sum(tuned.tries[rate].tested.accuracy for rate in best) / len(best),
            "noise_floor": sum(late) / len(late),
            "quadratic_loss": quadratic.best[-1],
        },
        made={"inner": optimizer.optimizer},
        more_tuned={"lr_of_quadratic": quadratic},
        arguments={"share_of_new_weights": plan.share},
        curves={
            "test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy),
            "excess loss of the quadratic, by step": [
                (float(_K * (i + 1)), value) for i, value in enumerate(quadratic.best)
            ],
        },
    )


def _schedule(plan: _Plan, optimizer: Lookahead, steps: int) -> MultiStepLR:
    return MultiStepLR(optimizer, [steps * share // 10 for share in (3, 6, 8) if plan.decays], gamma=0.2)


def _descend(plan: _Plan, setting: Setting, rate: float, steps: int) -> list[float]:
    """Descend sum(a (x - c)^2) / 2 from 3, ten curvatures a from 0.1 to 1, with normal c drawn anew in each step.

    Returns the course of the excess loss of what is evaluated, a mean over 200 descents.
    """
    curvature = torch.logspace(-1, 0, 10)
    targets = torch.randn(steps, 200, 10, generator=setting.generator("evaluation"))
    x = torch.full((200, 10), 3.0, requires_grad=True)
    optimizer = Lookahead(plan.inner.of_quadratic([x], lr=rate), k=_K, alpha=plan.alpha)
    average = x.detach().clone()
    course: list[float] = []

    def record(step: int, _: Tensor) -> None:
        if (step + 1) % _K == 0:
            average.lerp_(x.detach(), plan.share)
            course.append((curvature * average.square()).sum(dim=1).mean().item() / 2)

    minimise(
        lambda target: (curvature * (x - target).square()).sum() / 2,
        optimizer,
        targets,
        steps=steps,
        schedule=_schedule(plan, optimizer, steps),
        on_step=record,
    )
    return course
