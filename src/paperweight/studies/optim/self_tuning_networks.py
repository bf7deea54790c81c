"""Dropout rates tuned while a network trains beat fixed ones found by search in the same time (MacKay et al. 2019).

A small network learns characters at half their size from so few images that it overfits, by Adam, its rate rising over
a tenth of the steps and falling along a cosine. Each of its layers has dropout on its inputs. The self-tuning network
starts at dropout rates of 0.05 and moves them by its loss on validation images, after every second step once a tenth of
the steps are taken. The baseline is a search at random among rates below 0.9, which is the range of the self-tuning
network, too, of as many trainings as take about its time; it chooses on the same validation images.

What it can show: whether tuning while training gives a better network than a search that takes as long. A test loss
that is not lower would refute the claim here. A search over one rate for all layers is what many would do instead. The
rates that self-tuning ends at, fixed in a plain network from the beginning, ask whether it is the course of the rates
that helps, or their last values; a network that responds to rates that stay at 0.05 asks whether it is more weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.optim import Adam

from paperweight.loops import best_of, tune, warmed_cosine
from paperweight.nets import MLP, halved
from paperweight.optim.self_tuning_networks import SelfTuned, SelfTuner
from paperweight.studies import (
    ACCURACY,
    TEST_LOSS,
    Arm,
    Classification,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)
from paperweight.studies.optim._dropouts import Alternation, Passes, fits_self_tuning, responding, with_dropouts

Attempt = Callable[[Classification, float, torch.Generator], Trained]

_LRS = (0.002, 0.005, 0.012, 0.03)
_DRAWS = 3
_SHARED = (0.1, 0.2, 0.4)
_BATCH = 32
_HYPER_LR = 0.05


def _steps(task: Classification) -> int:
    return task.setting.pick(smoke=6, desk=300, gpu=8_000)


def _network(task: Classification) -> nn.Module:
    return task.network(halved(partial(MLP, hidden=(128,))))


def _fixed(task: Classification, lr: float, rates: Sequence[float]) -> Trained:
    """Train a plain network with dropout at these rates."""
    model, steps = with_dropouts(_network(task), rates), _steps(task)
    optimizer = Adam(model.parameters(), lr=lr)
    return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=warmed_cosine(optimizer, steps))


def _best(trainings: Sequence[Trained]) -> Trained:
    return best_of(trainings, lambda tried: tried.validated.loss, better="lower")


def _searched(task: Classification, lr: float, generator: torch.Generator) -> Trained:
    """Train at random rates, and take the best."""
    layers = sum(isinstance(part, nn.Linear | nn.Conv2d) for part in _network(task).modules())
    draws = 0.9 * torch.rand(_DRAWS, layers, generator=generator)
    return _best([_fixed(task, lr, rates.tolist()) for rates in draws])


def _shared(task: Classification, lr: float, generator: torch.Generator) -> Trained:
    """Train with one rate for all layers, at each of a grid, and take the best."""
    layers = sum(isinstance(part, nn.Linear | nn.Conv2d) for part in _network(task).modules())
    return _best([_fixed(task, lr, [rate] * layers) for rate in _SHARED])


def _self_tuned(task: Classification, lr: float, generator: torch.Generator, *, tuned: bool = True) -> Trained:
    """Train a network that responds to its dropout rates, which are tuned, or stay as they were."""
    model, steps = task.setting.initialised(lambda: responding(_network(task))), _steps(task)
    optimizer = Adam(model.parameters(), lr=lr)
    tuner = SelfTuner(model, optimizer, hyper_lr=_HYPER_LR, generator=generator)
    warm_up = steps // 10 if tuned else None
    alternation = Alternation(
        tuner, task.train, task.data.validation, _BATCH, warm_up, task.setting.generator("batches")
    )
    trained = task.fit_by(alternation, steps, warmed_cosine(optimizer, steps))
    return replace(trained, made={"tuner": tuner}, arguments={"steps": steps, "batch_size": _BATCH})


def _ended(task: Classification, lr: float, generator: torch.Generator) -> Trained:
    """Train a plain network at the rates that self-tuning ended at."""
    return _fixed(task, lr, _rates(_self_tuned(task, lr, generator)))


def _rates(trained: Trained) -> list[float]:
    """Give the dropout rates of a network, in the order of its layers."""
    if isinstance(trained.model, SelfTuned):
        return list(trained.model.present().values())
    return [part.p for part in trained.model.modules() if isinstance(part, nn.Dropout | nn.Dropout2d)]


RECIPE = Recipe(
    words="dropout before each layer, at rates from 0.05 that are tuned on a fifth of the training images, set aside; "
    "the rate of learning falls between epochs",
    line="tuner = SelfTuner(self_tuned(model), optimizer, hyper_lr=0.05, generator=generator)  # step and tune in turn",
    surgery=responding,
    training=Passes,
    fits=fits_self_tuning,
)

STUDY = Study(
    paper="self_tuning_networks",
    question="Does tuning dropout rates while a network trains give a better one than a search that takes as long?",
    claim="A self-tuning network has a lower test loss than the best of a random search over its dropout rates.",
    arms={
        "searched": Arm("the best of 3 plain networks at random rates", _searched),
        "self_tuned": Arm("a self-tuning network, its rates from 0.05", _self_tuned),
        "shared": Arm("control: the best of 3 plain networks with one rate for all layers, from a grid", _shared),
        "ended": Arm("control: a plain network at the rates that self-tuning ended at, from the beginning", _ended),
        "untuned": Arm(
            "control: a network that responds, its rates at 0.05 throughout", partial(_self_tuned, tuned=False)
        ),
    },
    metrics={
        "test_loss": TEST_LOSS,
        "accuracy": ACCURACY,
        "validation_loss": Metric.lower("validation loss, which all of them choose by", 0.02, "nats"),
    },
    headline="test_loss",
    tuned=(
        "the learning rate, 4 tries an arm and seed, a factor of about 2.5 apart, from one grid, and at each the rates "
        "as the arm says: by validation loss"
    ),
    limits=(
        "Small images, few of them, and as many to validate on, which one might rather train on; one small network and "
        "two dropout rates, where a search has it easier than with many, and no Bayesian search. A search at random "
        "below 0.9 spends draws on rates that are far too high; one over a common rate, its grid set by what is usual, "
        "does not, and stands beside it. The step size for the rates is one, chosen on other seeds. The search has "
        "about the time of self-tuning, not exactly. The network whose rates stay at 0.05 chose the lowest learning "
        "rate in all of 10 seeds, so that it may do better still."
    ),
    seeds=10,
)


def run(arm: Arm[Attempt], setting: Setting) -> Outcome:
    """Train with each learning rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(60, 40, 50), desk=(200, 200, 4_000), gpu=(5_000, 1_000, 10_000), default="glyphs"
    )
    generator = setting.generator("method")
    tuned = tune(_LRS, lambda lr: arm.make(task, lr, generator), lambda tried: tried.validated.loss, better="lower")
    best = tuned.best
    return task.outcome(
        tuned,
        metrics={**best.accuracy_and_loss, "validation_loss": best.validated.loss},
        arguments={f"rate_{number}": round(rate, 3) for number, rate in enumerate(_rates(best))},
        curves={"test loss, by log10 lr": tuned.curve(lambda tried: tried.tested.loss)},
    )
