"""Learned Padé activations match or beat the best fixed activation without a choice among them (Molina et al. 2020).

A LeNet learns from few images, as in the authors' smallest experiment: Adam with one rate for weights and coefficients,
gradients clipped at norm 5, no weight decay; unlike theirs, the rate falls to a tenth after three quarters of the
steps. Wherever the network has a ReLU it has the arm's activation; the weights start the same. Every arm has its own
rate, chosen on validation images. The headline is test accuracy. Who learns fast is told by the mean training loss over
the first quarter of the steps, at the rate that makes it lowest.

What it can show: whether activations learned layer by layer make this network better than ReLU does, or than the same
quotients do when they are frozen at their start, nearly a leaky ReLU. What it cannot: anything about deep networks or
ImageNet, and whether Padé units spare the choice where ReLU is a bad one. An accuracy below ReLU's would refute the
claim here; a gain that the frozen quotients have too is the shape's, not the learning's. One learned number a layer
(PReLU) asks whether ten are needed. A quotient costs more than a comparison: ReLU with more steps, which takes about
the computing time of Padé units on a CPU, asks whether that is better spent on training. Since high powers of large
inputs make coefficients touchy, a variant learns them at a tenth of the rate of the weights.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.architecture.pade_activation import PAU, replace_activations
from paperweight.errors import InputError
from paperweight.loops import tune
from paperweight.nets import LeNet, count_parameters
from paperweight.studies import ACCURACY, EARLY_LOSS, TEST_LOSS, Arm, Outcome, Setting, Study, Trained, classification

_RATES = (0.0006, 0.002, 0.006, 0.02, 0.06)
_BATCH = 32
_NORM = 5.0


class _Plan(NamedTuple):
    """What makes an activation, whether it is learned, and factors of its rate and of the steps."""

    activation: Callable[[], nn.Module]
    learned: bool = True
    rate_factor: float = 1.0
    step_factor: int = 1


STUDY = Study(
    paper="pade_activation",
    question="Does a network classify better if each layer learns its activation, once every arm has its own rate?",
    claim="Padé activations learned from a start as leaky ReLU give a higher test accuracy than ReLU.",
    arms={
        "relu": Arm("ReLU", _Plan(nn.ReLU)),
        "pade": Arm("Padé units, learned at the rate of the weights, from a start as leaky ReLU", _Plan(PAU)),
        "pade_slower": Arm(
            "the same Padé units, learned at a tenth of the rate of the weights", _Plan(PAU, rate_factor=0.1)
        ),
        "pade_frozen": Arm("control: the same Padé units, not learned", _Plan(PAU, learned=False)),
        "prelu": Arm("control: one number a layer learned, the slope on the negative side", _Plan(nn.PReLU)),
        "relu_longer": Arm(
            "control: ReLU with twice the steps, about the computing time of Padé units", _Plan(nn.ReLU, step_factor=2)
        ),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "early_loss": EARLY_LOSS,
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 5 tries an arm and seed, about a factor of 3 apart, from one grid: by validation loss, and "
        "for the loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, a network of five layers and a few hundred steps: nothing follows for deep networks or long "
        "training. Only the start as leaky ReLU with degrees 5 and 4 is tried, without the noisy unit."
    ),
    seeds=20,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 400, 790), gpu=(20_000, 5_000, 10_000))
    least_steps = setting.pick(smoke=20, desk=200, gpu=5_000)
    steps, quarter = least_steps * arm.make.step_factor, max(1, least_steps // 4)

    def train(rate: float) -> Trained:
        model = _network(arm.make, task.network(LeNet)).to(setting.device)
        optimizer = _adam(model, rate, arm.make.rate_factor)
        schedule = MultiStepLR(optimizer, [steps * 3 // 4])
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[:quarter].mean().item(), better="lower")
    return task.outcome(
        tuned,
        metrics={
            "accuracy": tuned.best.tested.accuracy,
            "test_loss": tuned.best.tested.loss,
            "early_loss": early.scores[early.value],
        },
        made={"activation": partial(arm.make.activation), "optimizer": tuned.best.optimizer},
        more_tuned={"lr_of_first_quarter": early},
        arguments={
            "activation_learned": arm.make.learned,
            "lr_of_activation": tuned.value * arm.make.rate_factor,
            "parameters": count_parameters(tuned.best.model),
            "batch_size": _BATCH,
            "steps": steps,
        },
        curves=_shapes(tuned.best.model),
    )


def _network(plan: _Plan, network: nn.Module) -> nn.Module:
    """Return the network with the arm's activations in the place of its ReLUs."""
    try:
        return replace_activations(network, lambda: plan.activation().requires_grad_(plan.learned))
    except ValueError as error:
        raise InputError(f"network cannot be given other activations: {error}") from error


def _adam(model: nn.Module, rate: float, rate_factor: float) -> Adam:
    """Return Adam, with another rate for Padé units, which clips the gradients of all that is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    units = {p for module in model.modules() if isinstance(module, PAU) for p in module.parameters()}
    groups = [{"params": [p], "lr": rate * rate_factor if p in units else rate} for p in trained]
    adam = Adam(groups, lr=rate)

    def clip(*_: object) -> None:
        clip_grad_norm_(trained, _NORM)

    adam.register_step_pre_hook(clip)
    return adam


@torch.no_grad()
def _shapes(model: nn.Module) -> dict[str, list[tuple[float, float]]]:
    """Return the learned activations on [-3, 3]."""
    units = [module for module in model.modules() if isinstance(module, PAU | nn.PReLU)]
    x = torch.linspace(-3, 3, 41)
    return {
        f"activation {number}, by input": list(zip(x.tolist(), unit.cpu()(x).tolist(), strict=True))
        for number, unit in enumerate(units, start=1)
    }
