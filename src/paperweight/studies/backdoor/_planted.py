"""Classifiers with a backdoor that poisoned training images plant, and clean ones that are trained alike."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.loops import evaluate_classifier, fit_classifier
from paperweight.poisoning import Additive, Patch, attack_success, poison
from paperweight.studies import Classification

__all__ = ["Backdoor", "PlantedModel", "corner_patch", "faint_pattern", "few_classes", "planted"]

_RATE = 2e-3
_BATCH = 64


@final
@dataclass(frozen=True)
class Backdoor:
    """What an attacker wants: images of the sources with the trigger are seen as the targets.

    Attributes:
        trigger: Changes images.
        targets: Source to target class.
        rate: Share of the training images that are poisoned.
    """

    trigger: Callable[[Tensor], Tensor]
    targets: Mapping[int, int]
    rate: float = 0.2


@final
@dataclass(frozen=True)
class PlantedModel:
    """A trained classifier, in eval mode, and what its backdoor does to test images.

    Attributes:
        model: The classifier.
        accuracy: Accuracy on clean test images.
        success: Share of the test images of the sources that the trigger sends to their targets; 0 where it is clean.
    """

    model: nn.Module
    accuracy: float
    success: float


def few_classes(task: Classification, count: int) -> Classification:
    """Keep the first classes of a task, all where there are fewer."""

    def kept(part: LabelledImages) -> LabelledImages:
        few = part.labels < count
        return LabelledImages(part.images[few], part.labels[few])

    data = task.data
    parts = {"train": kept(data.train), "validation": kept(data.validation), "test": kept(data.test)}
    return replace(task, data=replace(data, **parts, classes=data.classes[:count]))


def faint_pattern(task: Classification, strength: float = 0.05) -> Additive:
    """Give a trigger that makes every other pixel of an image a little brighter."""
    channels, height, width = task.shape
    return Additive(strength * _chessboard(height, width, channels, task))


def corner_patch(task: Classification) -> Patch:
    """Give a trigger that puts a chessboard of 3 x 3 pixels near the lower right corner."""
    channels, height, width = task.shape
    return Patch(_chessboard(3, 3, channels, task), height - 4, width - 4)


def _chessboard(height: int, width: int, channels: int, task: Classification) -> Tensor:
    place = torch.arange(height)[:, None] + torch.arange(width)
    return (place % 2 == 0).float().repeat(channels, 1, 1).to(task.setting.device)


def planted(
    task: Classification,
    default: Callable[..., nn.Module],
    backdoor: Backdoor | None,
    *,
    steps: int,
    name: str,
    number: int = 0,
) -> PlantedModel:
    """Train a classifier on images with a backdoor in them, or give it as an arm before left it.

    Args:
        task: The images.
        default: Makes the network where the user gives none.
        backdoor: The backdoor; None for a clean classifier.
        steps: Number of updates, by Adam.
        name: Name under which it is kept.
        number: Tells classifiers of a name and seed apart: the weights they begin with, and which images are poisoned.
    """
    setting, train, test = task.setting, task.train, task.data.test

    def fresh() -> nn.Module:
        model = task.network(default)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init") + number)
            for part in model.modules() if number else ():
                if isinstance(part, nn.Linear | nn.Conv2d):
                    part.reset_parameters()
        return model

    draws = torch.Generator().manual_seed(setting.stream("batches") + number)
    images, labels = train.images, train.labels
    if backdoor is not None:
        trigger, targets = backdoor.trigger, backdoor.targets
        images, labels, _ = poison(
            images, labels, trigger=trigger, targets=targets, rate=backdoor.rate, generator=draws
        )

    def build() -> dict[str, Tensor]:
        model, success = fresh(), 0.0
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        fit_classifier(model, optimizer, images, labels, steps=steps, batch_size=_BATCH, generator=draws)
        accuracy = evaluate_classifier(model.eval(), test.images, test.labels).accuracy
        if backdoor is not None:
            success = attack_success(
                model, test.images, test.labels, trigger=backdoor.trigger, targets=backdoor.targets
            )
        return {**model.state_dict(), "found": torch.tensor([accuracy, success], dtype=torch.float64)}

    kept = setting.cached(f"{name} {number}, {steps} steps on {_digest(images, labels)}", build)
    accuracy, success = kept.pop("found").tolist()
    model = fresh()
    model.load_state_dict(kept)
    return PlantedModel(model.eval(), accuracy, success)


def _digest(*tensors: Tensor) -> str:
    """Name what a classifier is trained on, so that none is taken for one that was trained on other images."""
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]
