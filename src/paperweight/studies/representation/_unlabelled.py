"""Features that a network learns without labels, in several ways, for a linear classifier on them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.data import random_crop
from paperweight.loops import index_batches, minimise
from paperweight.nets import evaluating
from paperweight.representation.noise_as_targets import NoiseAsTargets, noise_targets

__all__ = ["BATCH", "Convolutions", "Learned", "Task", "encoded", "noise", "pixels", "untrained"]

BATCH = 64
_DIM = 32


class Task(NamedTuple):
    """What features are learned with: a network that gives them, images, passes over these, and a rate."""

    features: nn.Module
    images: Tensor
    passes: int
    rate: float
    generator: torch.Generator

    @property
    def updates(self) -> int:
        """The updates that the passes make."""
        return self.passes * -(-len(self.images) // BATCH)

    def onto(self, dim: int) -> tuple[nn.Module, AdamW]:
        """Put a linear layer of so many units on the features, drawn from the generator."""
        with evaluating(self.features), torch.no_grad():
            codes: Tensor = self.features(self.images[:2])
        layer = nn.Linear(codes.shape[1], dim, device="meta", dtype=codes.dtype).to_empty(device=codes.device)
        drawn = torch.randn(dim, codes.shape[1], generator=self.generator, device=self.generator.device)
        with torch.no_grad():
            layer.weight.copy_(drawn / codes.shape[1] ** 0.5)
            layer.bias.zero_()
        model = nn.Sequential(self.features, layer)
        return model, AdamW([p for p in model.parameters() if p.requires_grad], lr=self.rate)


class Learned(NamedTuple):
    """What gives the features, and what else was made."""

    features: nn.Module
    made: dict[str, object]


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images by up to a seventh of their side, and go on at the borders as they end there."""
    height, width = images.shape[2:]
    far = min(height, width) // 7
    padded = F.pad(images, (far, far, far, far), mode="replicate")
    return random_crop(padded, far, generator=generator)[..., far : far + height, far : far + width]


def untrained(task: Task) -> Learned:
    """Leave the network as it is."""
    return Learned(task.features, {})


def pixels(task: Task) -> Learned:
    """Take the images themselves."""
    return Learned(nn.Flatten(), {})


def noise(task: Task, every: int = 3) -> Learned:
    """Learn to match noise, which is reassigned in one pass of a few, or of 0 never."""
    model, optimizer = task.onto(_DIM)
    targets = noise_targets(len(task.images), _DIM, generator=task.generator).to(task.images)
    training = NoiseAsTargets(model, optimizer, task.images, targets, every, BATCH, _view, generator=task.generator)
    for _ in range(task.passes):
        training.step()
    return Learned(task.features, {"optimizer": optimizer, "training": training})


def encoded(task: Task) -> Learned:
    """Learn to give back, by a linear layer, the images of which the network sees shifted ones."""
    model, optimizer = task.onto(task.images[0].numel())

    def loss(index: Tensor) -> Tensor:
        images = task.images[index]
        return F.mse_loss(model(_view(images, task.generator)), images.flatten(1))

    batches = index_batches(len(task.images), BATCH, task.generator, task.images.device)
    minimise(loss, optimizer, batches, steps=task.updates)
    return Learned(task.features, {"optimizer": optimizer})


class Convolutions(nn.Sequential):
    """Two convolutions and a linear layer with batch normalization, as the paper's network has it, and the last one."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = shape
        first, second = nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        super().__init__(
            *(first, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(second, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * (height // 4) * (width // 4), 64), nn.BatchNorm1d(64), nn.ReLU()),
            nn.Linear(64, classes),
        )
