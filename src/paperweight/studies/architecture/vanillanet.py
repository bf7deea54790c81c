"""VanillaNet's deep training and series activations make a plain, shallow network accurate (Chen et al. 2023).

A network of a stem, two stages and a classifier learns from few images with AdamW, the rate falling along a cosine.
The arms switch deep training and series activations on and off; without the latter an activation is a ReLU with a
scale of its own (series of reach 0), so that all else stays, normalizations among it. In deep training lam grows
linearly, epoch by epoch, and reaches 1 after a third of the epochs, as in the authors' recipe. Every arm has its own
rate, chosen on validation images. All arms are tested as they would run: normalizations folded and pairs merged. The
headline is test accuracy; told besides are the multiplications for one image once deployed, and the accuracy that
merging loses, which should be none.

What it can show: whether each of the two, or both, make this network better, and what they cost to run. What it cannot:
anything about ImageNet, about long training with heavy augmentation, or about latency on a GPU, the point of a network
of few layers. An accuracy of the plain network that is as high would refute the claim here, and so would one that plain
training for at least the same computing time reaches. Series activations add multiplications: a small residual network
with about as many, deployed, asks whether they are better spent on ordinary 3x3 convolutions.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.architecture.vanillanet import VanillaNet, deployed
from paperweight.data import LabelledImages
from paperweight.loops import tune
from paperweight.nets import ResNet, count_parameters
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification

_RATES = (0.003, 0.01, 0.03, 0.1)
_STRIDES = (2, 2)
_PATCH = 2
_REACH = 3
_BATCH = 32
_DECAY = 0.05
_DEEP_SHARE = 1 / 3  # of the epochs, until lam is 1

_Shape = tuple[int, int, int]
_Dims = tuple[int, int, int]


@torch.no_grad()
def _multiplications(model: nn.Module, image: Tensor) -> int:
    """Count the multiplications of convolutions and linear layers for one image, (1, C, H, W)."""
    found: list[int] = []

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        found.append(weight[0].numel() * output.numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    model.eval()(image)
    for hook in hooks:
        hook.remove()
    return sum(found)


def _vanilla(shape: _Shape, classes: int, dims: _Dims, act_num: int = 0, deep: bool = False) -> partial[nn.Module]:
    return partial(VanillaNet, shape, classes, dims, _STRIDES, _PATCH, act_num, deep)


def _residual(shape: _Shape, classes: int, dims: _Dims) -> partial[nn.Module]:
    """Make a residual network as wide as has about the multiplications of the method."""

    def multiplications(build: Callable[[], nn.Module]) -> int:
        return _multiplications(build(), torch.zeros(1, *shape))

    def residual(width: int) -> partial[nn.Module]:
        return partial(ResNet, shape, classes, 8, width)

    with torch.random.fork_rng(devices=[]):
        wanted = multiplications(_vanilla(shape, classes, dims, _REACH))
        above = next(width for width in count(2) if multiplications(residual(width)) >= wanted)
        return residual(min((above - 1, above), key=lambda width: abs(multiplications(residual(width)) - wanted)))


class _Plan(NamedTuple):
    """How the network is made from shape, classes and channels, and a factor of the steps."""

    network: Callable[[_Shape, int, _Dims], partial[nn.Module]]
    step_factor: int = 1


STUDY = Study(
    paper="vanillanet",
    question="Do deep training and series activations make a plain network better, once every arm has its own rate?",
    claim="A plain network trained deep and with series activations has a higher test accuracy than without both.",
    arms={
        "plain": Arm("a plain network: one convolution a layer, ReLU", _Plan(_vanilla)),
        "vanillanet": Arm(
            "deep training and series activations of reach 3", _Plan(partial(_vanilla, act_num=_REACH, deep=True))
        ),
        "deep_training": Arm("deep training alone", _Plan(partial(_vanilla, deep=True))),
        "series": Arm("series activations alone", _Plan(partial(_vanilla, act_num=_REACH))),
        "resnet": Arm(
            "control: a residual network of 8 layers with about the multiplications of the deployed method",
            _Plan(_residual),
        ),
        "plain_longer": Arm(
            "control: the plain network with twice the steps, more than the method's computing time",
            _Plan(_vanilla, step_factor=2),
        ),
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "multiplications": Metric(
            label="multiplications for one image, deployed", unit="thousands", better="lower", minimal_effect=1.0
        ),
        "merging_loss": Metric(label="test accuracy lost by merging", unit="", better="lower", minimal_effect=0.001),
    },
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, a network of four layers, no augmentation, and few epochs, where deep training is made for "
        "hundreds: nothing follows for ImageNet or for deeper networks. Cost is counted in multiplications, not "
        "measured as latency."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images once deployed."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 300, 890), gpu=(20_000, 5_000, 10_000))
    parts = {name: _channels_last(getattr(task.data, name)) for name in ("train", "validation", "test")}
    task = replace(task, data=replace(task.data, **parts))
    steps = setting.pick(smoke=12, desk=150, gpu=5_000) * arm.make.step_factor
    dims = setting.pick(smoke=(4, 8, 16), desk=(16, 32, 64), gpu=(64, 128, 256))
    build = arm.make.network(task.shape, task.classes, dims)

    def train(rate: float) -> Trained:
        model = convert_conv2d_weight_memory_format(setting.initialised(build), torch.channels_last)
        optimizer = AdamW(model.parameters(), lr=rate, weight_decay=_DECAY, fused=True)
        return task.fit(
            model,
            optimizer,
            steps=steps,
            batch_size=_BATCH,
            schedule=CosineAnnealingLR(optimizer, steps),
            on_step=_deep_training(model, steps, max(1, len(task.train) // _BATCH)),
        )

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = tuned.best.model
    final = deployed(model) if isinstance(model, VanillaNet) else model  # a residual network stays as it is
    tested = task.test(final)
    return task.outcome(
        tuned,
        tested=tested,
        metrics={
            "accuracy": tested.accuracy,
            "multiplications": _multiplications(final, task.data.test.images[:1]) / 1000,
            "merging_loss": tuned.best.tested.accuracy - tested.accuracy,
        },
        made={"network": build, "optimizer": tuned.best.optimizer},
        arguments={
            "parameters_in_training": count_parameters(model),
            "parameters_deployed": count_parameters(final),
            "batch_size": _BATCH,
            "steps": steps,
        },
    )


def _channels_last(part: LabelledImages) -> LabelledImages:
    return LabelledImages(part.images.contiguous(memory_format=torch.channels_last), part.labels)


def _deep_training(model: nn.Module, steps: int, steps_per_epoch: int) -> Callable[[int, Tensor], None] | None:
    """Return what raises lam epoch by epoch, from 0 to 1."""
    if not isinstance(model, VanillaNet):
        return None
    epochs = max(1, round(_DEEP_SHARE * steps / steps_per_epoch))

    def on_step(step: int, _: Tensor) -> None:
        if (step + 1) % steps_per_epoch == 0:
            model.set_lambda(min(1.0, (step + 1) // steps_per_epoch / epochs))

    return on_step
