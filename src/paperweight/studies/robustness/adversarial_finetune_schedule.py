"""A trained network, fine-tuned on attacks, is robust at a fraction of the cost of training anew (Jeddi et al. 2020).

A small perceptron learns easy glyphs of 10 pixels. The baseline is long adversarial training from scratch, at a rate
that rises over a tenth of the steps and falls along a cosine. All that is fine-tuned begins at one network a seed,
trained without attacks, and has an eighth of these updates. The headline is the accuracy under gradient ascent of the
margin from several starts; how many gradients of images it took, those of the training without attacks among them,
stands beside it.

What it can show: whether so short a fine-tuning makes such a network as robust as long adversarial training does, and
whether that is the schedule's merit. A lower accuracy under attack would refute the claim that it is better; within the
minimal effect it would only be cheaper. As high a one from scratch with as many gradients would show that no trained
network is needed; by fine-tuning at a constant or a falling rate, that the slow start is not. The robust accuracy on
training images tells how much each overfits, and the Square attack, which sees no gradient, whether gradients are
masked.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from paperweight.attacks import ProjectedGradient
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.adversarial_finetune_schedule import SlowStartFastDecay
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained
from paperweight.studies.robustness._adversarial_training import (
    fit_attacked,
    left_by_squares,
    small_images,
    withstood,
)

_RADIUS = 0.03
_RATES = (0.002, 0.008, 0.032, 0.128)
_BATCH = 64


def _falling(optimizer: Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=steps)


def _constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


def _slow_and_fast(optimizer: Optimizer, steps: int) -> LRScheduler:
    largest = float(optimizer.param_groups[0]["lr"])
    return SlowStartFastDecay(optimizer, steps, base_lr=largest / 100, max_lr=largest)


class _Plan(NamedTuple):
    """Where training begins, how long it is, and its schedule."""

    schedule: Callable[[Optimizer, int], LRScheduler]
    fine_tunes: bool = True
    long: bool = False


STUDY = Study(
    paper="adversarial_finetune_schedule",
    question="Does a short adversarial fine-tuning of a trained network replace long adversarial training?",
    claim="Fine-tuning with a slow start and a fast decay is more accurate under attack than training from scratch.",
    arms={
        "scratch": Arm(
            "long adversarial training, warmed up, then along a cosine", _Plan(warmed_cosine, False, long=True)
        ),
        "fine_tuned": Arm("fine-tuned, an eighth of the updates, slow start and fast decay", _Plan(_slow_and_fast)),
        "falling": Arm("control: fine-tuned with a rate that falls along a cosine", _Plan(_falling)),
        "constant": Arm("control: fine-tuned at a constant rate", _Plan(_constant)),
        "short": Arm("control: from scratch, as many gradients as the fine-tuned took", _Plan(_slow_and_fast, False)),
    },
    metrics={
        "robust": Metric.higher("test accuracy under attack", 0.01),
        "accuracy": Metric.higher("test accuracy without attack", 0.01),
        "gap": Metric.lower("training less test accuracy under attack", 0.01),
        "gradients": Metric.lower("gradients of images", 1.0, "thousands"),
        "square": Metric.higher("test accuracy under Square", 0.02),
    },
    headline="robust",
    tuned=(
        "the largest learning rate, 4 tries an arm and seed, a factor of 4 apart, from one grid, by validation "
        "accuracy under attack; slow start and fast decay begin and end at a hundredth of it, and meet in the middle"
    ),
    limits=(
        "Small images, one small perceptron, few images to train on, short training on attacks of few steps: nothing "
        "follows for deep networks or long training, where adversarial training overfits more. The schedule's form "
        "is ours, since the paper's was not at hand; the training without attacks is one for all, its rate not tuned."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; report what the best on attacked validation images withstands on test images."""
    plan = arm.make
    task = small_images(setting, smoke=(100, 50, 50), desk=(1_500, 600, 3_000), gpu=(20_000, 2_000, 10_000))
    long, ascent = setting.pick(smoke=16, desk=400, gpu=20_000), setting.pick(smoke=2, desk=3, gpu=7)
    short, before = long // 8, long // 2
    each = ascent + 1  # gradients of an image in an update on attacked images
    steps = long if plan.long else short if plan.fine_tunes else short + before // each
    spent = _BATCH * (steps * each + (before if plan.fine_tunes else 0))

    def without_attacks() -> dict[str, Tensor]:
        model = task.network(partial(MLP, hidden=(64, 64)))
        optimizer = Adam(model.parameters(), lr=0.006)
        return task.fit(model, optimizer, steps=before, batch_size=_BATCH).model.state_dict()

    trained = setting.cached("trained without attacks", without_attacks) if plan.fine_tunes else {}

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(64, 64)))
        if plan.fine_tunes:
            model.load_state_dict(trained)
        optimizer = Adam(model.parameters(), lr=rate)
        return fit_attacked(
            task,
            model,
            optimizer,
            attack=ProjectedGradient(radius=_RADIUS, steps=ascent, keep_going=True),
            steps=steps,
            batch_size=_BATCH,
            schedule=plan.schedule(optimizer, steps),
        )

    def validated(tried: Trained) -> float:
        return withstood(setting, tried.model, task.data.validation, _RADIUS, steps=10).accuracy

    tuned = tune(_RATES, train, validated, better="higher")
    best, test = tuned.best.model, task.data.test
    starts, (few, queries) = setting.pick(smoke=(1, (20, 10)), desk=(3, (400, 150)), gpu=(5, (1_000, 1_000)))
    strong = partial(withstood, setting, best, radius=_RADIUS, starts=starts)
    found = strong(test)
    return task.outcome(
        tuned,
        metrics={
            "robust": found.accuracy,
            "accuracy": tuned.best.tested.accuracy,
            "gap": strong(task.train).accuracy - found.accuracy,
            "gradients": spent / 1000,
            "square": left_by_squares(setting, best, test, _RADIUS, images=few, queries=queries),
        },
        arguments={"schedule": plan.schedule.__name__.removeprefix("_"), "updates_without_attacks": before},
        curves={"validation accuracy under attack, by log10 lr": tuned.curve()},
        tested=found,
    )
