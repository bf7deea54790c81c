"""Early-learning regularization keeps a network from memorising wrong labels (Liu et al. 2020).

Two labels in five are wrong, each another class with equal probability: in training and in validation, since whoever
has wrong labels has them in both. Test labels are right. A small fully connected network trains with the authors'
rate 0.02, momentum 0.9 and constant schedule for long enough to memorise. Each arm tunes one strength on validation
images: ELR its weight, cross-entropy its weight decay, which for all other arms is the authors' 1e-3. The headline is
test accuracy at the end; memorised are those wrong labels of the training set that the network predicts.

What it can show: whether ELR is better than what a practitioner has anyway, on these images. What it cannot: anything
about large networks, labels that are wrong in a pattern, or ELR+. A test accuracy not above that of cross-entropy
would refute the claim. As high a one by stopping early, by smoothed labels or by the network's present predictions in
place of past ones (bootstrapping) would show that ELR is not needed for it; as high a one with the targets of other
examples, that it does not come from an example's own past. That cross-entropy memorises at the authors' weight decay is
in its curve by strength, at the lowest; tuned decay prevents that, too. Baseline and method are thus both at their
best. Cross-entropy is torch's own, which the method equals at lam 0 bit for bit, so that its cost is not the method's.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import wrong_labels
from paperweight.loops import Evaluation, at_points, evaluate_classifier, tune
from paperweight.nets import MLP
from paperweight.regularization.early_learning_regularization import ELRLoss
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Recipe, Setting, Study, Trained, classification

_WRONG = 0.4
_RATE = 0.02
_MOMENTUM = 0.9
_DECAY = 1e-3
_BETA = 0.7
_BATCH = 64
_POINTS = 20
_DECAYS = (0.001, 0.015, 0.03, 0.06)
_PROPORTIONS = (0.6, 0.8, 0.9, 0.97)


@final
class _CrossEntropy(nn.Module):
    """Cross-entropy with labels mixed with the uniform distribution or with the network's present predictions."""

    def __init__(self, label_smoothing: float = 0.0, bootstrapping: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.bootstrapping = bootstrapping

    def forward(self, logits: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        if not self.bootstrapping:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        given = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return F.cross_entropy(logits, torch.lerp(given, logits.detach().softmax(dim=1), self.bootstrapping))


class _Plan(NamedTuple):
    """The strengths tried; the loss of one, or none where it is that of weight decay; and what controls change."""

    strengths: tuple[float, ...]
    loss: Callable[[float, int, int], nn.Module] | None = None
    others: bool = False
    stops_early: bool = False


def _elr(strength: float, samples: int, classes: int) -> ELRLoss:
    return ELRLoss(samples, classes, lam=strength, beta=_BETA)


RECIPE = Recipe(
    words="ELR in place of cross-entropy, with the paper's lam 3 and beta 0.7; made for wrong labels",
    line="criterion = ELRLoss(samples, classes)  # loss = criterion(logits, labels, index)",
    loss=lambda samples, classes: ELRLoss(samples, classes, lam=3.0, beta=_BETA),
)


STUDY = Study(
    paper="early_learning_regularization",
    question="With 40% wrong labels, does ELR classify better than cross-entropy, once each has its best strength?",
    claim="A network trained with ELR memorises fewer wrong labels than one trained with cross-entropy, and errs less.",
    arms={
        "cross_entropy": Arm("cross-entropy, which the method is at lam 0, with tuned weight decay", _Plan(_DECAYS)),
        "elr": Arm("ELR with tuned weight of the penalty and the paper's beta, 0.7", _Plan((1.0, 2.0, 4.0, 8.0), _elr)),
        "shuffled_targets": Arm(
            "control: ELR where each example is compared with the target of another, drawn at random",
            _Plan((0.1, 0.3, 1.0, 3.0), _elr, others=True),
        ),
        "early_stopping": Arm(
            "control: cross-entropy with tuned weight decay, stopped at the best of 20 points on the way",
            _Plan(_DECAYS, stops_early=True),
        ),
        "bootstrapping": Arm(
            "control: labels mixed with the network's present predictions, in tuned proportion",
            _Plan(_PROPORTIONS, lambda strength, *_: _CrossEntropy(bootstrapping=strength)),
        ),
        "label_smoothing": Arm(
            "control: labels mixed with the uniform distribution, in tuned proportion",
            _Plan(_PROPORTIONS, lambda strength, *_: _CrossEntropy(label_smoothing=strength)),
        ),
    },
    metrics={
        "accuracy": ACCURACY,
        "memorised": Metric.lower("wrong training labels that are predicted", 0.02, "fraction"),
        "fitted": Metric.higher("right training labels that are predicted", 0.01, "fraction"),
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


class _Point(NamedTuple):
    """What a network achieves after some steps."""

    step: int
    validation: float
    test: Evaluation
    memorised: float
    fitted: float


class _Course(NamedTuple):
    trained: Trained
    loss: nn.Module
    points: list[_Point]


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each strength; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(800, 400, 590), gpu=(20_000, 5_000, 10_000))
    steps = setting.pick(smoke=60, desk=1_200, gpu=40_000)
    plan, samples, images = arm.make, len(task.train), task.train.images
    draw = setting.generator("method")
    labels, validation_labels = (
        wrong_labels(part.labels, _WRONG, task.classes, draw) for part in (task.train, task.data.validation)
    )
    others = torch.randperm(samples, generator=draw).to(setting.device)
    wrong = labels != task.train.labels

    def train(strength: float) -> _Course:
        model = task.network(partial(MLP, hidden=(256,)))
        loss = _CrossEntropy() if plan.loss is None else plan.loss(strength, samples, task.classes).to(setting.device)
        decay = strength if plan.loss is None else _DECAY
        optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=decay)
        course: list[_Point] = []

        def look(step: int) -> None:
            course.append(
                _Point(
                    step,
                    evaluate_classifier(model, task.data.validation.images, validation_labels).accuracy,
                    task.test(model),
                    evaluate_classifier(model, images[wrong], labels[wrong]).accuracy,
                    evaluate_classifier(model, images[~wrong], labels[~wrong]).accuracy,
                )
            )

        def loss_of_batch(logits: Tensor, numbered: Tensor) -> Tensor:
            given, index = numbered.unbind(dim=1)
            if plan.others:
                loss.train()(logits.detach(), given, index)
                return loss.eval()(logits, given, others[index])
            return loss(logits, given, index)

        trained = task.fit(
            model,
            optimizer,
            steps=steps,
            batch_size=_BATCH,
            labels=torch.stack([labels, torch.arange(samples, device=setting.device)], dim=1),
            loss=loss_of_batch,
            on_step=at_points(_POINTS, steps, look),
        )
        look(len(trained.losses))
        return _Course(trained, loss, course)

    def chosen(tried: _Course) -> _Point:
        return max(tried.points, key=lambda point: point.validation) if plan.stops_early else tried.points[-1]

    tuned = tune(plan.strengths, train, lambda tried: chosen(tried).validation, better="higher")
    best, point = tuned.best, chosen(tuned.best)
    return task.outcome(
        tuned,
        trained=best.trained,
        tested=point.test,
        of="strength",
        metrics={"accuracy": point.test.accuracy, "memorised": point.memorised, "fitted": point.fitted},
        made={"loss": best.loss},
        arguments={"stopped_after": point.step, "wrong_labels": int(wrong.sum())},
        curves={
            "test accuracy, by step": [(point.step, point.test.accuracy) for point in best.points],
            "wrong labels memorised, by step": [(point.step, point.memorised) for point in best.points],
            "wrong labels memorised, by log10 strength": tuned.curve(lambda tried: chosen(tried).memorised),
        },
    )
