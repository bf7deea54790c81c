"""Local learning with auxiliary networks of later layers is as accurate as back-propagation (Ma et al. 2024).

A residual network of a stem and six blocks learns characters at half their size, by SGD with Nesterov's momentum 0.9
and a rate that falls along a cosine. Each of the seven layers is a part of its own, to which no gradient comes from
later ones. The headline is test accuracy, against the same network trained by back-propagation. Memory is what autograd
keeps at most during a step that goes through the parts one after the other, as a share of what it keeps in
back-propagation; weights and gradients are not in it.

What it can show: whether auxiliary networks of depth 2 make local learning as accurate here, and how much memory that
takes. An accuracy below that of back-propagation by more than the smallest effect would refute the claim here, and so
would a memory that is not smaller. Parts that are each followed by a linear classifier alone ask what auxiliary
networks are good for; auxiliary networks like the next layers, whether it matters that they reach the last ones.
"""

from functools import partial
from typing import NamedTuple

from torch import nn
from torch.optim import SGD

from paperweight.data import Splits
from paperweight.loops import local_gradients, peak_saved_bytes, tune, warmed_cosine
from paperweight.nets import ResNet, count_parameters, halved
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
from paperweight.studies.training._local_recipe import classes_of, fits_local, sum_of_cross_entropies, summed
from paperweight.training.auglocal import AugLocal, Choose, aux_layer_indices

_RATES = (0.05, 0.2, 0.8)
_BATCH = 32


def _next(layer: int, layers: int, depth: int) -> range:
    return range(layer + 1, min(layer + depth, layers - 1) + 1)


def _none(layer: int, layers: int, depth: int) -> tuple[int, ...]:
    return ()


class _Plan(NamedTuple):
    """Which layers an auxiliary network is made like, and the number of parts, of which there are as many as layers."""

    choose: Choose = aux_layer_indices
    parts: int | None = None


def _local(model: nn.Module) -> nn.Module:
    return AugLocal(model, classes_of(model))


def _fits(model: nn.Module, data: Splits) -> str:
    return fits_local(model, data, _local)


RECIPE = Recipe(
    words="each residual block trained by its own loss, through an auxiliary network of two blocks like later ones",
    line="model = AugLocal(model, classes)  # loss = sum(F.cross_entropy(scores, labels) for scores in model(images))",
    surgery=_local,
    loss=sum_of_cross_entropies,
    fits=_fits,
)

STUDY = Study(
    paper="auglocal",
    question="Is a residual network as accurate trained block by block, with auxiliary networks, as trained whole?",
    claim="With auxiliary networks like later layers, local learning takes less memory and is not less accurate.",
    arms={
        "back_propagation": Arm("the whole network by one loss: the method with one part", _Plan(parts=1)),
        "auglocal": Arm("each layer alone, auxiliary networks of depth 2 to 1 like layers up to the last", _Plan()),
        "next_layers": Arm("control: the same depth, auxiliary networks like the next layers", _Plan(_next)),
        "linear": Arm("control: each layer alone, with a linear classifier on the mean of its maps", _Plan(_none)),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "memory": Metric.lower("memory kept for backward passes", 0.05, "share of that of back-propagation"),
    },
    headline="accuracy",
    tuned="the learning rate, 3 tries an arm and seed, a factor of 4 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, seven layers of 4 to 16 channels and some 6 epochs of "
        "1,000 images at the desk budget, at whose end all losses still fall: local learning may only be slower here. "
        "With 4 times the steps, one rate and one seed for trying out, it had an accuracy of 0.8585 and "
        "back-propagation 0.8445. Nothing follows for networks of 32 or 110 layers. Depth and pyramid are those of the "
        "authors' example with 32 layers, not tuned. Memory is counted as autograd keeps it, not measured on a GPU."
    ),
    seeds=8,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=2, desk=200, gpu=10_000)
    depth, width = setting.pick(smoke=(8, 4), desk=(14, 4), gpu=(32, 16))
    build = halved(partial(ResNet, depth=depth, width=width))

    def made(plan: _Plan) -> AugLocal:
        draws = setting.generator("method")
        return AugLocal(task.network(build), task.classes, choose=plan.choose, parts=plan.parts, generator=draws)

    def train(rate: float) -> Trained:
        model = made(arm.make)
        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
        schedule = warmed_cosine(optimizer, steps)
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, loss=summed, schedule=schedule)

    def kept(plan: _Plan) -> int:
        model, batch = made(plan), (task.train.images[:_BATCH], task.train.labels[:_BATCH])
        parts, losses = model.local_parts(), model.local_objectives()
        return peak_saved_bytes(lambda: local_gradients(parts, losses, *batch), model.parameters())

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = made(arm.make)
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "memory": kept(arm.make) / kept(_Plan(parts=1))},
        made={"local": model},
        arguments={"parameters": count_parameters(model.model), "of_auxiliaries": count_parameters(model.auxiliaries)},
    )
