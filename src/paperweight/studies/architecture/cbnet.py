"""A composite backbone does better than a wider one with as many weights, pre-trained alike (Liang et al. 2022).

COCO, its detectors and large backbones are out of reach here: what is weighed is the direction. Small convolutional
networks learn to tell single shapes, and then, as backbones of a feature pyramid, to segment scenes of shapes that hide
one another, in noise, by Adam, its rate rising over a tenth of the steps and falling along a cosine; each arm has its
own rate for that. The composite backbone has two copies of a pre-trained backbone with dense higher-level connections,
and in training the pyramid works on the features of both. The baseline has one backbone, wide enough to have as many
weights, pre-trained in as many steps. The headline is the mean over five classes of pixels, the background among them,
of intersection over union.

What it can show: whether two connected copies of a small backbone do better than one wider one. A headline that is not
higher would refute the claim here. Without supervision of the assistant it is asked what that does. The small backbone
alone is what the composite is made of; where that does as well, connections and copies do nothing.
"""

import copy
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.architecture.cbnet import CompositeBackbone, CompositeFeatures, composite_loss
from paperweight.loops import fit_classifier, index_batches, loss_curve, minimise, tune, warmed_cosine
from paperweight.nets import count_parameters, evaluating
from paperweight.studies import TEST_LOSS, Arm, Metric, Outcome, Setting, Study
from paperweight.studies.architecture._shape_scenes import (
    CLASSES,
    Pyramid,
    Scenes,
    ShapeClassifier,
    channels_of,
    draw_scenes,
    draw_single,
    mean_iou,
)

_RATES = (0.003, 0.008, 0.02, 0.05)
_BATCH = 8
_PRETRAINING_RATE = 0.01


class _Plan(NamedTuple):
    """Channels of a backbone's first stage, number of backbones, and whether the assistant is supervised."""

    width: int = 8
    copies: int = 2
    supervised: bool = True


STUDY = Study(
    paper="cbnet",
    question="Do two connected copies of a backbone segment better than one backbone with as many weights?",
    claim="A composite backbone gives a higher mean intersection over union than a wider backbone.",
    arms={
        "wider": Arm("one backbone, half as wide again: about as many weights", _Plan(width=12, copies=1)),
        "composite": Arm("two backbones, dense higher-level connections, the assistant supervised", _Plan()),
        "unsupervised": Arm("variant: the assistant not supervised", _Plan(supervised=False)),
        "single": Arm("what the composite is made of: one backbone", _Plan(copies=1)),
    },
    metrics={
        "iou": Metric.higher("mean intersection over union", 0.02),
        "test_loss": TEST_LOSS,
        "numbers": Metric.lower("numbers learned", 1_000, "numbers"),
    },
    headline="iou",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 2.5 apart, from one grid: by validation loss",
    limits=(
        "Scenes of two shapes in 16 x 16 pixels, backbones of four convolutions, some 2.5 passes over 1,000 scenes: "
        "nothing follows for COCO, detectors, ResNets or Swin, for other connections or three backbones, or for long "
        "training, in which connections that start at 0 may grow more. Equal are the numbers learned, not the cost. "
        "Pre-training has one rate, the same for both widths. First designs, with fewer updates on larger batches and "
        "same-level connections as an arm, were given up on trial seeds, on which runs differed too much. Weighed "
        "before on the first 8 of these seeds, without the highest rate, which could not decide: -0.020, of an "
        "interval from -0.048 to 0.004."
    ),
    seeds=16,
)


@final
class _Segmenter(nn.Module):
    """A pyramid on the maps of each backbone from the second stage on, the lead's first."""

    def __init__(self, backbone: nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = Pyramid(channels[1:], 16, CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: CompositeFeatures = self.backbone(x)
        return [self.pyramid(maps[1:]) for maps in (features.lead, *features.assistants)]


class _Tried(NamedTuple):
    model: _Segmenter
    optimizer: Adam
    losses: Tensor


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Pre-train, then train once with each rate; report what the best on validation scenes does on test scenes."""
    plan, device = arm.make, setting.device
    size, overlaid = setting.pick(smoke=8, desk=16, gpu=64), setting.pick(smoke=2, desk=2, gpu=4)
    numbers = setting.pick(smoke=(40, 20, 20), desk=(1_000, 200, 1_000), gpu=(10_000, 1_000, 2_000))
    pretraining, steps = setting.pick(smoke=(2, 2), desk=(400, 320), gpu=(5_000, 5_000))
    data = setting.generator("data")
    train, validation, test = (_on(device, draw_scenes(count, size, overlaid, generator=data)) for count in numbers)

    def pretrained() -> dict[str, Tensor]:
        network = setting.initialised(lambda: ShapeClassifier(plan.width))
        images, labels = draw_single(2 * numbers[0], size, setting.generator("method"))
        optimizer = Adam(network.parameters(), lr=_PRETRAINING_RATE)
        fit_classifier(
            network,
            optimizer,
            images.to(device),
            labels.to(device),
            steps=pretraining,
            batch_size=32,
            generator=setting.generator("batches"),
            schedule=warmed_cosine(optimizer, pretraining),
        )
        return network.state_dict()

    network = ShapeClassifier(plan.width).to(device)
    network.load_state_dict(setting.cached(f"backbone of width {plan.width}", pretrained))
    channels = channels_of(plan.width)

    def build() -> _Segmenter:
        backbone = CompositeBackbone(copy.deepcopy(network.stages), channels, plan.copies)
        return _Segmenter(backbone, channels)

    def attempt(rate: float) -> _Tried:
        model = setting.initialised(build).train()
        optimizer = Adam(model.parameters(), lr=rate, fused=True)

        def loss(index: Tensor) -> Tensor:
            lead, *assistants = (F.cross_entropy(scores, train.labels[index]) for scores in model(train.images[index]))
            return composite_loss(lead, assistants) if plan.supervised else lead

        batches = index_batches(len(train.images), _BATCH, setting.generator("batches"), device)
        losses = minimise(loss, optimizer, batches, steps=steps, schedule=warmed_cosine(optimizer, steps))
        return _Tried(model, optimizer, losses)

    tuned = tune(_RATES, attempt, lambda tried: _loss_and_iou(tried.model, validation)[0], better="lower")
    test_loss, iou = _loss_and_iou(tuned.best.model, test)
    numbers_learned = count_parameters(tuned.best.model)
    return Outcome(
        metrics={"iou": iou, "test_loss": test_loss, "numbers": float(numbers_learned)},
        made={"optimizer": tuned.best.optimizer, "backbone": tuned.best.model.backbone},
        tuned={"lr": tuned},
        arguments={**plan._asdict(), "steps": steps, "batch_size": _BATCH, "size": size, "scenes": numbers[0]},
        curves={"training loss, by step": loss_curve(tuned.best.losses)},
    )


def _on(device: torch.device, scenes: Scenes) -> Scenes:
    return Scenes(scenes.images.to(device), scenes.labels.to(device))


@torch.no_grad()
def _loss_and_iou(model: _Segmenter, scenes: Scenes) -> tuple[float, float]:
    with evaluating(model):
        scores = model(scenes.images)[0]
    return F.cross_entropy(scores, scenes.labels).item(), mean_iou(scores.argmax(1), scenes.labels, CLASSES)
