"""Classifiers on the hidden layers, trained along, make a convolutional network more accurate (Lee et al. 2014).

A network of two convolutions and two hidden linear layers, without batch normalization, learns characters at half their
size from few images, by SGD with momentum 0.9 and the authors' weight decay 5e-4. All losses are cross-entropies, which
the authors take for more than ten classes; each companion weighs as much as the output, as in their code. The headline
is test accuracy.

What it can show: whether companions on all four hidden layers make this network more accurate, with the rate tuned for
each arm. An accuracy not above that of the output loss alone would refute the claim here. The paper's falling weight
asks whether it is better to let go of the companions; the authors' rate, a thousandth, whether companions need to learn
themselves. Batch normalization in place of companions is what a practitioner would do against vanishing gradients,
which the paper names as what companions are good for; twice the steps with the output loss alone ask whether companions
are only faster.
"""

import copy
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import LeNet, halved, replace_modules
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Recipe, Setting, Study, Trained, classification
from paperweight.training.deeply_supervised import (
    DeeplySupervised,
    companion_weight,
    deeply_supervised_loss,
)

_RATES = (0.01, 0.03, 0.1, 0.3)
_BATCH = 32


class _Plan(NamedTuple):
    """The companions' weight, whether it falls, their share of the rate; batch normalization; a factor of the steps."""

    alpha: float = 1.0
    faded: bool = False
    rate: float = 1.0
    normalised: bool = False
    longer: int = 1


def _normalised(model: nn.Module) -> nn.Module:
    """Put batch normalization after each convolution and each hidden linear layer."""
    *hidden, _ = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]

    def build(layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.Conv2d):
            return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))
        return nn.Sequential(layer, nn.BatchNorm1d(len(layer.get_parameter("weight"))))

    return replace_modules(model, lambda name, _: name in hidden, build, wanted="a hidden layer")


def _supervised(model: nn.Module) -> nn.Module:
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise InputError(f"the network must end in a torch.nn.Linear, {type(model).__name__} has none")
    return DeeplySupervised(model, linear[-1].out_features)


def _fits(model: nn.Module, data: Splits) -> str:
    """Say why companions cannot be put on a network, and nothing where they can."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _supervised(copy.deepcopy(model)).train()(data.train.images[:2])
    except ValueError as error:
        return str(error)
    except Exception:  # what a network raises is its own
        return f"{type(model).__name__} must take two images at once, with its layers built, and call those that it has"
    return ""


def _sum_of_losses(samples: int, classes: int) -> Callable[[Any, Tensor, Tensor], Tensor]:
    return lambda outputs, labels, _: deeply_supervised_loss(outputs, labels, loss="cross_entropy")


RECIPE = Recipe(
    words="a linear classifier on each hidden layer, whose cross-entropies are added to that of the output",
    line="model = DeeplySupervised(model, classes)"
    '  # loss = deeply_supervised_loss(model(images), labels, loss="cross_entropy")',
    surgery=_supervised,
    loss=_sum_of_losses,
    fits=_fits,
)

STUDY = Study(
    paper="deeply_supervised",
    question="Do classifiers on the hidden layers, trained along, make a small convolutional network more accurate?",
    claim="With a companion on each hidden layer a network has a higher test accuracy than with its output loss alone.",
    arms={
        "output_only": Arm("the loss of the output alone: the method at alpha 0", _Plan(alpha=0.0)),
        "companions": Arm("a companion on each hidden layer, each with weight 1", _Plan()),
        "faded": Arm("the same with the paper's falling weight, from 0.1 to 0", _Plan(faded=True)),
        "slow": Arm("the same at weight 1, companions at a thousandth of the rate as the authors'", _Plan(rate=0.001)),
        "normalised": Arm("control: batch normalization, the loss of the output alone", _Plan(0.0, normalised=True)),
        "longer": Arm("control: the loss of the output alone, twice the steps", _Plan(0.0, longer=2)),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, four hidden layers and some 11 epochs of 1,000 images "
        "at the desk budget: nothing follows for deep networks, nor for long training. Squared hinge losses and a "
        "threshold are not tried; companions see maps as a grid of 4 by 4 means; one weight serves all layers, not "
        "tuned."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    plan = arm.make
    steps = plan.longer * setting.pick(smoke=4, desk=350, gpu=10_000)

    def train(rate: float) -> Trained:
        network = task.network(halved(LeNet))
        network = _normalised(network) if plan.normalised else network
        optimizer = SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        if not plan.alpha:
            schedule = warmed_cosine(optimizer, steps)
            return task.fit(network, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule)
        model, step = DeeplySupervised(network, task.classes, generator=setting.generator("method")), count()
        optimizer.add_param_group({"params": model.heads.parameters(), "lr": plan.rate * rate})

        def loss(outputs: Any, labels: Tensor) -> Tensor:
            weight = companion_weight(plan.alpha, next(step), steps) if plan.faded else plan.alpha
            return deeply_supervised_loss(outputs, labels, weight, loss="cross_entropy")

        schedule = warmed_cosine(optimizer, steps)
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, loss=loss, schedule=schedule)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    return task.outcome(tuned, metrics=tuned.best.accuracy_and_loss, arguments=plan._asdict())
