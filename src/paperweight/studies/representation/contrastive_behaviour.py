"""With hard negatives alone, contrastive features are good at high temperatures too (Wang, Liu 2021).

A network of two convolutions and a linear layer, each with batch normalization, and a projector of two layers learn
from 1,000 characters at half their size, without labels, to find the other view of each, by AdamW in batches of 64.
Then a linear classifier on its 64 features is fitted to labels of 500 of them. Each arm trains once at each of three
temperatures. The headline is the test accuracy at the highest, 1, where the loss pushes all negatives away nearly
alike.

What it can show: whether the most similar negatives alone mend a temperature that is too high. An accuracy there that
is not higher would refute the claim. As many negatives drawn at random are the control: as high an accuracy would show
that it is their number. What a person would do instead is to choose the temperature: accuracy at the one that is best
on validation images is measured beside it. How uniformity and tolerance of what the projector gives change with the
temperature is drawn as curves.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import Probed, fit_views, tune
from paperweight.representation.contrastive_behaviour import hard_contrastive_loss, tolerance, uniformity
from paperweight.studies import ACCURACY, Arm, Embedding, Metric, Outcome, Recipe, Setting, Study, classification
from paperweight.studies.representation._two_views import (
    BATCH,
    RATE,
    Encoder,
    encoded,
    fits_features,
    pretrain,
    probed,
    view,
)
from paperweight.studies.representation._views import learn_from_views

_TEMPERATURES = (0.05, 0.2, 1.0)

Loss = Callable[[float, torch.Generator, Tensor, Tensor], Tensor]


def _hard(temperature: float, generator: torch.Generator, first: Tensor, second: Tensor, *, share: float) -> Tensor:
    return hard_contrastive_loss(first, second, temperature, share)


def _random(temperature: float, generator: torch.Generator, first: Tensor, second: Tensor, *, share: float) -> Tensor:
    """Compute the contrastive loss of each view with a share of its negatives that is drawn at random."""
    codes = F.normalize(torch.cat([first, second]))
    twins = torch.arange(len(codes), device=codes.device).roll(len(first))
    drawn = torch.rand(len(codes), len(codes), generator=generator).to(codes.device).fill_diagonal_(-1)
    drawn = drawn.scatter(1, twins[:, None], 2.0)
    kept = drawn >= drawn.topk(1 + ceil(share * (len(codes) - 2) - 1e-9), dim=1).values[:, -1:]
    return F.cross_entropy((codes @ codes.T / temperature).masked_fill(~kept, float("-inf")), twins)


def _begin(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator) -> None:
    pretrain(model, inputs, steps, generator, partial(hard_contrastive_loss, temperature=0.05, share=0.7))


RECIPE = Recipe(
    words="all layers but the last learn first, without labels, to tell each image from the 70% most similar ones",
    line="loss = hard_contrastive_loss(codes_of_views, codes_of_other_views, temperature=0.05, share=0.7)",
    pretraining=_begin,
    fits=fits_features,
)

EMBEDDING = Embedding(
    words="two views of an image find each other among the 70% of the other images that are most similar",
    line="loss = hard_contrastive_loss(codes_of_views, codes_of_other_views, temperature=0.2, share=0.7)",
    learn=lambda task: learn_from_views(task, partial(hard_contrastive_loss, temperature=0.2, share=0.7)),
)

STUDY = Study(
    paper="contrastive_behaviour",
    question="With hard negatives alone, are contrastive features at a high temperature better?",
    claim="At temperature 1 a linear classifier is more accurate on features learned with hard negatives alone.",
    arms={
        "all": Arm("all negatives of the batch (SimCLR)", partial(_hard, share=1.0)),
        "hard": Arm("the 30% of the negatives that are most similar", partial(_hard, share=0.3)),
        "hardest": Arm("the 10% that are most similar", partial(_hard, share=0.1)),
        "random": Arm("control: 30% of the negatives, drawn at random", partial(_random, share=0.3)),
        "untrained": Arm("control: the network as it was initialised", None),
    },
    metrics={
        "hot": Metric.higher("test accuracy at the highest temperature", 0.01),
        "accuracy": ACCURACY,
    },
    headline="hot",
    tuned="for accuracy alone the temperature, 3 tries an arm and seed: by validation accuracy",
    limits=(
        "Small images, the same 4,000 to test on for every seed; 64 features, 140 updates at one learning rate, 126 "
        "negatives where the paper has tens of thousands: which share of them is hard was seen on other seeds. Nothing "
        "follows for large images or long training. The recipe for classifiers, which keeps 70% since networks without "
        "batch normalization collapsed with fewer, is not weighed here."
    ),
    seeds=7,
)


class _Tried(NamedTuple):
    encoder: nn.Module
    optimizer: AdamW | None
    probe: Probed


def run(arm: Arm[Loss | None], setting: Setting) -> Outcome:
    """Learn once at each temperature, and fit a linear classifier to the features of each."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    steps, labelled = setting.pick(smoke=(4, 60), desk=(140, 500), gpu=(8_000, 2_000))
    data, (channels, height, width) = task.data, task.train.images.shape[1:]
    loss, judged = arm.make, data.test

    def learned(temperature: float) -> _Tried:
        encoder = setting.initialised(lambda: Encoder((channels, height, width)))
        optimizer = None
        if loss is not None:
            optimizer = AdamW(encoder.parameters(), lr=RATE)
            fit_views(
                encoder,
                optimizer,
                task.train.images,
                view=view,
                loss=partial(loss, temperature, setting.generator("method")),
                steps=steps,
                batch_size=BATCH,
                generator=setting.generator("batches"),
            )
        return _Tried(encoder, optimizer, probed(lambda images: encoded(encoder[0], images), data, labelled))

    tuned = tune(_TEMPERATURES, learned, lambda tried: tried.probe.validated, better="higher")
    hottest, best = tuned.tries[max(tuned.tries)], tuned.best
    trained = loss is not None

    def codes(tried: _Tried) -> Tensor:
        return encoded(tried.encoder, judged.images[:1_000])

    return Outcome(
        metrics={"hot": hottest.probe.accuracy, "accuracy": best.probe.accuracy},
        made={"optimizer": best.optimizer} if trained else {},
        tuned={"temperature": tuned} if trained else {},
        arguments={
            "penalty_strength": best.probe.chosen,
            "steps": steps if trained else 0,
            "batch_size": BATCH,
            "images_without_labels": len(data.train),
            "labels": labelled,
            "test_images": len(judged),
        },
        curves={
            "test accuracy, by log10 temperature": tuned.curve(lambda tried: tried.probe.accuracy),
            "uniformity, by log10 temperature": tuned.curve(lambda tried: uniformity(codes(tried))),
            "tolerance, by log10 temperature": tuned.curve(
                lambda tried: tolerance(codes(tried), judged.labels[:1_000])
            ),
        },
        correct=hottest.probe.correct,
    )
