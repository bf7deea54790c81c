"""Cycling the learning rate between bounds from one range test replaces tuning, and needs fewer steps (Smith 2017).

A network of one hidden layer learns characters by SGD with momentum 0.9. A range test, a run of a third of the steps on
training images with the rate growing from 0 to the largest that is tried, gives the bounds by the rule of
`suggest_bounds`; then the triangular policy takes one training of four cycles, the paper's advice being three or more,
and ends at the lower bound. The constant rate of the baseline is the best of seven on validation images. The headline
is test accuracy.

What it can show: whether the cycle gives what a tuned constant rate does, or more, at less cost, and whether it does in
half of the steps. What it cannot: anything about long training, convolutional or large networks. Since one training
takes the place of seven, no effect on accuracy confirms the claim of no tuning, and a lower accuracy would refute it.
An accuracy at half of the steps below the constant rate's at all of them would refute that of fewer steps; and where
the constant rate is as good half-way as the cycle, the cycle is not what saves them. The share of the fall at which the
range test is read was set on 8x8 digits, by validation images; it is the same for every arm that uses it.

Three controls ask whether something simpler does as well: a linear decay to 0 with a tuned start (does it only matter
that the rate ends low?), one descent from the upper bound to the lower, and the rates of the cycle in a random order
(is the cycle needed?). The paper has a descent, too, in which most steps are at the lower bound, and finds it worse
than the cycle.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler

from paperweight.loops import Evaluation, index_batches, tune
from paperweight.nets import MLP
from paperweight.optim.cyclical_lr import CyclicalLR, lr_range_test, suggest_bounds, triangular
from paperweight.studies import Arm, Metric, Outcome, Recipe, Setting, Study, Trained, classification

_RATES = (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
_BATCH = 32
_HALF_CYCLES = 8


def _cycles(optimizer: Optimizer, base: float, top: float, step_size: int, _: torch.Generator) -> LRScheduler:
    return CyclicalLR(optimizer, base, top, step_size)


def _descent(optimizer: Optimizer, base: float, top: float, step_size: int, _: torch.Generator) -> LRScheduler:
    return LinearLR(optimizer, 1.0, base / top, _HALF_CYCLES * step_size)


def _shuffled(optimizer: Optimizer, base: float, top: float, step_size: int, generator: torch.Generator) -> LRScheduler:
    order = torch.randperm(_HALF_CYCLES * step_size, generator=generator).tolist()
    return LambdaLR(optimizer, lambda step: triangular(order[step % len(order)], base, top, step_size) / top)


class _Plan(NamedTuple):
    """What makes the schedule, the lower bound as a share of a tried rate or by one range test, and the half cycles."""

    schedule: Callable[[Optimizer, float, float, int, torch.Generator], LRScheduler]
    lowest: float | None = None
    half_cycles: int = _HALF_CYCLES


def _four_cycles(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return four cycles between the optimizer's rate and a quarter of it, as near as whole steps come."""
    top = optimizer.param_groups[0]["lr"]
    return CyclicalLR(optimizer, top / 4, top, max(1, steps // _HALF_CYCLES))


RECIPE = Recipe(
    words="four triangular cycles between the learning rate and a quarter of it, in place of the cosine",
    line="schedule = CyclicalLR(optimizer, base_lr=lr / 4, max_lr=lr, step_size=steps // 8)",
    schedule=_four_cycles,
)


STUDY = Study(
    paper="cyclical_lr",
    question="Can one range test and a cycling learning rate take the place of tuning, in as many steps or in half?",
    claim="Cycling between the bounds of one range test is at least as accurate as a tuned constant rate.",
    arms={
        "constant": Arm("the best of seven constant rates: the method with equal bounds", _Plan(_cycles, lowest=1.0)),
        "triangular": Arm("four cycles between the bounds of the range test", _Plan(_cycles)),
        "triangular_half": Arm("two such cycles: half of the steps of every other arm", _Plan(_cycles, half_cycles=4)),
        "linear_decay": Arm("control: linear decay to 0 from the best of seven rates", _Plan(_descent, lowest=0.0)),
        "descent": Arm(
            "control: one linear descent from the upper bound of the range test to the lower", _Plan(_descent)
        ),
        "shuffled": Arm("control: the rates of the triangular arm in a random order", _Plan(_shuffled)),
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "half_accuracy": Metric(
            label="test accuracy after half of the steps", unit="", better="higher", minimal_effect=0.01
        ),
        "test_loss": Metric(label="test loss", unit="nats", better="lower", minimal_effect=0.02),
        "trainings": Metric(
            label="steps in all, tries and range test included",
            unit="full trainings",
            better="lower",
            minimal_effect=0.1,
        ),
    },
    headline="accuracy",
    tuned=(
        "the rate of the constant and the linear decay: 7 tries an arm and seed from one grid, by validation accuracy, "
        "for the accuracy after half of the steps by that accuracy; the other arms have one range test and no tries"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions and 1,600 steps "
        "at the desk budget; one reading rule, set on other data, one cycle length, momentum and weight decay as they "
        "are; the range test ends at the largest rate of the grid, and the cost of tuning is that of this grid; "
        "nothing about triangular2, exp_range or adaptive optimizers."
    ),
    seeds=16,
)


class _Course(NamedTuple):
    """A training, its schedule, and evaluations on validation and on test images half-way."""

    end: Trained
    schedule: LRScheduler
    half_way: tuple[Evaluation, Evaluation]


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate of the grid, or once between the bounds of a range test."""
    task = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 1_000, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
    )
    full = setting.pick(smoke=16, desk=1_600, gpu=9_600)
    step_size = full // _HALF_CYCLES
    steps = step_size * arm.make.half_cycles

    def start(rate: float) -> tuple[nn.Module, SGD]:
        model = task.network(partial(MLP, hidden=(64,)))
        return model, SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    def train(base: float, top: float) -> _Course:
        model, optimizer = start(top)
        schedule = arm.make.schedule(optimizer, base, top, step_size, setting.generator("method"))
        half_way: list[tuple[Evaluation, Evaluation]] = []

        def after_step(step: int, _: Tensor) -> None:
            if step + 1 == full // 2:
                half_way.append((task.validate(model), task.test(model)))

        end = task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule, on_step=after_step)
        return _Course(end, schedule, half_way[0] if half_way else (end.validated, end.tested))

    def batch_loss(model: nn.Module, index: Tensor) -> Tensor:
        return F.cross_entropy(model(task.train.images[index]), task.train.labels[index])

    search = 0
    curves: dict[str, list[tuple[float, float]]] = {}
    tops, lowest, base = _RATES, arm.make.lowest, 0.0
    if lowest is None:
        search = full // 3
        batches = index_batches(len(task.train), _BATCH, setting.generator("batches"), setting.device)
        rates, swept = lr_range_test(*start(max(_RATES)), batch_loss, batches, max_lr=max(_RATES), steps=search)
        base, top = suggest_bounds(rates, swept)
        tops = (top,)
        curves["loss in the range test, by learning rate"] = list(zip(rates.tolist(), swept.tolist(), strict=True))

    def below(top: float) -> float:
        return base if lowest is None else lowest * top

    tuned = tune(tops, lambda top: train(below(top), top), lambda tried: tried.end.validated.accuracy, better="higher")
    half_way = tuned.by(lambda tried: tried.half_way[0].accuracy, better="higher")
    best = tuned.best.end
    return task.outcome(
        tuned,
        trained=best,
        metrics={
            "accuracy": best.tested.accuracy,
            "half_accuracy": half_way.best.half_way[1].accuracy,
            "test_loss": best.tested.loss,
            "trainings": (search + len(tuned.tries) * steps) / full,
        },
        made={"optimizer": best.optimizer, "schedule": tuned.best.schedule},
        of="upper_bound",
        more_tuned={"upper_bound_half_way": half_way},
        arguments={
            "lower_bound": below(tuned.value),
            "steps_of_range_test": search,
            "steps": steps,
            "batch_size": _BATCH,
        },
        curves=curves,
    )
