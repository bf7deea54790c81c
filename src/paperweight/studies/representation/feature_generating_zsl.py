"""Generated features of unseen classes make better zero-shot classifiers than none do (Xian et al. 2018).

Features of 60 classes are drawn from what their seven binary attributes say, by a fixed random network; 30 images of
each of 50 classes are seen. A classifier must then tell images of all 60 classes. The headline is the harmonic mean of
the mean accuracies of seen and of unseen classes; beside it stands the accuracy among unseen classes alone. Generators
learn from features of seen classes; a softmax regression learns from these and from as many that are generated for
each unseen class. In every arm seen classes are then made less likely by a tuned handicap (calibrated stacking):
without it classifiers hardly name an unseen class, which is a bias and no lack of knowledge.

What it can show: whether generating features is worth it where it is known that attributes determine them. A harmonic
mean not above that of a classifier that generates nothing, here the nearest attributes after ridge regression, would
refute the claim. The control that matters draws features from Gaussians, whose means come from attributes by ridge
regression and whose covariance is that of seen classes: as high a mean there would show that it takes no adversarial
network. Another takes the nearest of these means.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.loops import index_batches, tune
from paperweight.representation.feature_generating_zsl import (
    FeatureCritic,
    FeatureGenerator,
    feature_critic_loss,
    feature_generator_loss,
    generalised_accuracy,
    synthesise_features,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.representation._described_classes import (
    Described,
    Task,
    drawn_classes,
    ridge,
    task,
    without_last,
)

_HIDDEN = 128
_HANDICAPS = (0.02, 0.05, 0.12, 0.3, 0.75, 1.8)
_STRENGTH = 0.01


class _Learned(NamedTuple):
    """Gives the scores of all classes for features, and what was made."""

    scores: Callable[[Tensor], Tensor]
    made: dict[str, object]


Learn = Callable[[Task, Setting], _Learned]


def _attribute_regression(given: Task, setting: Setting) -> _Learned:
    features, labels, attributes = given.train
    weights = ridge(features - features.mean(dim=0), attributes[labels] - attributes.mean(dim=0), _STRENGTH)
    told = F.normalize(attributes - attributes.mean(dim=0))
    return _Learned(lambda x: F.normalize((x - features.mean(dim=0)) @ weights) @ told.T, {})


def _means(train: Described) -> Tensor:
    """Give means of all classes by ridge regression on attributes, with a constant."""
    inputs = torch.cat([2 * train.attributes - 1, torch.ones(len(train.attributes), 1)], dim=1)
    return inputs @ ridge(inputs[train.labels], train.features, _STRENGTH)


def _nearest_means(given: Task, setting: Setting) -> _Learned:
    means = _means(given.train)
    return _Learned(lambda x: -torch.cdist(x, means).square(), {})


def _classified(given: Task, more: Tensor, of: Tensor, made: dict[str, object]) -> _Learned:
    """Learn all classes from real features of seen ones and generated ones of unseen ones, by softmax regression."""
    features, labels = torch.cat([given.train.features, more]), torch.cat([given.train.labels, given.unseen[of]])
    classes, (mean, deviation) = len(given.train.attributes), (features.mean(dim=0), features.std(dim=0))
    weights = torch.zeros(features.shape[1] + 1, classes, requires_grad=True)
    optimizer = Adam([weights], lr=0.1)

    def scores(features: Tensor) -> Tensor:
        inputs = (features - mean) / deviation
        return torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1) @ weights

    for _ in range(200):
        optimizer.zero_grad()
        (F.cross_entropy(scores(features), labels) + 1e-4 * weights.square().sum()).backward()
        optimizer.step()
    return _Learned(torch.no_grad()(scores), made)


def _count(given: Task) -> int:
    """Give how many features an unseen class gets: as many as a seen one has."""
    return len(given.train.labels) // len(given.seen)


def _gaussians(given: Task, setting: Setting) -> _Learned:
    train, draw = given.train, setting.generator("method")
    means, unseen = _means(train), given.unseen
    own = torch.stack([train.features[train.labels == c].mean(dim=0) for c in given.seen])
    apart = train.features - own[torch.searchsorted(given.seen, train.labels)]
    root = torch.linalg.cholesky(apart.T @ apart / len(apart) + 1e-4 * torch.eye(apart.shape[1]))
    of = torch.arange(len(unseen)).repeat_interleave(_count(given))
    more = (means[unseen][of] + torch.randn(len(of), len(root), generator=draw) @ root.T).relu()
    return _classified(given, more, of, {})


def _generator(given: Task, setting: Setting, beta: float = 0.1) -> _Learned:
    (features, labels, attributes), draw = given.train, setting.generator("method")
    scale, k, d = features.max(), attributes.shape[1], features.shape[1]
    real, own = features / scale, torch.searchsorted(given.seen, labels)
    model = setting.initialised(lambda: FeatureGenerator(k, k, d, _HIDDEN))
    critic = setting.initialised(lambda: FeatureCritic(k, d, _HIDDEN))
    classifier = setting.initialised(lambda: nn.Linear(d, len(given.seen)))
    steps = setting.pick(smoke=2, desk=500, gpu=20_000)
    batches = index_batches(len(real), 64, setting.generator("batches"))
    teaching = Adam(classifier.parameters(), lr=0.01)
    for index, _ in zip(batches, range(steps), strict=False):
        teaching.zero_grad()
        F.cross_entropy(classifier(real[index]), own[index]).backward()
        teaching.step()
    ours, theirs = (Adam(each.parameters(), lr=0.003, betas=(0.5, 0.9)) for each in (model, critic))

    def fake(index: Tensor) -> Tensor:
        return model(torch.randn(len(index), k, generator=draw), attributes[labels[index]])

    for _ in range(steps):
        for index, _ in zip(batches, range(5), strict=False):
            theirs.zero_grad()
            told = attributes[labels[index]]
            feature_critic_loss(critic, real[index], fake(index), told, generator=draw).backward()
            theirs.step()
        index = next(batches)
        ours.zero_grad()
        told = attributes[labels[index]]
        feature_generator_loss(critic, classifier, fake(index), told, own[index], beta).backward()
        ours.step()

    more, of = synthesise_features(model, attributes[given.unseen], _count(given), generator=draw)
    return _classified(given, scale * more, of, {"model": model, "critic": critic, "optimizer": ours})


STUDY = Study(
    paper="feature_generating_zsl",
    question="Do generated features of unseen classes make a better classifier of seen and unseen ones than none do?",
    claim="With features from f-CLSWGAN the harmonic mean of seen and unseen accuracy is higher than without.",
    arms={
        "regression": Arm("nearest attributes, predicted by ridge regression", _attribute_regression),
        "f_clswgan": Arm("features generated by f-CLSWGAN, beta 0.1", _generator),
        "f_wgan": Arm("the same without the classifier's loss", partial(_generator, beta=0.0)),
        "gaussians": Arm("control: features drawn from Gaussians around means by ridge regression", _gaussians),
        "nearest_means": Arm("control: nearest of these means", _nearest_means),
    },
    metrics={
        "harmonic": Metric.higher("harmonic mean of seen and unseen accuracy", 0.02),
        "seen": Metric.higher("accuracy of seen classes", 0.02),
        "unseen": Metric.higher("accuracy of unseen classes", 0.02),
        "unseen_alone": Metric.higher("accuracy among unseen classes alone", 0.02),
    },
    headline="harmonic",
    tuned=(
        "the handicap of seen classes, in standard deviations of the scores, 6 tries an arm and seed, a factor of 2.5 "
        "apart: by the harmonic mean where 10 of the 50 seen classes are taken for unseen ones, without any test image"
    ),
    limits=(
        "Drawn features of 16 dimensions, which attributes determine but for noise; networks of 128 hidden units, 500 "
        "generator updates at a learning rate of 0.003 and a weight beta of 0.1, none of them the paper's: nothing "
        "follows for features of large networks, or for attributes that leave out what matters. Three times as many "
        "updates gave 0.55 and 0.56 on seeds 1000 and 1001 in place of 0.55 and 0.56. No embedding method with a "
        "learned margin (ALE, DEVISE) is among the arms. Weighed before on 10 of these seeds, which decided nothing: "
        "+0.006, -0.021 to 0.037, and at first -0.0003, -0.024 to 0.027, when test images of seen classes were among "
        "those that chose the handicap."
    ),
    seeds=28,
)


def run(arm: Arm[Learn], setting: Setting) -> Outcome:
    """Choose the handicap where some seen classes are taken for unseen; then learn all seen ones, and judge."""
    images, tested = setting.pick(smoke=(8, 3), desk=(40, 10), gpu=(200, 50))
    draw = setting.generator("data")
    data, order = drawn_classes(60, images, draw), torch.randperm(60, generator=draw)
    rehearsal = task(without_last(data, tested), order[:40].sort().values, order[40:50].sort().values, tested)
    final = task(data, order[:50].sort().values, order[50:].sort().values, tested)

    def judged(given: Task, scores: Tensor, handicap: float) -> dict[str, float]:
        every = torch.cat([given.seen, given.unseen])
        scores = scores.index_add(1, given.seen, torch.full((len(scores), len(given.seen)), -handicap) * scores.std())
        found = generalised_accuracy(every[scores[:, every].argmax(dim=1)], given.test.labels, given.unseen)
        new = torch.isin(given.test.labels, given.unseen)
        right = given.unseen[scores[new][:, given.unseen].argmax(dim=1)] == given.test.labels[new]
        return {**found._asdict(), "unseen_alone": right.double().mean().item()}

    rehearsed = arm.make(rehearsal, setting).scores(rehearsal.test.features)
    tuned = tune(
        _HANDICAPS, lambda value: judged(rehearsal, rehearsed, value), lambda tried: tried["harmonic"], better="higher"
    )
    learned = arm.make(final, setting)
    return Outcome(
        metrics=judged(final, learned.scores(final.test.features), tuned.value),
        made=learned.made,
        tuned={"handicap": tuned},
        arguments={"training_features": len(final.train.labels), "test_features": len(final.test.labels)},
        curves={"harmonic mean where seen classes are taken for unseen, by log10 handicap": tuned.curve()},
    )
