"""Grams descends faster than AdamW and generalises better (Cao et al. 2024).

A network of one hidden layer learns characters in batches of 32, with weight decay 0.01, betas of 0.9 and 0.999 and a
rate that rises over a tenth of the steps and falls along a cosine; each arm has its own rate. The headline is test
accuracy; who descends fast is told by the early training loss.

What it can show: whether Adam's step sizes in the direction of the present gradient train this network better than
Adam's steps. An accuracy that is not higher and an early loss that is not lower would refute the claim here. Two
controls take the same side in the quarrel of momentum with gradient and ask whether the sizes that Grams keeps matter:
AdamW without momentum follows the gradient in direction and size, and cautious AdamW stays where the two disagree. What
it cannot: anything about language models, which the paper is about, large batches or long training. The paper compares
loss after one step from the same state, where Grams cannot lose to first order on the batch at hand; small batches,
whose gradients' signs are noisy, are where that may not last.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.optim.grams import Grams
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

_DECAY = 0.01
_EPS = 1e-6
_RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)


@final
class _CautiousAdamW(AdamW):
    """AdamW that moves the entries alone whose step points downhill, further by as much as others stay (Liang 2024)."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr, eps=_EPS, weight_decay=_DECAY)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        starts = [p * (1 - group["lr"] * _DECAY) for group in self.param_groups for p in group["params"]]
        super().step(closure)
        for p, start in zip(moving, starts, strict=True):
            moved = p - start
            downhill = (moved * p.grad < 0).to(p.dtype)
            p.copy_(start + moved * downhill / downhill.mean().clamp(min=1e-3))


RECIPE = Recipe(
    words="Grams: Adam's step sizes in the direction of the gradient, with the paper's betas and decay 0.01",
    line="optimizer = Grams(model.parameters(), lr, weight_decay=0.01)",
    optimizer=lambda parameters, lr, _: Grams(parameters, lr=lr, weight_decay=_DECAY),
    lr=0.003,
)

STUDY = Study(
    paper="grams",
    question="Does a classifier learn faster or better with Grams than with AdamW, once each has its own rate?",
    claim="Grams trains a network to a higher test accuracy than AdamW.",
    arms={
        "adamw": Arm("AdamW", partial(AdamW, eps=_EPS, weight_decay=_DECAY)),
        "grams": Arm("Grams", partial(Grams, eps=_EPS, weight_decay=_DECAY)),
        "without_momentum": Arm(
            "control: AdamW without momentum, which is Grams at betas[0] = 0",
            partial(AdamW, betas=(0.0, 0.999), eps=_EPS, weight_decay=_DECAY),
        ),
        "cautious": Arm("control: AdamW that moves only entries whose step points downhill", _CautiousAdamW),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS, "early_loss": EARLY_LOSS},
    headline="accuracy",
    tuned=(
        "the learning rate, 7 tries an arm and seed, a factor of 2 apart, from one grid: by validation loss, and for "
        "the loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions, batches of 32 "
        "and 1,500 steps at the desk budget: nothing follows for language models, large batches or long training. "
        "Betas, eps, weight decay and schedule are not tuned, and Lion is not among the arms. The lowest rate was "
        "added after a first weighing on the same seeds, in which the cautious control mostly chose the lowest."
    ),
    seeds=16,
)


def run(arm: Arm[Callable[..., Optimizer]], setting: Setting) -> Outcome:
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
        optimizer = arm.make(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[: max(1, steps // 4)].mean().item(), better="lower")
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        more_tuned={"lr_of_first_quarter": early},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
