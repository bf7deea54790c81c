"""VanillaNet's deep training and series activations make a plain, shallow network accurate (Chen et al. 2023).

A network of a stem, two stages and a classifier learns from few images with AdamW, the rate falling along a cosine. A
series activation sums over the pixels around, which 1x1 convolutions and ReLU never look at: against these alone any
look at neighbours wins. So the baseline looks, too: a plain network of as many layers, with 3x3 convolutions in its
stages, as wide as has about the multiplications of the deployed method. Beside it the two are switched on and off;
without series activations an activation is a ReLU with a scale of its own (series of reach 0), so that all else stays,
normalizations among it. In deep training lam grows linearly, epoch by epoch, and reaches 1 after a third of the epochs,
as in the authors' recipe. Every arm has its own rate, chosen on validation images. The method and its parts are tested
as they would run: normalizations folded and pairs merged. The headline is test accuracy; told besides are the
multiplications for one image once deployed, and the accuracy that merging loses, which should be none.

What it can show: whether each of the two, or both, make a network of 1x1 convolutions better, and whether their
multiplications are better spent than on ordinary convolutions. What it cannot: anything about ImageNet, about long
training with heavy augmentation, or about latency on a GPU, the point of a network of few layers. An accuracy not above
that of the plain network would refute the claim here, and so would one that longer training of it reaches. As high an
accuracy by series activations alone would show that deep training is not needed for it.
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
from paperweight.nets import count_parameters
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Setting, Study, Trained, classification

_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
_STRIDES = (2, 2)
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


def _patch(shape: _Shape) -> int:
    """Choose the paper's patches of 4 x 4 pixels, or 2 x 2 where images are too small for these."""
    return 4 if min(shape[1:]) >= 16 else 2


def _vanilla(shape: _Shape, classes: int, dims: _Dims, act_num: int = 0, deep: bool = False) -> partial[nn.Module]:
    return partial(VanillaNet, shape, classes, dims, _STRIDES, _patch(shape), act_num, deep)


def _plain(shape: _Shape, classes: int, width: int) -> nn.Sequential:
    """Make a network of as many layers as the method has deployed, those of its stages 3x3 convolutions."""
    patch = _patch(shape)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, patch, stride=patch, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    for stride in _STRIDES:
        layers += [nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)]
        layers += [nn.MaxPool2d(stride), nn.ReLU()]
        width *= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _as_costly(shape: _Shape, classes: int, dims: _Dims) -> partial[nn.Module]:
    """Make a plain network as wide as has about the multiplications of the method."""

    def multiplications(build: Callable[[], nn.Module]) -> int:
        return _multiplications(build(), torch.zeros(1, *shape))

    def wide(width: int) -> partial[nn.Module]:
        return partial(_plain, shape, classes, width)

    with torch.random.fork_rng(devices=[]):
        wanted = multiplications(_vanilla(shape, classes, dims, _REACH))
        above = next(width for width in count(2) if multiplications(wide(width)) >= wanted)
        return wide(min((above - 1, above), key=lambda width: abs(multiplications(wide(width)) - wanted)))


class _Plan(NamedTuple):
    """How the network is made from shape, classes and channels, and a factor of the steps."""

    network: Callable[[_Shape, int, _Dims], partial[nn.Module]]
    step_factor: int = 1


STUDY = Study(
    paper="vanillanet",
    question="Do deep training and series activations make 1x1 convolutions better than plain 3x3 ones of equal cost?",
    claim=(
        "A network of 1x1 convolutions, trained deep and with series activations, has a higher test accuracy than a "
        "plain one of 3x3 convolutions with about as many multiplications."
    ),
    arms={
        "plain": Arm(
            "a plain network of 3x3 convolutions and ReLU with about the multiplications of the deployed method",
            _Plan(_as_costly),
        ),
        "vanillanet": Arm(
            "deep training and series activations of reach 3", _Plan(partial(_vanilla, act_num=_REACH, deep=True))
        ),
        "pointwise": Arm("without both: convolutions of 1x1 and ReLU, no look at neighbours", _Plan(_vanilla)),
        "deep_training": Arm("deep training alone", _Plan(partial(_vanilla, deep=True))),
        "series": Arm("series activations alone", _Plan(partial(_vanilla, act_num=_REACH))),
        "plain_longer": Arm(
            "control: the plain network with twice the steps",
            _Plan(_as_costly, step_factor=2),
        ),
    },
    metrics={
        "accuracy": ACCURACY,
        "multiplications": Metric.lower("multiplications for one image, deployed", 1.0, "thousands"),
        "merging_loss": Metric.lower("test accuracy lost by merging", 0.001),
    },
    headline="accuracy",
    tuned="the learning rate, 5 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, a network of four layers, no augmentation, and few epochs, where deep training is made for "
        "hundreds: nothing follows for ImageNet or for deeper networks. Cost is counted in multiplications, not "
        "measured as latency."
    ),
    seeds=14,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images once deployed."""
    task = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 500, 1_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
    )
    parts = {name: _channels_last(getattr(task.data, name)) for name in ("train", "validation", "test")}
    task = replace(task, data=replace(task.data, **parts))
    steps = setting.pick(smoke=12, desk=400, gpu=5_000) * arm.make.step_factor
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
    final = deployed(model) if isinstance(model, VanillaNet) else model  # the plain one stays as it is
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
