"""Slow copies of the layer that follows a part make local learning more accurate (Su et al. 2024).

A residual network of a stem and three blocks, cut into three parts, learns characters at half their size by SGD with
Nesterov's momentum 0.9 and a rate that falls along a cosine. No gradient goes from one part to another. The baseline
trains each part through the authors' auxiliary head alone, one convolution and two linear layers; the method puts
before it an average of the layer that follows and a copy of it that is trained along. The headline is test accuracy.
Memory is what autograd keeps at most during a step that goes through the parts one after the other, as a share of what
it keeps in back-propagation; weights and gradients are not in it.

What it can show: whether the two copies make local learning more accurate here. An accuracy not above that of heads
alone would refute the claim here. The trained copy alone asks whether the average has anything to do with it, or the
auxiliary network is only deeper; the average alone, whether it needs the trained one. Back-propagation is what the
paper says it comes near to, or beats.
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
from paperweight.training.momentum_auxiliary_network import MomentumAuxiliaryNetwork

_RATES = (0.05, 0.2, 0.8)
_BATCH = 32
_MOMENTUM = 0.9


class _Plan(NamedTuple):
    """Whether a part sees the average and the trained copy of the layer that follows it, and the number of parts."""

    average: bool
    bias: bool
    parts: int = 3


_WHOLE = _Plan(average=False, bias=False, parts=1)


def _local(model: nn.Module) -> nn.Module:
    return MomentumAuxiliaryNetwork(model, classes_of(model), momentum=_MOMENTUM)


def _fits(model: nn.Module, data: Splits) -> str:
    return fits_local(model, data, _local)


RECIPE = Recipe(
    words="each residual block trained by its own loss, through a slow and a trained copy of the next block",
    line="model = MomentumAuxiliaryNetwork(model, classes, momentum=0.9)  # the loss: summed over model(images)",
    surgery=_local,
    loss=sum_of_cross_entropies,
    fits=_fits,
)

STUDY = Study(
    paper="momentum_auxiliary_network",
    question="Do copies of the layer that follows make a network that is trained in parts more accurate?",
    claim="With an average and a trained copy of the next layer, local learning is more accurate than with heads only.",
    arms={
        "heads": Arm("local learning with the auxiliary heads alone", _Plan(average=False, bias=False)),
        "man": Arm("an average of the next layer and a trained copy before each head", _Plan(average=True, bias=True)),
        "average": Arm("variant: the average alone", _Plan(average=True, bias=False)),
        "bias": Arm("control: the trained copy alone", _Plan(average=False, bias=True)),
        "back_propagation": Arm("the goal: the whole network by one loss", _WHOLE),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "memory": Metric.lower("memory kept for backward passes", 0.05, "share of that of back-propagation"),
    },
    headline="accuracy",
    tuned="the learning rate, 3 tries an arm and seed, a factor of 4 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, three parts of four layers with 4 to 16 channels and "
        "some 12 epochs of 1,000 images at the desk budget: nothing follows for deep networks or long training. The "
        "momentum is 0.9, not tuned: the authors' 0.995 or more looks back over more steps than there are here. The "
        "authors' reconstruction of the image is left out. With three parts both copies keep more memory than "
        "back-propagation does, against that half of the paper's claim, which is of many parts."
    ),
    seeds=9,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=2, desk=400, gpu=10_000)
    depth, channels = setting.pick(smoke=(8, 4), desk=(8, 4), gpu=(32, 16))
    build = halved(partial(ResNet, depth=depth, width=channels))

    def made(plan: _Plan) -> MomentumAuxiliaryNetwork:
        draws, network = setting.generator("method"), task.network(build)
        return MomentumAuxiliaryNetwork(network, task.classes, _MOMENTUM, generator=draws, **plan._asdict())

    def train(rate: float) -> Trained:
        model = made(arm.make)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = SGD(trained, lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
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
        metrics={**tuned.best.accuracy_and_loss, "memory": kept(arm.make) / kept(_WHOLE)},
        made={"local": model},
        arguments={"parameters": count_parameters(model.model), "of_auxiliaries": count_parameters(model.auxiliaries)},
    )
