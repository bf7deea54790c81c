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

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.architecture.vanillanet import VanillaNet, deployed
from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, fit_classifier, loss_curve
from paperweight.nets import ResNet, count_parameters
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="vanillanet",
    question="Do deep training and series activations make a plain network better, once every arm has its own rate?",
    claim="A plain network trained deep and with series activations has a higher test accuracy than without both.",
    arms={
        "plain": "a plain network: one convolution a layer, ReLU",
        "vanillanet": "deep training and series activations of reach 3",
        "deep_training": "deep training alone",
        "series": "series activations alone",
        "resnet": "control: a residual network of 8 layers with about the multiplications of the deployed method",
        "plain_longer": "control: the plain network with twice the steps, more than the method's computing time",
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

_RATES = (0.003, 0.01, 0.03, 0.1)
_STRIDES = (2, 2)
_PATCH = 2
_REACH = 3
_BATCH = 32
_LONGER = 2
_DECAY = 0.05
_DEEP_SHARE = 1 / 3  # of the epochs, until lam is 1


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images once deployed."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=600, gpu=20_000),
        validation=setting.pick(smoke=50, desk=300, gpu=5_000),
        test=setting.pick(smoke=50, desk=890, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=12, desk=150, gpu=5_000)
    steps = steps * _LONGER if arm == "plain_longer" else steps
    dims = setting.pick(smoke=(4, 8, 16), desk=(16, 32, 64), gpu=(64, 128, 256))
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics).contiguous(memory_format=torch.channels_last)
        for part in (data.train, data.validation, data.test)
    )
    build = _builder(arm, data.shape, len(data.classes), dims)
    tries: list[tuple[Evaluation, nn.Module, float, Tensor]] = []
    for rate in _RATES:
        model = convert_conv2d_weight_memory_format(setting.initialised(build), torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=_DECAY, fused=True)
        losses = fit_classifier(
            model,
            optimizer,
            images,
            data.train.labels,
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            schedule=CosineAnnealingLR(optimizer, steps),
            on_step=_deep_training(model, steps, max(1, len(images) // _BATCH)),
        )
        tries.append((evaluate_classifier(model, validation, data.validation.labels), model, rate, losses))
    _, model, rate, losses = best_of(tries, lambda attempt: attempt[0].loss, better="lower")
    before = evaluate_classifier(model, test, data.test.labels)
    final = _deployed(model)
    tested = evaluate_classifier(final, test, data.test.labels)
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "multiplications": _multiplications(final, test[:1]) / 1000,
            "merging_loss": before.accuracy - tested.accuracy,
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "parameters_in_training": count_parameters(model),
            "parameters_deployed": count_parameters(final),
            "channels": " / ".join(map(str, dims)),
            "batch_size": _BATCH,
            "steps": steps,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "validation loss, by log10 learning rate": [(math.log10(rate), tried.loss) for tried, _, rate, _ in tries],
        },
        correct=tested.correct,
    )


def _builder(arm: str, shape: tuple[int, int, int], classes: int, dims: tuple[int, ...]) -> Callable[[], nn.Module]:
    """Return what builds the arm's network."""

    def vanilla(act_num: int, deep: bool) -> VanillaNet:
        return VanillaNet(shape, classes, dims, _STRIDES, _PATCH, act_num, deep)

    if arm != "resnet":
        series, deep = arm in ("vanillanet", "series"), arm in ("vanillanet", "deep_training")
        return lambda: vanilla(_REACH if series else 0, deep)

    def multiplications(width: int) -> int:
        return _multiplications(ResNet(shape, classes, 8, width), torch.zeros(1, *shape))

    with torch.random.fork_rng(devices=[]):
        wanted = _multiplications(vanilla(_REACH, deep=False), torch.zeros(1, *shape))
        above = next(width for width in count(2) if multiplications(width) >= wanted)
        width = min((above - 1, above), key=lambda width: abs(multiplications(width) - wanted))
    return lambda: ResNet(shape, classes, 8, width)


def _deep_training(model: nn.Module, steps: int, steps_per_epoch: int) -> Callable[[int, Tensor], None] | None:
    """Return what raises lam epoch by epoch, from 0 to 1."""
    if not isinstance(model, VanillaNet):
        return None
    epochs = max(1, round(_DEEP_SHARE * steps / steps_per_epoch))

    def on_step(step: int, _: Tensor) -> None:
        if (step + 1) % steps_per_epoch == 0:
            model.set_lambda(min(1.0, (step + 1) // steps_per_epoch / epochs))

    return on_step


def _deployed(model: nn.Module) -> nn.Module:
    """Return the network to run; a residual network, whose normalizations could be folded too, stays as it is."""
    return deployed(model) if isinstance(model, VanillaNet) else model


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
