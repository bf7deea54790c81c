"""Lookahead improves SGD and Adam, lowers their variance and is robust to the learning rate (Zhang et al. 2019).

A small convolutional network learns from few images with momentum 0.9, weight decay 5e-4 and a rate that falls to a
fifth after 30, 60 and 80% of the steps, as in the authors' CIFAR experiments; Lookahead has their k = 5 and the alpha
of 0.5 of their other ones. Every arm is evaluated just after a synchronisation, at the rate that is best on validation
images. The headline is test accuracy; the mean over all rates tells how much the choice of the rate matters. Beside it
stands the paper's noisy quadratic, with SGD without momentum inside: the excess loss that stays at a common constant
rate, and the one after few steps at the rate that is best for the arm, with the same decay of the rate.

What it can show: whether Lookahead makes this network more accurate or less sensitive to its rate, and whether less
noise on the quadratic is more than the smaller step that brings it. What it cannot: anything about ImageNet, language
models or long training. An accuracy that is not higher, or a mean over the rates that is not higher, would refute the
claim here. Lookahead at a constant rate asks whether it stands in for the decay, where SGD's own noise would count. The
control beside it takes the same average of SGD's weights, but leaves the weights in training alone: what it gains, too,
is due to averaging, and not to going back. With the decay it would be SGD itself, since at the end the weights hardly
move any more. The two arms with Adam are to be compared with each other.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.data import channel_statistics, normalise
from paperweight.loops import (
    Evaluation,
    ExponentialMovingAverage,
    best_of,
    evaluate_classifier,
    fit_classifier,
    loss_curve,
    minimise,
)
from paperweight.nets import LeNet
from paperweight.optim.lookahead import Lookahead
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="lookahead",
    question="Does Lookahead help SGD with momentum, once both have their own learning rate and a decay of it?",
    claim="Lookahead raises the accuracy that its inner optimizer reaches, lowers its variance and needs less tuning.",
    arms={
        "sgd": "SGD with momentum: the method at alpha 1",
        "lookahead": "Lookahead on it, k = 5, alpha = 0.5, momentum maintained",
        "lookahead_constant": "Lookahead at a learning rate that does not decay",
        "average_constant": "control: SGD at such a rate, evaluated at Lookahead's average, not going back to it",
        "adam": "Adam",
        "lookahead_adam": "Lookahead on Adam, k = 5, alpha = 0.5",
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "test_loss": Metric(label="test loss", unit="nats", better="lower", minimal_effect=0.02),
        "mean_accuracy": Metric(
            label="test accuracy, mean over all learning rates", unit="", better="higher", minimal_effect=0.01
        ),
        "noise_floor": Metric(
            label="excess loss of the quadratic at a common rate", unit="", better="lower", minimal_effect=0.02
        ),
        "quadratic_loss": Metric(
            label="excess loss of the quadratic at the best rate", unit="", better="lower", minimal_effect=0.02
        ),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 6 tries an arm and seed, a factor of about 2 apart in each grid: by validation loss for "
        "the network, by the excess loss itself on the quadratic"
    ),
    limits=(
        "Small images, a small network and 500 steps at the desk budget: nothing follows for long training or other "
        "models; k, alpha, momentum and weight decay are those of the paper, not tuned. The common rate of the "
        "quadratic is 0.5 for SGD and 0.1 for Adam, so that its noise compares arms of the same inner optimizer alone."
    ),
)

_K = 5
_ALPHA = 0.5
_BATCH = 32
_SGD_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_ADAM_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_QUADRATIC_RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 2.4)
_COPIES = 200


def run(arm: str, setting: Setting) -> Outcome:
    """Train the network and descend the quadratic with each rate; report the best and the mean."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=300, gpu=20_000),
        validation=setting.pick(smoke=50, desk=500, gpu=5_000),
        test=setting.pick(smoke=50, desk=990, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=500, gpu=8_000)
    rates = _ADAM_RATES if "adam" in arm else _SGD_RATES
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )
    tries: list[tuple[Evaluation, Evaluation, float, Tensor]] = []
    for rate in rates:
        model = setting.network(data.shape, len(data.classes), default=LeNet)
        optimizer = _optimizer(arm, model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        average = ExponentialMovingAverage(model, decay=1 - _share(arm))

        def update(step: int, _: Tensor, average=average, model=model) -> None:
            if (step + 1) % _K == 0:
                average.update(model)

        losses = fit_classifier(
            model,
            optimizer,
            images,
            data.train.labels,
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            schedule=_schedule(arm, optimizer, steps),
            on_step=update,
        )
        chosen = evaluate_classifier(average.average, validation, data.validation.labels)
        tries.append((chosen, evaluate_classifier(average.average, test, data.test.labels), rate, losses))
    _, tested, rate, losses = best_of(tries, lambda attempt: attempt[0].loss, better="lower")
    floor, courses = _quadratics(arm, setting)
    best = best_of(courses, lambda rate: courses[rate][-1], better="lower")
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "mean_accuracy": sum(tested.accuracy for _, tested, *_ in tries) / len(tries),
            "noise_floor": floor,
            "quadratic_loss": courses[best][-1],
        },
        arguments={
            "learning_rate": rate,
            "learning_rate_of_quadratic": best,
            "tries": len(rates),
            "k": _K,
            "alpha": _alpha(arm),
            "batch_size": _BATCH,
            "steps": steps,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "test accuracy, by log10 learning rate": [(math.log10(rate), done.accuracy) for _, done, rate, _ in tries],
            "excess loss of the quadratic, by step": [
                (float(_K * (i + 1)), value) for i, value in enumerate(courses[best])
            ],
        },
        correct=tested.correct,
    )


def _alpha(arm: str) -> float:
    return _ALPHA if arm.startswith("lookahead") else 1.0


def _share(arm: str) -> float:
    """Return the share of the weights in training that each update adds to the average that is evaluated."""
    return _ALPHA if arm == "average_constant" else 1.0


def _optimizer(arm: str, parameters: Iterable[Tensor], rate: float, momentum: float, weight_decay: float) -> Lookahead:
    if "adam" in arm:
        inner = torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay)
    else:
        inner = torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=weight_decay)
    return Lookahead(inner, k=_K, alpha=_alpha(arm))


def _schedule(arm: str, optimizer: Lookahead, steps: int) -> MultiStepLR:
    decays = [] if arm.endswith("_constant") else [steps * share // 10 for share in (3, 6, 8)]
    return MultiStepLR(optimizer, decays, gamma=0.2)


def _quadratics(arm: str, setting: Setting) -> tuple[float, dict[float, list[float]]]:
    """Descend sum(a (x - c)^2) / 2 from 3, ten curvatures a from 0.1 to 1, with normal c drawn anew in each step.

    Returns the mean excess loss over the last half of a long descent at a constant rate, and the course of that of a
    short one at each rate.
    """
    long, short = setting.pick(smoke=(50, 20), desk=(500, 100), gpu=(2_000, 100))
    curvature = torch.logspace(-1, 0, 10)
    targets = torch.randn(long, _COPIES, 10, generator=setting.generator("evaluation"))

    def descend(rate: float, steps: int, constant: bool) -> list[float]:
        x = torch.full((_COPIES, 10), 3.0, requires_grad=True)
        optimizer = _optimizer(arm, [x], rate, momentum=0.0, weight_decay=0.0)
        average = x.detach().clone()
        course: list[float] = []

        def record(step: int, _: Tensor) -> None:
            if (step + 1) % _K == 0:
                average.lerp_(x.detach(), _share(arm))
                course.append((curvature * average.square()).sum(dim=1).mean().item() / 2)

        minimise(
            lambda target: (curvature * (x - target).square()).sum() / 2,
            optimizer,
            targets,
            steps=steps,
            schedule=None if constant else _schedule(arm, optimizer, steps),
            on_step=record,
        )
        return course

    late = descend(0.1 if "adam" in arm else 0.5, long, constant=True)[long // _K // 2 :]
    return sum(late) / len(late), {rate: descend(rate, short, constant=False) for rate in _QUADRATIC_RATES}
