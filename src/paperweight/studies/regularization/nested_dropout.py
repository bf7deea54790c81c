"""Nested dropout keeps a network from memorising wrong labels (Chen et al. 2022).

Two labels in five are wrong, each another class with equal probability: in training and in validation, since whoever
has wrong labels has them in both. Test labels are right. A fully connected network with 128 features learns characters
at half their size, with momentum 0.9 and a rate that falls to a tenth after half and after three quarters of the steps.
Each arm tunes its weight decay on validation images, from the authors' 5e-4 up. Nested dropout has the authors' spread
of 100, and its width is the best of 14 on the same images. The headline is test accuracy; memorised are those wrong
labels of the training set that the network predicts.

What it can show: whether nested dropout is better than what a practitioner has anyway, on these images. What it cannot:
anything about large networks, labels that are wrong in a pattern, or the second stage, Co-teaching. A test accuracy not
above that of cross-entropy would refute the claim. As high a one by plain dropout before the same layer would show that
the order of the features is not needed for it; as high a one by 16 features from the start, about as many as a spread
of 25 is cut to, that it is enough to have few. The authors compare at their weight decay; the accuracy at the lowest
tried is that comparison. The baseline is the method without a spread, which keeps every feature.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.data import wrong_labels
from paperweight.loops import evaluate_classifier, tune
from paperweight.nets import MLP, halved
from paperweight.regularization.nested_dropout import NestedDropout, accuracy_by_width
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Recipe, Setting, Study, Trained, classification
from paperweight.studies.regularization._before_last import before_last_linear, last_is_registered_last

_WRONG = 0.4
_RATE = 0.05
_DECAYS = (0.0005, 0.01, 0.02, 0.03)
_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class _Plan(NamedTuple):
    """What makes the layer, from the number of features and a generator; and their number in the default network."""

    layer: Callable[[int, torch.Generator], nn.Module] = lambda dim, _: NestedDropout(dim, std=None)
    features: int = 128


def _nested(spread: float) -> _Plan:
    return _Plan(lambda dim, draws: NestedDropout(dim, spread, draws))


RECIPE = Recipe(
    words="nested dropout before the last layer, with a spread of all features; made for wrong labels",
    line="model.head = nn.Sequential(NestedDropout(dim, std=dim), model.head)  # dim = model.head.in_features",
    surgery=partial(before_last_linear, build=lambda dim: NestedDropout(dim, std=float(dim))),
    fits=last_is_registered_last,
)

STUDY = Study(
    paper="nested_dropout",
    question="With 40% wrong labels, does nested dropout help a classifier whose weight decay is well chosen?",
    claim="A network trained with nested dropout memorises fewer wrong labels than one without, and errs less.",
    arms={
        "cross_entropy": Arm("every feature kept: the method without a spread", _Plan()),
        "nested_dropout": Arm("nested dropout with the authors' spread of 100, at the best width", _nested(100.0)),
        "nested_dropout_25": Arm("nested dropout with a spread of 25, at the best width", _nested(25.0)),
        "dropout": Arm("control: plain dropout of half of the same features", _Plan(lambda *_: nn.Dropout(0.5))),
        "fewer_features": Arm("control: every feature kept, of 16", _Plan(features=16)),
    },
    metrics={
        "accuracy": ACCURACY,
        "accuracy_at_lowest": Metric.higher("test accuracy at the lowest weight decay tried", 0.01),
        "memorised": Metric.lower("wrong training labels that are predicted", 0.02, "fraction"),
        "fitted": Metric.higher("right training labels that are predicted", 0.01, "fraction"),
    },
    headline="accuracy",
    tuned=(
        "the weight decay, 4 tries an arm and seed, from one grid: by accuracy on validation images whose labels are "
        "as often wrong as in training; with nested dropout in each try also the width, of 14"
    ),
    limits=(
        "Small images, one small network, labels wrong at random, the first of the paper's two stages: nothing follows "
        "for large networks, for labels that are wrong in a pattern, or with Co-teaching. The learning rate is not "
        "tuned, nor the spread, beyond the two values. The grid leaves a gap above the lowest weight decay, which the "
        "method at times chooses; on eight trial seeds 0.0025 and 0.005 beside it changed the mean gain from -0.006 to "
        "-0.008. A network of one's own keeps its features in all arms."
    ),
    seeds=12,
)


class _Course(NamedTuple):
    trained: Trained
    layer: nn.Module
    validation: float
    by_width: dict[int, float]


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each weight decay; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs-20"
    )
    steps = setting.pick(smoke=6, desk=700, gpu=40_000)
    images, validation = task.train.images, task.data.validation.images
    draw = setting.generator("method")
    labels, validation_labels = (
        wrong_labels(part.labels, _WRONG, task.classes, draw) for part in (task.train, task.data.validation)
    )
    wrong = labels != task.train.labels

    def train(decay: float) -> _Course:
        made: list[nn.Module] = []

        def build(dim: int) -> nn.Module:
            made.append(arm.make.layer(dim, setting.generator("method")))
            return made[-1]

        network = halved(partial(MLP, hidden=(128, arm.make.features)))
        model = before_last_linear(task.network(network), build).to(setting.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, weight_decay=decay)
        schedule = MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        trained = task.fit(model, optimizer, steps=steps, batch_size=64, labels=labels, schedule=schedule)
        layer, by_width = made[0], dict[int, float]()
        if isinstance(layer, NestedDropout) and layer.std is not None:
            widths = [width for width in _WIDTHS if width <= layer.dim]
            by_width = accuracy_by_width(model, validation, validation_labels, widths)
            layer.truncate(max(by_width, key=by_width.__getitem__))
        return _Course(trained, layer, evaluate_classifier(model, validation, validation_labels).accuracy, by_width)

    def share(tried: _Course, chosen: Tensor) -> float:
        return evaluate_classifier(tried.trained.model, images[chosen], labels[chosen]).accuracy

    tuned = tune(_DECAYS, train, lambda tried: tried.validation, better="higher")
    trained, layer, _, by_width = tuned.best
    return task.outcome(
        tuned,
        trained=trained,
        of="weight decay",
        metrics={
            "accuracy": trained.tested.accuracy,
            "accuracy_at_lowest": tuned.tries[min(tuned.tries)].trained.tested.accuracy,
            "memorised": share(tuned.best, wrong),
            "fitted": share(tuned.best, ~wrong),
        },
        made={"layer": layer},
        arguments={
            "wrong_labels": int(wrong.sum()),
            **({"width": max(by_width, key=by_width.__getitem__)} if by_width else {}),
        },
        curves={
            "test accuracy, by log10 weight decay": tuned.curve(lambda tried: tried.trained.tested.accuracy),
            "wrong labels memorised, by log10 weight decay": tuned.curve(lambda tried: share(tried, wrong)),
            **({"validation accuracy, by width": [*by_width.items()]} if by_width else {}),
        },
    )
