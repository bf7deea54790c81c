"""Features that are trained to match noise tell classes apart better than untrained ones (Bojanowski, Joulin 2017).

A network of two convolutions and a linear layer, each with batch normalization, learns from 1,000 characters at half
their size, without labels, by AdamW on shifted images; then a linear classifier on its features is fitted to labels of
500 of them by ridge regression. The headline is its test accuracy, against the same network as it was initialised.

What it can show: whether predicting noise gives features that are worth the training. An accuracy not above that of
random features would refute the claim here. One control keeps each image at its first vector, which asks whether
reassignment does anything beyond telling images apart; one fits the classifier to pixels, which asks whether there is
any use in features here. Auto-encoding by the same network is an older way to learn without labels. What it cannot:
compare the method with others that the paper claims to be on a par with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.data import Splits
from paperweight.loops import tune
from paperweight.nets import evaluating
from paperweight.representation.noise_as_targets import NoiseAsTargets, noise_targets
from paperweight.studies import (
    ACCURACY,
    Arm,
    Embedding,
    Outcome,
    Recipe,
    Setting,
    Study,
    Unlabelled,
    classification,
)
from paperweight.studies.representation._last_linear import Features, last_linear
from paperweight.studies.representation._unlabelled import (
    BATCH,
    Convolutions,
    Learned,
    Task,
    encoded,
    noise,
    pixels,
    untrained,
)
from paperweight.studies.representation._views import projector

_RATE = 0.003
_RATES = (0.001, 0.003, 0.01, 0.03)
_STRENGTHS = (1.0, 10.0, 100.0, 1_000.0)


def _features(model: nn.Module, images: Tensor) -> Features:
    last = last_linear(model, images)
    if last is None:
        raise ValueError("the network's logits must be what a linear layer gives")
    return Features(model, last)


def _begin(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator) -> None:
    passes = max(1, round(steps * BATCH / len(inputs)))
    noise(Task(_features(model, inputs[:2]), inputs[: steps * BATCH], passes, _RATE, generator))
    model.zero_grad()


def _fits(model: nn.Module, data: Splits) -> str:
    last = last_linear(model, data.train.images[:2])
    if last is None:
        return "the network's logits must be what a linear layer (nn.Linear) gives, called with features (N, d)"
    own = {id(p) for p in last.parameters()}
    if all(id(p) in own for p in model.parameters() if p.requires_grad):
        return "the network must have weights that are trained before its last linear layer"
    return ""


RECIPE = Recipe(
    words="all layers but the last learn first, without labels, to match noise that is reassigned every third pass",
    line="training = NoiseAsTargets(features, optimizer, images, noise_targets(n, 32, generator=g), generator=g)",
    pretraining=_begin,
    fits=_fits,
)


def _learn(task: Unlabelled) -> None:
    model = nn.Sequential(task.encoder, projector(task.dim, task.generator).to(task.images.device))
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=task.lr)
    order = torch.randperm(len(task.images), generator=task.generator)[: task.steps * task.batch_size]
    images = task.images[order.to(task.images.device)]
    targets = noise_targets(len(images), 64, generator=task.generator).to(images)
    training = NoiseAsTargets(
        model, optimizer, images, targets, batch_size=task.batch_size, view=task.view, generator=task.generator
    )
    updates = -(-len(images) // task.batch_size)
    for number in range(max(1, round(task.steps / updates))):
        task.on_step((number + 1) * updates - 1, training.step())


EMBEDDING = Embedding(
    words="each image matches a vector of noise of its own, reassigned within batches every third pass",
    line="training = NoiseAsTargets(model, optimizer, images, noise_targets(n, 64, generator=g), generator=g)",
    learn=_learn,
)

STUDY = Study(
    paper="noise_as_targets",
    question="Do features that learned to match noise, without labels, tell classes apart better than untrained ones?",
    claim="A linear classifier on features that learned to match noise is more accurate than on untrained ones.",
    arms={
        "untrained": Arm("the network as it was initialised", untrained),
        "noise": Arm("trained to match noise, reassigned every third pass", noise),
        "every_pass": Arm("noise reassigned in every pass", partial(noise, every=1)),
        "fixed": Arm("control: noise that is never reassigned", partial(noise, every=0)),
        "pixels": Arm("control: the pixels themselves", pixels),
        "encoded": Arm("trained so that a linear layer gives back the image that was shifted", encoded),
    },
    metrics={"accuracy": ACCURACY},
    headline="accuracy",
    tuned=(
        "the learning rate of what is trained, 4 tries a factor of about 3 apart, and of each the strength of the "
        "classifier's penalty, 4 tries a factor of 10 apart: by validation accuracy"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed; 64 features of a network of two convolutions; 1,000 "
        "images without labels, 12 passes over them at the desk budget, and 500 labels. Nothing follows for large "
        "images or deep networks. Vectors have 32 numbers and change hands among 63 images at most; neither was "
        "varied. Shifts by up to 2 pixels are the only views; brightness, which they keep, tells many of these images "
        "apart. Auto-encoding chose the weakest penalty that was tried, 1, in each seed, so that it may be worth more."
    ),
    seeds=8,
)


class _Probed(NamedTuple):
    """What was learned, and the linear classifier on it that was best on validation images."""

    learned: Learned
    strength: float
    validated: float
    correct: Tensor


def run(arm: Arm[Callable[[Task], Learned]], setting: Setting) -> Outcome:
    """Learn once with each rate, fit each classifier; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    passes, labelled = setting.pick(smoke=(2, 60), desk=(12, 500), gpu=(100, 2_000))
    data, (channels, height, width) = task.data, task.train.images.shape[1:]

    def probed(rate: float) -> _Probed:
        network = setting.initialised(lambda: Convolutions((channels, height, width), task.classes))
        features = _features(network, task.train.images[:2])
        learned = arm.make(Task(features, task.train.images, passes, rate, setting.generator("method")))
        with evaluating(learned.features), torch.no_grad():
            train, validation, test = (
                learned.features(part.images).cpu().numpy() for part in (data.train, data.validation, data.test)
            )
        tries = list[_Probed]()
        for strength in _STRENGTHS:
            classifier: Any = make_pipeline(StandardScaler(), RidgeClassifier(strength))
            classifier.fit(train[:labelled], data.train.labels[:labelled].cpu().numpy())
            right = [
                torch.from_numpy(classifier.predict(codes)) == part.labels.cpu()
                for codes, part in ((validation, data.validation), (test, data.test))
            ]
            tries.append(_Probed(learned, strength, right[0].double().mean().item(), right[1]))
        return max(tries, key=lambda each: each.validated)

    tuned = tune(_RATES, probed, lambda each: each.validated, better="higher")
    best = tuned.best
    return Outcome(
        metrics={"accuracy": best.correct.double().mean().item()},
        made=best.learned.made,
        tuned={"lr": tuned} if best.learned.made else {},
        arguments={
            "penalty_strength": best.strength,
            "passes": passes,
            "batch_size": BATCH,
            "images_without_labels": len(data.train),
            "labels": labelled,
            "test_images": len(data.test),
        },
        curves={"validation accuracy, by log10 lr": tuned.curve() if best.learned.made else []},
        correct=best.correct,
    )
