"""Early-learning regularization keeps a network from memorising wrong labels (Liu et al. 2020).

Two labels in five are wrong, each another class with equal probability: in training and in validation, since whoever
has wrong labels has them in both. Test labels are right. A small fully connected network trains with the authors'
rate 0.02, momentum 0.9 and constant schedule for long enough to memorise. Each arm tunes one strength on validation
images: ELR its weight, cross-entropy its weight decay, which for all other arms is the authors' 1e-3. The headline is
test accuracy at the end; memorised are those wrong labels of the training set that the network predicts.

What it can show: whether ELR is better than what a practitioner has anyway, on these images. What it cannot: anything
about large networks, labels that are wrong in a pattern, or ELR+. A test accuracy not above that of cross-entropy
would refute the claim; as high a one by stopping early, by smoothed labels or by the network's present predictions in
place of past ones (bootstrapping) would take the credit, and so would targets of other examples in place of one's own.
That cross-entropy memorises at the authors' weight decay is in its curve by strength, at the lowest; tuned decay
prevents that, too. Baseline and method are thus both at their best. Cross-entropy is torch's own, which the method
equals at lam 0 bit for bit, so that its cost is not the method's.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, fit_classifier, loss_curve
from paperweight.nets import MLP
from paperweight.regularization.early_learning_regularization import ELRLoss
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="early_learning_regularization",
    question="With 40% wrong labels, does ELR classify better than cross-entropy, once each has its best strength?",
    claim="A network trained with ELR memorises fewer wrong labels than one trained with cross-entropy, and errs less.",
    arms={
        "cross_entropy": "cross-entropy, which the method is at lam 0, with tuned weight decay",
        "elr": "ELR with tuned weight of the penalty and the paper's beta, 0.7",
        "shuffled_targets": "control: ELR where each example is compared with the target of another, drawn at random",
        "early_stopping": "control: cross-entropy with tuned weight decay, stopped at the best of 20 points on the way",
        "bootstrapping": "control: labels mixed with the network's present predictions, in tuned proportion",
        "label_smoothing": "control: labels mixed with the uniform distribution, in tuned proportion",
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "memorised": Metric(
            label="wrong training labels that are predicted", unit="fraction", better="lower", minimal_effect=0.02
        ),
        "fitted": Metric(
            label="right training labels that are predicted", unit="fraction", better="higher", minimal_effect=0.01
        ),
    },
    headline="accuracy",
    tuned=(
        "one strength an arm, 4 tries an arm and seed, by accuracy on validation images whose labels are as often "
        "wrong as in training; early stopping chooses among 20 points of each try in the same way"
    ),
    limits=(
        "Small images, one small network, labels wrong at random: nothing follows for large networks or for labels "
        "that are wrong in a pattern. The learning rate and beta are the authors', not tuned."
    ),
)

_WRONG = 0.4
_RATE = 0.02
_MOMENTUM = 0.9
_DECAY = 1e-3
_BETA = 0.7
_BATCH = 64
_POINTS = 20
_DECAYS = (0.001, 0.015, 0.03, 0.06)
_PROPORTIONS = (0.6, 0.8, 0.9, 0.97)
_STRENGTHS = {
    "cross_entropy": _DECAYS,
    "elr": (1.0, 2.0, 4.0, 8.0),
    "shuffled_targets": (0.1, 0.3, 1.0, 3.0),
    "early_stopping": _DECAYS,
    "bootstrapping": _PROPORTIONS,
    "label_smoothing": _PROPORTIONS,
}


class _Point(NamedTuple):
    """What a network achieves after some steps."""

    step: int
    validation: float
    test: Evaluation
    memorised: float
    fitted: float


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each strength; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=800, gpu=20_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=50, desk=590, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=60, desk=1_200, gpu=40_000)
    classes, samples = len(data.classes), len(data.train)
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )
    draw = setting.generator("method")
    labels, validation_labels = (_with_wrong(part.labels, classes, draw) for part in (data.train, data.validation))
    others = torch.randperm(samples, generator=draw).to(setting.device)
    wrong = labels != data.train.labels
    numbered = torch.stack([labels, torch.arange(samples, device=setting.device)], dim=1)

    def train(strength: float) -> tuple[list[_Point], Tensor]:
        model = setting.network(data.shape, classes, default=partial(MLP, hidden=(256,)))
        decay = strength if _STRENGTHS[arm] is _DECAYS else _DECAY
        course: list[_Point] = []

        def look(step: int) -> None:
            course.append(
                _Point(
                    step,
                    evaluate_classifier(model, validation, validation_labels).accuracy,
                    evaluate_classifier(model, test, data.test.labels),
                    evaluate_classifier(model, images[wrong], labels[wrong]).accuracy,
                    evaluate_classifier(model, images[~wrong], labels[~wrong]).accuracy,
                )
            )

        def look_on_the_way(step: int, _: Tensor) -> None:
            taken = step + 1
            if taken % (steps // _POINTS) == 0 and taken < steps:
                look(taken)

        losses = fit_classifier(
            model,
            torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=decay),
            images,
            numbered,
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            loss=_loss(arm, strength, classes, others),
            on_step=look_on_the_way,
        )
        look(len(losses))
        return course, losses

    tries = {strength: train(strength) for strength in _STRENGTHS[arm]}

    def chosen(course: list[_Point]) -> _Point:
        return max(course, key=lambda point: point.validation) if arm == "early_stopping" else course[-1]

    strength = best_of(tries, lambda strength: chosen(tries[strength][0]).validation, better="higher")
    course, losses = tries[strength]
    point = chosen(course)
    return Outcome(
        metrics={"accuracy": point.test.accuracy, "memorised": point.memorised, "fitted": point.fitted},
        arguments={
            "strength": strength,
            "tries": len(tries),
            "stopped_after": point.step,
            "steps": steps,
            "wrong_labels": int(wrong.sum()),
            "learning_rate": _RATE,
            "weight_decay": strength if _STRENGTHS[arm] is _DECAYS else _DECAY,
            "beta": _BETA,
            "batch_size": _BATCH,
            "training_images": samples,
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "test accuracy, by step": [(point.step, point.test.accuracy) for point in course],
            "wrong labels memorised, by step": [(point.step, point.memorised) for point in course],
            "wrong labels memorised, by log10 strength": [
                (math.log10(strength), chosen(course).memorised) for strength, (course, _) in tries.items()
            ],
            "validation accuracy, by log10 strength": [
                (math.log10(strength), chosen(course).validation) for strength, (course, _) in tries.items()
            ],
        },
        correct=point.test.correct,
    )


def _with_wrong(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Replace a share of the labels, drawn at random, each by another class."""
    count = round(_WRONG * len(labels))
    chosen = torch.randperm(len(labels), generator=generator)[:count].to(labels.device)
    shift = torch.randint(1, classes, (count,), generator=generator).to(labels.device)
    return labels.index_put((chosen,), (labels[chosen] + shift) % classes)


def _loss(arm: str, strength: float, classes: int, others: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the arm's loss of logits and, in two columns, labels and indices."""
    method = ELRLoss(len(others), classes, lam=strength, beta=_BETA).to(others.device)

    def loss(logits: Tensor, numbered: Tensor) -> Tensor:
        labels, index = numbered.unbind(dim=1)
        if arm == "elr":
            return method(logits, labels, index)
        if arm == "shuffled_targets":
            method.train()(logits.detach(), labels, index)
            return method.eval()(logits, labels, others[index])
        if arm == "bootstrapping":
            given = F.one_hot(labels, classes).to(logits.dtype)
            return F.cross_entropy(logits, torch.lerp(given, logits.detach().softmax(dim=1), strength))
        return F.cross_entropy(logits, labels, label_smoothing=strength if arm == "label_smoothing" else 0.0)

    return loss
