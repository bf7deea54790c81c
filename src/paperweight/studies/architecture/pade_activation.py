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

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.architecture.pade_activation import PAU, replace_activations
from paperweight.data import channel_statistics, normalise
from paperweight.errors import InputError
from paperweight.loops import Evaluation, best_of, evaluate_classifier, fit_classifier, loss_curve
from paperweight.nets import LeNet, count_parameters
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="pade_activation",
    question="Does a network classify better if each layer learns its activation, once every arm has its own rate?",
    claim="Padé activations learned from a start as leaky ReLU give a higher test accuracy than ReLU.",
    arms={
        "relu": "ReLU",
        "pade": "Padé units, learned at the rate of the weights, from a start as leaky ReLU",
        "pade_slower": "the same Padé units, learned at a tenth of the rate of the weights",
        "pade_frozen": "control: the same Padé units, not learned",
        "prelu": "control: one number a layer learned, the slope on the negative side",
        "relu_longer": "control: ReLU with twice the steps, about the computing time of Padé units",
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "test_loss": Metric(label="test loss", unit="nats", better="lower", minimal_effect=0.02),
        "early_loss": Metric(
            label="training loss, first quarter of the steps", unit="nats", better="lower", minimal_effect=0.05
        ),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 6 tries an arm and seed, about a factor of 3 apart, from one grid: by validation loss, and "
        "for the loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, a network of five layers and a few hundred steps: nothing follows for deep networks or long "
        "training. Only the start as leaky ReLU with degrees 5 and 4 is tried, without the noisy unit."
    ),
)

_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_BATCH = 32
_LONGER = 2
_NORM = 5.0
_SLOWER = 0.1


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=600, gpu=20_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=50, desk=790, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=300, gpu=5_000)
    steps_of_arm = steps * (_LONGER if arm == "relu_longer" else 1)
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )
    tries: list[tuple[Evaluation, nn.Module, float, Tensor]] = []
    for rate in _RATES:
        model = _network(arm, setting.network(data.shape, len(data.classes), default=LeNet)).to(setting.device)
        optimizer = _adam(model, rate, slower=_SLOWER if arm == "pade_slower" else 1.0)
        losses = fit_classifier(
            model,
            optimizer,
            images,
            data.train.labels,
            steps=steps_of_arm,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            schedule=MultiStepLR(optimizer, [steps_of_arm * 3 // 4]),
        )
        tries.append((evaluate_classifier(model, validation, data.validation.labels), model, rate, losses))
    _, model, rate, losses = best_of(tries, lambda attempt: attempt[0].loss, better="lower")
    tested = evaluate_classifier(model, test, data.test.labels)
    early = {rate: losses[: max(1, steps // 4)].mean().item() for *_, rate, losses in tries}
    fastest = best_of(early, lambda rate: early[rate], better="lower")
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "early_loss": early[fastest],
        },
        arguments={
            "learning_rate": rate,
            "learning_rate_of_coefficients": rate * _SLOWER if arm == "pade_slower" else rate,
            "learning_rate_of_first_quarter": fastest,
            "tries": len(_RATES),
            "parameters": count_parameters(model),
            "batch_size": _BATCH,
            "steps": steps_of_arm,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "validation loss, by log10 learning rate": [(math.log10(rate), tried.loss) for tried, _, rate, _ in tries],
            "early training loss, by log10 learning rate": [(math.log10(rate), loss) for rate, loss in early.items()],
            **_shapes(model),
        },
        correct=tested.correct,
    )


def _network(arm: str, network: nn.Module) -> nn.Module:
    """Return the network with the arm's activations in the place of its ReLUs."""
    build = {
        "pade": PAU,
        "pade_slower": PAU,
        "pade_frozen": lambda: PAU().requires_grad_(False),
        "prelu": nn.PReLU,
    }.get(arm, nn.ReLU)
    try:
        return replace_activations(network, build)
    except ValueError as error:
        raise InputError(f"network cannot be given other activations: {error}") from error


def _adam(model: nn.Module, rate: float, slower: float) -> Optimizer:
    """Return Adam, with a smaller rate for Padé units, which clips the gradients of all that is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    units = {p for module in model.modules() if isinstance(module, PAU) for p in module.parameters()}
    adam = torch.optim.Adam([{"params": [p], "lr": rate * slower if p in units else rate} for p in trained])

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
