"""AdaBelief converges as fast as Adam and generalises as well as SGD (Zhuang et al. 2020).

A small residual network learns characters at half their size, as in the authors' CIFAR experiments: batch
normalization, momentum or beta1 0.9, weight decay 5e-4 added to the gradient (AdamW: decoupled, 0.01), the rate divided
by ten after three quarters of the steps. Who converges fast is told by the early training loss.

What it can show: whether dividing by the departure from the predicted gradient, and not by the gradient's size, trains
this network faster or better. An accuracy below Adam's or SGD's, or an early loss above Adam's, would refute the claim.
AdaBelief adds eps to its average in every step, which at the paper's 1e-8 sets a floor of 0.003 under every denominator
and pulls it towards SGD. The control, Adam with that floor, differs in the belief alone: what it gains as well is not
due to the belief. At its null setting the method is SGD without momentum, which nobody would use; so Adam is the
baseline.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.loops import tune
from paperweight.nets import ResNet
from paperweight.optim.adabelief import AdaBelief
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

_EPS = 1e-8
_DECAY = 5e-4


def _adam_with_floor(parameters: Iterable[Tensor], lr: float) -> Adam:
    """Make Adam whose average of squares is v = b2 v + (1 - b2) g^2 + eps."""
    parameters = list(parameters)
    adam = Adam(parameters, lr=lr, eps=_EPS, weight_decay=_DECAY)
    beta2 = adam.defaults["betas"][1]
    for p in parameters:
        adam.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def add(*_: object) -> None:
        for state in adam.state.values():
            state["exp_avg_sq"] += _EPS / beta2

    adam.register_step_pre_hook(add)
    return adam


class _Plan(NamedTuple):
    """What makes the optimizer from parameters and lr, and the rates to try."""

    optimizer: Callable[..., Optimizer]
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)


def _belief(eps: float) -> _Plan:
    return _Plan(partial(AdaBelief, eps=eps, weight_decay=_DECAY, weight_decouple=False))


RECIPE = Recipe(
    words="AdaBelief with the paper's eps for images, 1e-8, and weight decay 5e-4 in the gradient",
    line="optimizer = AdaBelief(model.parameters(), lr, eps=1e-8, weight_decay=5e-4, weight_decouple=False)",
    optimizer=lambda parameters, lr, _: _belief(_EPS).optimizer(parameters, lr=lr),
    lr=0.01,
)

STUDY = Study(
    paper="adabelief",
    question="Does an image classifier learn faster or better with AdaBelief, once every optimizer has its own rate?",
    claim="AdaBelief trains a residual network as fast as Adam and to a higher test accuracy.",
    arms={
        "adam": Arm("Adam with weight decay in the gradient", _Plan(partial(Adam, eps=_EPS, weight_decay=_DECAY))),
        "adabelief": Arm(
            "AdaBelief with the paper's eps for images, 1e-8, and the weight decay of Adam", _belief(_EPS)
        ),
        "adabelief_small_eps": Arm("AdaBelief with eps 1e-16, the default of the authors' package", _belief(1e-16)),
        "adam_eps_inside": Arm(
            "control: Adam whose average of squares grows by eps 1e-8 in every step, as in AdaBelief",
            _Plan(_adam_with_floor),
        ),
        "adamw": Arm("AdamW", _Plan(partial(AdamW, eps=_EPS, weight_decay=0.01))),
        "sgd": Arm(
            "SGD with momentum and the weight decay of Adam",
            _Plan(partial(SGD, momentum=0.9, weight_decay=_DECAY), rates=(0.03, 0.1, 0.3, 1.0)),
        ),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS, "early_loss": EARLY_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor 3 apart: by validation loss, the early loss by itself",
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network and 400 steps at the desk budget: "
        "nothing follows for long training, where the paper sees its gain, for ImageNet, language models or "
        "adversarial networks; weight decay, betas and eps are the paper's for images, not tuned."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=20, desk=400, gpu=8_000)

    def train(rate: float) -> Trained:
        model = task.network(lambda shape, classes: nn.Sequential(nn.AvgPool2d(2), ResNet(shape, classes, width=8)))
        optimizer = arm.make.optimizer(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=MultiStepLR(optimizer, [steps * 3 // 4]))

    tuned = tune(arm.make.rates, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[: max(1, steps // 4)].mean().item(), better="lower")
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        more_tuned={"lr_of_first_quarter": early},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
