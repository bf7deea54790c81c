"""Dispersion by chance and by even singular values makes features without negatives better (Moon et al. 2023).

A network of two convolutions and a linear layer, with batch normalization but none in predictor and last layers, learns
from 1,000 characters at half their size, without labels, to put two views of each where a slowly following copy of it
puts them, by AdamW in batches of 64. Then a linear classifier on its 64 features is fitted to labels of 500 of them.
The headline is its test accuracy, against attraction alone (BYOL with centroids).

What it can show: whether the two forces that disperse are worth it. An accuracy that is not higher would refute the
claim. One arm has either force alone: no worse accuracy there would show that the other is not needed. Contrastive
learning by as many updates is what a person would take who does not mind negatives. The effective rank of embeddings,
of 32 numbers, tells how many directions they use: about 1 after a collapse.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import Probed, effective_rank, fit_views, index_batches, nt_xent, tune
from paperweight.representation.msbreg import MSBReg
from paperweight.studies import (
    ACCURACY,
    Arm,
    Embedding,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Unlabelled,
    classification,
)
from paperweight.studies.representation._two_views import (
    BATCH,
    RATE,
    Encoder,
    encoded,
    features_of,
    fits_features,
    probed,
    view,
)
from paperweight.studies.representation._views import projector

_RATES = (0.003, 0.01, 0.03)


def _learn(task: Unlabelled) -> None:
    model = nn.Sequential(task.encoder, projector(task.dim, task.generator).to(task.images.device))
    predictor = projector(64, task.generator).to(task.images.device)
    weights = [p for p in (*model.parameters(), *predictor.parameters()) if p.requires_grad]
    training = MSBReg(
        model, predictor, AdamW(weights, lr=task.lr), task.view, views=2, momentum=0.9, generator=task.generator
    )
    batches = index_batches(len(task.images), task.batch_size, task.generator, task.images.device)
    for step, index in zip(range(task.steps), batches, strict=False):
        task.on_step(step, training.step(task.images[index]))


def _begin(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator) -> None:
    """Train all layers but the last for a third of the updates, each of two views and their targets."""
    features = features_of(model, inputs)
    _learn(
        Unlabelled(
            encoder=features,
            dim=encoded(features, inputs[:2]).shape[1],
            images=inputs,
            view=view,
            steps=max(1, steps // 3),
            batch_size=BATCH,
            lr=RATE,
            generator=generator,
            on_step=lambda step, loss: None,
        )
    )
    model.zero_grad()


RECIPE = Recipe(
    words="all layers but the last learn first, without labels, to put views together, and images apart by chance",
    line="training = MSBReg(project_features, predictor, optimizer, view, views=2, momentum=0.9, generator=g)",
    pretraining=_begin,
    fits=fits_features,
)

EMBEDDING = Embedding(
    words="views of an image are put together, and images apart by chance and by even singular values",
    line="training = MSBReg(model, predictor, optimizer, view, views=2, momentum=0.9, generator=g)",
    learn=_learn,
)


class _Forces(NamedTuple):
    """The weights of what disperses."""

    singular: float
    brownian: float


STUDY = Study(
    paper="msbreg",
    question="Do features become better where chance and even singular values disperse embeddings?",
    claim="A linear classifier on features is more accurate with both dispersive forces than with attraction alone.",
    arms={
        "attraction": Arm("attraction to the target's centroid alone (BYOL)", _Forces(0.0, 0.0)),
        "both": Arm("even singular values and random kicks beside it (MSBReg)", _Forces(0.1, 0.1)),
        "singular": Arm("even singular values alone beside it", _Forces(0.1, 0.0)),
        "brownian": Arm("random kicks alone beside it", _Forces(0.0, 0.1)),
        "contrast": Arm("control: contrastive learning at temperature 0.2 (SimCLR)", None),
    },
    metrics={"accuracy": ACCURACY, "rank": Metric.higher("effective rank of embeddings", 1.0, "dimensions")},
    headline="accuracy",
    tuned="the learning rate, 3 tries an arm and seed, a factor of about 3 apart: by validation accuracy",
    limits=(
        "Small images, the same 4,000 to test on for every seed; 64 features, 120 updates, 2 views, and a momentum of "
        "0.9 that suits so few updates. The form of the singular value loss and its weight are this project's, so that "
        "a failure would be no failure of the paper's. Nothing follows for large images or long training. The recipe "
        "for classifiers is not weighed here."
    ),
    seeds=7,
)


class _Tried(NamedTuple):
    encoder: nn.Module
    made: dict[str, object]
    probe: Probed


def run(arm: Arm[_Forces | None], setting: Setting) -> Outcome:
    """Learn once with each rate, and fit a linear classifier to the features of each."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    steps, labelled = setting.pick(smoke=(4, 60), desk=(120, 500), gpu=(8_000, 2_000))
    data, images, forces = task.data, task.train.images, arm.make
    channels, height, width = images.shape[1:]

    def learned(lr: float) -> _Tried:
        networks = setting.initialised(
            lambda: nn.Sequential(
                Encoder((channels, height, width)), nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
            )
        )
        encoder, predictor = networks[0], networks[1]
        features = encoder.get_submodule("0")
        draws, batches = setting.generator("method"), setting.generator("batches")
        if forces is None:
            optimizer = AdamW(encoder.parameters(), lr=lr)
            made: dict[str, object] = {"optimizer": optimizer}
            fit_views(
                encoder,
                optimizer,
                images,
                view=view,
                loss=lambda first, second: nt_xent(first, second, 0.2),
                steps=steps,
                batch_size=BATCH,
                generator=batches,
            )
        else:
            optimizer = AdamW(networks.parameters(), lr=lr)
            training = MSBReg(
                encoder, predictor, optimizer, view, 2, forces.singular, forces.brownian, 0.9, generator=draws
            )
            for _, index in zip(range(steps), index_batches(len(images), BATCH, batches), strict=False):
                training.step(images[index])
            made = {"optimizer": optimizer, "training": training}
        return _Tried(encoder, made, probed(lambda part: encoded(features, part), data, labelled))

    tuned = tune(_RATES, learned, lambda tried: tried.probe.validated, better="higher")
    best = tuned.best
    return Outcome(
        metrics={
            "accuracy": best.probe.accuracy,
            "rank": effective_rank(F.normalize(encoded(best.encoder, data.test.images))),
        },
        made=best.made,
        tuned={"lr": tuned},
        arguments={
            "penalty_strength": best.probe.chosen,
            "steps": steps,
            "batch_size": BATCH,
            "images_without_labels": len(images),
            "labels": labelled,
            "test_images": len(data.test),
        },
        curves={"validation accuracy, by log10 lr": tuned.curve()},
        correct=best.probe.correct,
    )
