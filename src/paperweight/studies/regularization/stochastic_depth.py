"""Dropping residual blocks in training lowers the test error and takes a quarter less time (Huang et al. 2016).

A deep and narrow residual network learns digits from few images, with the authors' optimizer: Nesterov momentum 0.9,
weight decay 1e-4, and a rate that falls to a tenth after half and after three quarters of the steps. All arms take the
same number of steps, so that what dropping saves is in the ratio of costs. The headline is test accuracy.

What it can show: whether a network of 26 layers that overfits gets better by stochastic depth, and what time that
takes. An accuracy not above that of constant depth would refute the claim here, and so would a cost that is not lower.
A network with about as many blocks as survive on average asks whether blocks that are there for a part of the steps are
of use at all; equal probabilities with the same expected depth ask whether it matters which blocks are dropped.
What it cannot show: anything about networks of a hundred layers and more, for which the paper was written, or about
training of hundreds of epochs on many images. The norm of the first layer's gradient, which the paper says is larger
with stochastic depth, is a curve.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.loops import loss_curve, tune
from paperweight.nets import ResNet, count_parameters
from paperweight.regularization.stochastic_depth import StochasticDepth, add_stochastic_depth, linear_decay_survival
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Recipe, Setting, Study, Trained, classification

_RATES = (0.004, 0.02, 0.1, 0.5)
_BATCH = 64


def _uniform(branches: int, p_last: float) -> list[float]:
    """Give all branches the mean of linear decay, so that as many are expected to survive."""
    return [sum(linear_decay_survival(branches, p_last)) / branches] * branches


class _Plan(NamedTuple):
    """How likely the branches survive, and whether the network has fewer of them."""

    survival: Callable[[int], Sequence[float]]
    shallower: bool = False


_ALWAYS = partial(linear_decay_survival, p_last=1.0)

RECIPE = Recipe(
    words="residual branches dropped at random in training, the last in half of the steps",
    line="model = add_stochastic_depth(model)",
    surgery=lambda model: add_stochastic_depth(model),
)

STUDY = Study(
    paper="stochastic_depth",
    question="Does a deep residual network classify better if blocks are dropped in training, and is it faster?",
    claim="Stochastic depth with linear decay to 0.5 gives a higher test accuracy than constant depth, in less time.",
    arms={
        "constant": Arm("constant depth: the method at survival 1", _Plan(_ALWAYS)),
        "linear": Arm(
            "stochastic depth, survival falls linearly to 0.5", _Plan(partial(linear_decay_survival, p_last=0.5))
        ),
        "uniform": Arm(
            "control: one survival for all blocks, the same expected depth", _Plan(partial(_uniform, p_last=0.5))
        ),
        "shallower": Arm(
            "control: constant depth, with about as many blocks as survive on average", _Plan(_ALWAYS, shallower=True)
        ),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of 5 apart, from one grid: by validation loss",
    limits=(
        "Small images, a network of 26 layers and 4 to 16 channels, no augmentation, some 50 epochs of 600 images: "
        "nothing follows for much deeper networks, longer training or more data. The survival of the last block is the "
        "paper's 0.5, not tuned. With a network of one's own the shallower control is that network. Weighed before "
        "with 12 of these pairs and no rate of 0.004, which a control would have liked: -0.003, of an interval from "
        "-0.010 to 0.005."
    ),
    seeds=24,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 300, 890), gpu=(20_000, 5_000, 10_000))
    steps = setting.pick(smoke=4, desk=500, gpu=20_000)
    depths = setting.pick(smoke=(14, 8), desk=(26, 20), gpu=(56, 44))
    build = partial(ResNet, depth=depths[arm.make.shallower], width=setting.pick(smoke=4, desk=4, gpu=16))
    norms: dict[float, list[Tensor]] = {}

    def train(rate: float) -> Trained:
        draws = setting.generator("method")
        model = add_stochastic_depth(task.network(build), arm.make.survival, generator=draws)
        first, seen = next(model.parameters()), norms.setdefault(rate, [])

        def look(*_: object) -> None:
            seen.append(torch.zeros(()) if first.grad is None else first.grad.norm())

        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
        schedule = MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule, on_step=look)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    branches = [module for module in tuned.best.model.modules() if isinstance(module, StochasticDepth)]
    return task.outcome(
        tuned,
        metrics=tuned.best.accuracy_and_loss,
        made={"network": build, "survival": arm.make.survival},
        arguments={
            "blocks": len(branches),
            "expected_blocks": sum(branch.survival for branch in branches),
            "parameters": count_parameters(tuned.best.model),
        },
        curves={"norm of the first layer's gradient, by step": loss_curve(torch.stack(norms[tuned.value]))},
    )
