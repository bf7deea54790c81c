"""VanillaNet's deep training and series activations make a plain, shallow network accurate (Chen et al. 2023).

A network of a stem, two stages and a classifier learns from few images with AdamW, the rate falling along a cosine. A
series activation sums over the pixels around, which 1x1 convolutions and ReLU never look at: against these alone any
look at neighbours wins. So the baseline looks, too: a plain network of as many layers, with 3x3 convolutions in its
stages. Without series activations an activation is a ReLU with a scale of its own (series of reach 0), so that all else
stays, normalizations among it. In deep training lam grows linearly, epoch by epoch, and reaches 1 after a third of the
epochs, as in the authors' recipe. The method and its parts are tested as they would run: normalizations folded and
pairs merged, which should lose nothing.

What it can show: whether each of the two, or both, make a network of 1x1 convolutions better, and whether their
multiplications are better spent than on ordinary convolutions. An accuracy not above that of the plain network would
refute the claim here, and so would one that longer training of it reaches. As high an accuracy by series activations
alone would show that deep training is not needed for it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.architecture.vanillanet import VanillaNet, deployed
from paperweight.loops import tune
from paperweight.nets import count_multiplications, count_parameters
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Setting, Study, Trained, classification
from paperweight.studies.architecture._vanilla_networks import REACH, Dims, Shape, as_costly, fading, vanilla

_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
_BATCH = 32


class _Plan(NamedTuple):
    """How the network is made from shape, classes and channels, and a factor of the steps."""

    network: Callable[[Shape, int, Dims], partial[nn.Module]]
    step_factor: int = 1


STUDY = Study(
    paper="vanillanet",
    question="Do deep training and series activations make 1x1 convolutions better than plain 3x3 ones of equal cost?",
    claim="1x1 convolutions, trained deep and with series activations, are more accurate than 3x3 ones of equal cost.",
    arms={
        "plain": Arm("3x3 convolutions and ReLU, with about the multiplications of the method", _Plan(as_costly)),
        "vanillanet": Arm(
            "deep training and series activations of reach 3", _Plan(partial(vanilla, act_num=REACH, deep=True))
        ),
        "pointwise": Arm("without both: convolutions of 1x1 and ReLU, no look at neighbours", _Plan(vanilla)),
        "deep_training": Arm("deep training alone", _Plan(partial(vanilla, deep=True))),
        "series": Arm("series activations alone", _Plan(partial(vanilla, act_num=REACH))),
        "plain_longer": Arm("control: the plain network with twice the steps", _Plan(as_costly, step_factor=2)),
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
        "measured as latency, the point of a network of few layers."
    ),
    seeds=14,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images once deployed."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 500, 1_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(partial(torch.Tensor.contiguous, memory_format=torch.channels_last))
    steps = setting.pick(smoke=12, desk=400, gpu=5_000) * arm.make.step_factor
    dims = setting.pick(smoke=(4, 8, 16), desk=(16, 32, 64), gpu=(64, 128, 256))
    build = arm.make.network(task.shape, task.classes, dims)

    def train(rate: float) -> Trained:
        model = convert_conv2d_weight_memory_format(setting.initialised(build), torch.channels_last)
        optimizer = AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
        schedule, fade = CosineAnnealingLR(optimizer, steps), fading(model, steps, max(1, len(task.train) // _BATCH))
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule, on_step=fade)

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = tuned.best.model
    final = deployed(model) if isinstance(model, VanillaNet) else model  # the plain one stays as it is
    tested = task.test(final)
    return task.outcome(
        tuned,
        tested=tested,
        metrics={
            "accuracy": tested.accuracy,
            "multiplications": count_multiplications(final, task.data.test.images[:1]) / 1000,
            "merging_loss": tuned.best.tested.accuracy - tested.accuracy,
        },
        made={"network": build},
        arguments={"parameters_in_training": count_parameters(model), "parameters_deployed": count_parameters(final)},
    )
