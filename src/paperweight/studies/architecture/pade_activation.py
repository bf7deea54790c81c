"""Learned Padé activations match or beat the best fixed activation without a choice among them (Molina et al. 2020).

A LeNet learns from few images, as in the authors' smallest experiment: Adam with one rate for weights and coefficients,
gradients clipped at norm 5, no weight decay; unlike theirs, the rate falls to a tenth after three quarters of the
steps. Wherever the network has a ReLU it has the arm's activation. Who learns fast is told by the mean training loss
over the first quarter of the steps, at the rate that makes it lowest.

What it can show: whether activations learned layer by layer make this network better than ReLU does, or than the same
quotients do when they are frozen at their start, nearly a leaky ReLU. An accuracy below ReLU's would refute the claim
here; a gain that the frozen quotients have too is the shape's, not the learning's. PReLU asks whether ten numbers a
layer are needed. A quotient costs more than a comparison: ReLU with more steps asks whether that is better spent on
training. Since high powers of large inputs make coefficients touchy, a variant learns them more slowly.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.architecture.pade_activation import PAU, replace_activations
from paperweight.loops import clip_gradients, tune
from paperweight.nets import LeNet, count_parameters
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

_RATES = (0.0006, 0.002, 0.006, 0.02, 0.06)


class _Plan(NamedTuple):
    """What makes an activation, whether it is learned, and factors of its rate and of the steps."""

    activation: Callable[[], nn.Module]
    learned: bool = True
    rate_factor: float = 1.0
    step_factor: int = 1


RECIPE = Recipe(
    words="every ReLU and its like a Padé unit, learned from a start as leaky ReLU",
    line="model = replace_activations(model, PAU)",
    surgery=lambda model: replace_activations(model, PAU),
)


STUDY = Study(
    paper="pade_activation",
    question="Does a network classify better if each layer learns its activation, once every arm has its own rate?",
    claim="Padé activations learned from a start as leaky ReLU give a higher test accuracy than ReLU.",
    arms={
        "relu": Arm("ReLU", _Plan(nn.ReLU)),
        "pade": Arm("Padé units, learned at the rate of the weights, from a start as leaky ReLU", _Plan(PAU)),
        "pade_slower": Arm("the same units, learned at a tenth of the weights' rate", _Plan(PAU, rate_factor=0.1)),
        "pade_frozen": Arm("control: the same units, not learned", _Plan(PAU, learned=False)),
        "prelu": Arm("control: one number a layer learned, the slope on the negative side", _Plan(nn.PReLU)),
        "relu_longer": Arm(
            "control: ReLU with twice the steps, about the computing time of Padé units", _Plan(nn.ReLU, step_factor=2)
        ),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS, "early_loss": EARLY_LOSS},
    headline="accuracy",
    tuned=(
        "the learning rate, 5 tries an arm and seed, about a factor of 3 apart, from one grid: by validation loss, and "
        "for the loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, a network of five layers and a few hundred steps: nothing follows for deep networks, long "
        "training, or where ReLU is a bad choice. Only the start as leaky ReLU with degrees 5 and 4 is tried, without "
        "the noisy unit."
    ),
    seeds=20,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 400, 790), gpu=(20_000, 5_000, 10_000))
    least_steps = setting.pick(smoke=20, desk=200, gpu=5_000)
    steps, quarter = least_steps * arm.make.step_factor, max(1, least_steps // 4)

    def activation() -> nn.Module:
        return arm.make.activation().requires_grad_(arm.make.learned)

    def train(rate: float) -> Trained:
        model = replace_activations(task.network(LeNet), activation).to(setting.device)
        trained = [p for p in model.parameters() if p.requires_grad]
        units = {p for module in model.modules() if isinstance(module, PAU) for p in module.parameters()}
        factors = [arm.make.rate_factor if p in units else 1.0 for p in trained]
        optimizer = Adam([{"params": [p], "lr": rate * f} for p, f in zip(trained, factors, strict=True)], lr=rate)
        clip_gradients(optimizer, 5.0)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=MultiStepLR(optimizer, [steps * 3 // 4]))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[:quarter].mean().item(), better="lower")
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        made={"activation": partial(arm.make.activation)},
        more_tuned={"lr_of_first_quarter": early},
        arguments={
            "activation_learned": arm.make.learned,
            "lr_of_activation": tuned.value * arm.make.rate_factor,
            "parameters": count_parameters(tuned.best.model),
        },
        curves=_shapes(tuned.best.model),
    )


@torch.no_grad()
def _shapes(model: nn.Module) -> dict[str, list[tuple[float, float]]]:
    """Return the learned activations on [-3, 3]."""
    units = [module.cpu() for module in model.modules() if isinstance(module, PAU | nn.PReLU)]
    x = torch.linspace(-3, 3, 41)
    shapes = [list(zip(x.tolist(), unit(x).tolist(), strict=True)) for unit in units]
    return {f"activation {number}, by input": shape for number, shape in enumerate(shapes, start=1)}
