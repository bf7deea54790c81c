"""AdaBelief converges as fast as Adam and generalises as well as SGD (Zhuang et al. 2020).

A small residual network learns from few images, as in the authors' CIFAR experiments: batch normalization, momentum or
beta1 0.9, weight decay 5e-4 added to the gradient (AdamW: decoupled, 0.01), the rate divided by ten after three
quarters of the steps. Every arm has its own rate, chosen on validation images. The headline is test accuracy. Who
converges fast is told by the mean training loss over the first quarter of the steps, at the rate that makes it lowest.

What it can show: whether dividing by the departure from the predicted gradient, and not by the gradient's size, trains
this network faster or better. What it cannot: anything about ImageNet, language models or adversarial networks. An
accuracy below Adam's or SGD's, or an early loss above Adam's, would refute the claim here. The control would take the
credit: AdaBelief adds eps to its average in every step, which at the paper's 1e-8 sets a floor of 0.003 under every
denominator and pulls the method towards SGD. Adam with that floor differs from AdaBelief in the belief alone. The
method at its null setting is SGD without momentum, which nobody would train this network with; so Adam is the baseline.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, fit_classifier, loss_curve
from paperweight.nets import ResNet
from paperweight.optim.adabelief import AdaBelief
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="adabelief",
    question="Does an image classifier learn faster or better with AdaBelief, once every optimizer has its own rate?",
    claim="AdaBelief trains a residual network as fast as Adam and to a higher test accuracy.",
    arms={
        "adam": "Adam with weight decay in the gradient",
        "adabelief": "AdaBelief with the paper's eps for images, 1e-8, and the weight decay of Adam",
        "adabelief_small_eps": "AdaBelief with eps 1e-16, the default of the authors' package",
        "adam_eps_inside": "control: Adam whose average of squares grows by eps 1e-8 in every step, as in AdaBelief",
        "adamw": "AdamW",
        "sgd": "SGD with momentum and the weight decay of Adam",
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
        "the learning rate, 4 tries an arm and seed, a factor of 3 apart in each grid: by validation loss, and for the "
        "loss of the first quarter by that loss"
    ),
    limits=(
        "Small images, a small network and 300 steps at the desk budget: nothing follows for long training, where the "
        "paper sees its gain, or for other models; weight decay, betas and eps are the paper's for images, not tuned."
    ),
)

_EPS = 1e-8
_DECAY = 5e-4
_BATCH = 32
_ADAPTIVE_RATES = (0.003, 0.01, 0.03, 0.1)
_SGD_RATES = (0.03, 0.1, 0.3, 1.0)


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=300, gpu=20_000),
        validation=setting.pick(smoke=50, desk=500, gpu=5_000),
        test=setting.pick(smoke=50, desk=990, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=300, gpu=8_000)
    rates = _SGD_RATES if arm == "sgd" else _ADAPTIVE_RATES
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )
    tries: list[tuple[Evaluation, Evaluation, float, Tensor]] = []
    for rate in rates:
        model = setting.network(data.shape, len(data.classes), default=partial(ResNet, width=8))
        optimizer = _optimizer(arm, list(model.parameters()), rate)
        losses = fit_classifier(
            model,
            optimizer,
            images,
            data.train.labels,
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            schedule=MultiStepLR(optimizer, [steps * 3 // 4]),
        )
        chosen = evaluate_classifier(model, validation, data.validation.labels)
        tries.append((chosen, evaluate_classifier(model, test, data.test.labels), rate, losses))
    _, tested, rate, losses = best_of(tries, lambda attempt: attempt[0].loss, better="lower")
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
            "learning_rate_of_first_quarter": fastest,
            "tries": len(rates),
            "weight_decay": 0.01 if arm == "adamw" else _DECAY,
            "eps": {"sgd": 0.0, "adabelief_small_eps": 1e-16}.get(arm, _EPS),
            "batch_size": _BATCH,
            "steps": steps,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "validation loss, by log10 learning rate": [
                (math.log10(rate), chosen.loss) for chosen, _, rate, _ in tries
            ],
            "early training loss, by log10 learning rate": [(math.log10(rate), loss) for rate, loss in early.items()],
        },
        correct=tested.correct,
    )


def _optimizer(arm: str, parameters: list[Tensor], rate: float) -> Optimizer:
    if arm == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=_DECAY)
    if arm == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, eps=_EPS, weight_decay=0.01)
    if arm == "adabelief":
        return AdaBelief(parameters, lr=rate, eps=_EPS, weight_decay=_DECAY, weight_decouple=False)
    if arm == "adabelief_small_eps":
        return AdaBelief(parameters, lr=rate, eps=1e-16, weight_decay=_DECAY, weight_decouple=False)
    adam = torch.optim.Adam(parameters, lr=rate, eps=_EPS, weight_decay=_DECAY)
    if arm == "adam_eps_inside":
        _add_eps_in_every_step(adam, parameters)
    return adam


def _add_eps_in_every_step(adam: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Make Adam's average of squares v = b2 v + (1 - b2) g^2 + eps."""
    beta2 = adam.defaults["betas"][1]
    for p in parameters:
        adam.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def add(*_: object) -> None:
        for state in adam.state.values():
            state["exp_avg_sq"] += _EPS / beta2

    adam.register_step_pre_hook(add)
