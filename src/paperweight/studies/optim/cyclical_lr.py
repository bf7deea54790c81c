"""Cycling the learning rate between bounds from one range test replaces tuning, and needs fewer steps (Smith 2017).

A small residual network learns from few images by SGD with momentum 0.9. A range test, a run of a third of the
steps on training images with the rate growing from 0 to 1, gives the bounds by the rule of `suggest_bounds`; then the
triangular policy takes one training of four cycles, the paper's advice being three or more, and ends at the lower
bound. The constant rate of the baseline is the best of four on validation images. The headline is test accuracy.

What it can show: whether the cycle gives what a tuned constant rate does, or more, at less cost, and whether it does in
half of the steps. What it cannot: anything about long training or large networks. Since one training takes the place
of four, no effect on accuracy confirms the claim of no tuning, and a lower accuracy would refute it. An accuracy at
half of the steps below the constant rate's at all of them would refute that of fewer steps; and where the constant rate
is as good half-way as the cycle, the cycle is not what saves them. The share of the fall at which the range test is
read was set after a first run, on other splits of the digits, by validation images; it is the same for every arm that
uses it.

Three controls could take the credit: a linear decay to 0 with a tuned start (does it only matter that the rate ends
low?), one descent from the upper bound to the lower, and the rates of the cycle in a random order (is the cycle
needed?). The paper has a descent, too, in which most steps are at the lower bound, and finds it worse than the cycle.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler

from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, fit_classifier, index_batches, loss_curve
from paperweight.nets import ResNet
from paperweight.optim.cyclical_lr import CyclicalLR, lr_range_test, suggest_bounds, triangular
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="cyclical_lr",
    question="Can one range test and a cycling learning rate take the place of tuning, in as many steps or in half?",
    claim="Cycling between the bounds of one range test is at least as accurate as a tuned constant rate.",
    arms={
        "constant": "the best of four constant rates: the method with equal bounds",
        "triangular": "four cycles between the bounds of the range test",
        "triangular_half": "two such cycles: half of the steps of every other arm",
        "linear_decay": "control: linear decay to 0 from the best of four rates",
        "descent": "control: one linear descent from the upper bound of the range test to the lower",
        "shuffled": "control: the rates of the triangular arm in a random order",
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
        "the rate of the constant and the linear decay: 4 tries an arm and seed from one grid, by validation accuracy, "
        "for the accuracy after half of the steps by that accuracy; the other arms have one range test and no tries"
    ),
    limits=(
        "Small images, a small network and 240 steps at the desk budget; one reading rule, one cycle length, momentum "
        "and weight decay as they are; nothing about triangular2, exp_range or adaptive optimizers. The share of the "
        "fall at which the range test is read was set after a first run, on other splits of the same digits."
    ),
)

_RATES = (0.03, 0.1, 0.3, 1.0)
_BATCH = 32


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate of the grid, or once between the bounds of a range test."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=300, gpu=20_000),
        validation=setting.pick(smoke=50, desk=300, gpu=5_000),
        test=setting.pick(smoke=50, desk=990, gpu=10_000),
        max_side=32,
    )
    full = setting.pick(smoke=16, desk=240, gpu=9_600)
    steps = full // 2 if arm == "triangular_half" else full
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )
    labels = data.train.labels

    def start() -> tuple[nn.Module, SGD]:
        model = setting.network(data.shape, len(data.classes), default=partial(ResNet, width=8))
        return model, SGD(model.parameters(), lr=max(_RATES), momentum=0.9, weight_decay=5e-4)

    def batch_loss(model: nn.Module, index: Tensor) -> Tensor:
        return F.cross_entropy(model(images[index]), labels[index])

    def train(base: float, top: float) -> _Try:
        model, optimizer = start()
        half_way: list[tuple[Evaluation, Evaluation]] = []

        def evaluate() -> tuple[Evaluation, Evaluation]:
            return (
                evaluate_classifier(model, validation, data.validation.labels),
                evaluate_classifier(model, test, data.test.labels),
            )

        def after_step(step: int, _: Tensor) -> None:
            if step + 1 == full // 2:
                half_way.append(evaluate())

        losses = fit_classifier(
            model,
            optimizer,
            images,
            labels,
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            schedule=_schedule(arm, optimizer, base, top, steps, full // 8, setting.generator("method")),
            on_step=after_step,
        )
        end = evaluate()
        return _Try(base, top, losses, end, half_way[0] if half_way else end)

    curves: dict[str, list[tuple[float, float]]] = {}
    if arm in ("constant", "linear_decay"):
        search = 0
        tries = [train(rate if arm == "constant" else 0.0, rate) for rate in _RATES]
    else:
        search = full // 3
        draw = index_batches(len(images), _BATCH, setting.generator("batches"), images.device)
        rates, swept = lr_range_test(*start(), batch_loss, draw, max_lr=max(_RATES), steps=search)
        tries = [train(*suggest_bounds(rates, swept))]
        curves["loss in the range test, by learning rate"] = list(zip(rates.tolist(), swept.tolist(), strict=True))
    best = best_of(tries, lambda attempt: attempt.end[0].accuracy, better="higher")
    best_half_way = best_of(tries, lambda attempt: attempt.half_way[0].accuracy, better="higher")
    tested = best.end[1]
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "half_accuracy": best_half_way.half_way[1].accuracy,
            "test_loss": tested.loss,
            "trainings": (search + len(tries) * steps) / full,
        },
        arguments={
            "lower_bound": best.base,
            "upper_bound": best.top,
            "upper_bound_half_way": best_half_way.top,
            "tries": len(tries),
            "steps_of_range_test": search,
            "steps": steps,
            "step_size": full // 8,
            "batch_size": _BATCH,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={"training loss, by step": loss_curve(best.losses), **curves},
        correct=tested.correct,
    )


class _Try(NamedTuple):
    """A training; each pair of evaluations is on validation and on test images."""

    base: float
    top: float
    losses: Tensor
    end: tuple[Evaluation, Evaluation]
    half_way: tuple[Evaluation, Evaluation]


def _schedule(
    arm: str, optimizer: Optimizer, base: float, top: float, steps: int, step_size: int, draw: torch.Generator
) -> LRScheduler:
    if arm in ("linear_decay", "descent"):
        for group in optimizer.param_groups:
            group["lr"] = top
        return LinearLR(optimizer, start_factor=1.0, end_factor=base / top, total_iters=steps)
    if arm == "shuffled":
        order = torch.randperm(steps, generator=draw).tolist()
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        return LambdaLR(optimizer, lambda step: triangular(order[step % steps], base, top, step_size))
    return CyclicalLR(optimizer, base, top, step_size)
