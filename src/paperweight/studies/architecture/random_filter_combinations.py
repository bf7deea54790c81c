"""Networks that combine random filters are as accurate as those that learn filters (Gavrikov and Keuper 2023).

A LeNet learns characters at half their size with Adam, gradients clipped at norm 5, and a rate that falls to a tenth
after three quarters of the steps; each arm has its own rate. Both of its convolutions are replaced; all else is learned
in every arm. With an expansion of 8 the first layer has more random filters than their area, and so can have any
filter; the second has 128 for filters of 150 numbers, and so can not quite.

What it can show: whether an accuracy is lost if filters are only combined, or gained, as the paper finds with many of
them. An accuracy below that of learned filters by more than the minimal effect would refute the claim here. Random
filters that are frozen and not combined ask whether combining is needed in a network this small, whose other layers may
do without good filters; an expansion of 1, whether many are; filters that are both combined and learned, whether it is
the freezing or the product of two matrices that does something.
"""

from functools import partial
from typing import NamedTuple

from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.architecture.random_filter_combinations import replace_convolutions
from paperweight.loops import clip_gradients, tune
from paperweight.nets import LeNet, count_parameters, halved
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

_RATES = (0.002, 0.005, 0.012, 0.03)
_EXPANSION = 8


class _Plan(NamedTuple):
    """The expansion, 0 where filters are not combined; and whether the spatial filters are learned."""

    expansion: int
    learned: bool = False


RECIPE = Recipe(
    words="the filters of convolutions are learned combinations of 8 random ones for each channel",
    line="model = replace_convolutions(model, expansion=8)",
    surgery=partial(replace_convolutions, expansion=_EXPANSION),
)

STUDY = Study(
    paper="random_filter_combinations",
    question="Is a network whose filters are combinations of random ones as accurate as one that learns them?",
    claim="Learned combinations of random filters are no less accurate than learned filters.",
    arms={
        "learned": Arm("learned filters", _Plan(0, learned=True)),
        "combined": Arm("learned combinations of random filters, expansion 8", _Plan(_EXPANSION)),
        "combined_few": Arm("learned combinations of as many random filters as channels, expansion 1", _Plan(1)),
        "frozen": Arm("control: random filters, neither learned nor combined", _Plan(0)),
        "combined_learned": Arm(
            "control: combinations of learned filters, expansion 8", _Plan(_EXPANSION, learned=True)
        ),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "parameters": Metric.lower("numbers learned", 100, "numbers"),
    },
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 2.5 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, a network with two convolutions of 5x5 and a few "
        "hundred steps: nothing follows for deep networks, whose filters are mostly spatial, for larger filters, where "
        "the paper finds that random ones lose more, or for robustness, which the paper finds better. A first weighing "
        "on digits, with 790 to test on, could not decide. Combinations of learned filters mostly chose the lowest "
        "rate that was tried, and might do better at a lower one."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=12, desk=300, gpu=5_000)

    def train(rate: float) -> Trained:
        model = _operated(task.network(halved(LeNet)), arm.make).to(setting.device)
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        clip_gradients(optimizer, 5.0)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=MultiStepLR(optimizer, [steps * 3 // 4]))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    learned = sum(p.numel() for p in tuned.best.model.parameters() if p.requires_grad)
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "parameters": float(learned)},
        arguments={
            "expansion": arm.make.expansion,
            "filters_learned": arm.make.learned,
            "numbers": count_parameters(tuned.best.model),
        },
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )


def _operated(model: nn.Module, plan: _Plan) -> nn.Module:
    if plan.expansion:
        return replace_convolutions(model, plan.expansion, learn_spatial=plan.learned)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.requires_grad_(plan.learned)
    return model
