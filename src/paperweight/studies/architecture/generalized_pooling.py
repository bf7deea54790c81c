"""Pooling that is learned makes a network more accurate than max pooling, and more invariant (Lee et al. 2016).

A LeNet learns characters at half their size by Adam, whose rate falls to a tenth after three quarters of the steps.
Wherever the network has max pooling it has the arm's; the method is the authors' best arrangement, a tree of two levels
in the first place and gated max-average pooling in the second. Invariance is told by the accuracy on test images that
are turned, scaled and moved at random, more than the training images are.

What it can show: whether learned pooling makes this small network better than max pooling does. An accuracy not above
that of max pooling would refute the claim here. The controls ask what a gain is due to: average pooling, whether max
pooling is just the wrong choice; one learned filter without a gate, whether pooling has to answer to the region at all;
mixed pooling, whether one number a layer is enough. The only start of a tree that was found published is around 0, for
a network with normalization. In this one, which has none, trees from there were less accurate by two points than trees
that start near averaging, over 12 seeds apart from those of the result and with 1,000 training images; so the method
has the latter.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.architecture.generalized_pooling import GatedMaxAvgPool2d, MixedPool2d, TreePool2d, replace_max_pools
from paperweight.data import affine
from paperweight.loops import evaluate_classifier, tune
from paperweight.nets import LeNet, count_parameters, halved
from paperweight.studies import (
    ACCURACY,
    TEST_LOSS,
    Arm,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)

_RATES = (0.002, 0.004, 0.008, 0.016)


class _Plan(NamedTuple):
    """What makes the first pooling layer and the others, and whether from a generator."""

    first: Callable[..., nn.Module]
    others: Callable[..., nn.Module]
    drawn: bool = True


def _everywhere(pool: Callable[..., nn.Module], drawn: bool = False) -> _Plan:
    return _Plan(pool, pool, drawn)


RECIPE = Recipe(
    words="the first max pooling a tree of two learned filters, each other one max and average pooling with a gate",
    line="model = replace_max_pools(model, TreePool2d, GatedMaxAvgPool2d)",
    surgery=lambda model: replace_max_pools(model, TreePool2d, GatedMaxAvgPool2d),
)

STUDY = Study(
    paper="generalized_pooling",
    question="Does a small image classifier get better if its pooling is learned, once every arm has its own rate?",
    claim="A tree of learned filters and gated max-average pooling give a higher test accuracy than max pooling.",
    arms={
        "max": Arm("max pooling", _everywhere(nn.MaxPool2d)),
        "tree_gated": Arm("a tree of two levels, then gated max-average pooling", _Plan(TreePool2d, GatedMaxAvgPool2d)),
        "mixed": Arm("mixed max-average pooling, one learned share a layer", _everywhere(MixedPool2d)),
        "average": Arm("control: average pooling", _everywhere(nn.AvgPool2d)),
        "filter": Arm(
            "control: one learned filter a layer without a gate", _everywhere(partial(TreePool2d, levels=1), drawn=True)
        ),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "moved_accuracy": Metric.higher("accuracy on test images turned, scaled and moved", 0.01),
    },
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of 2 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, two pooling layers of 2x2 regions that do not overlap "
        "and fewer than four passes over 4,000 images: nothing follows for the paper's regions of 3x3 at stride 2, for "
        "deep networks with normalization, or for long training: in one trial of 1,200 steps on 2,000 images three "
        "arms were alike. The share of mixed pooling and the noise of all filters start at one value each, not "
        "tuned."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images, still and moved."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(4_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=20, desk=450, gpu=8_000)

    def train(rate: float) -> Trained:
        drawn = {"generator": setting.generator("method")} if arm.make.drawn else {}
        pools = [partial(pool, **drawn) for pool in (arm.make.first, arm.make.others)]
        model = replace_max_pools(task.network(halved(LeNet)), *pools).to(setting.device)
        optimizer = Adam(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=MultiStepLR(optimizer, [steps * 3 // 4]))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model, test = tuned.best.model, task.data.test
    moved = _moved(test.images, setting.generator("evaluation"))
    return task.outcome(
        tuned,
        metrics={
            **tuned.best.accuracy_and_loss,
            "moved_accuracy": evaluate_classifier(model, moved, test.labels).accuracy,
        },
        made={"first_pool": partial(arm.make.first), "other_pools": partial(arm.make.others)},
        arguments={"parameters": count_parameters(model)},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 30 degrees, scale by 0.8 to 1.25 and move by up to an eighth of a side, each image by itself."""
    angle, scale, right, down = (2 * torch.rand(4, len(images), generator=generator) - 1).to(images.device)
    reach = images.shape[-1] / 8
    return affine(images, angle=30 * angle, scale=1.25**scale, right=reach * right, down=reach * down)
