"""What studies share that learn from two views of each image: views, an encoder, a probe, and pre-training."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import Splits, random_crop
from paperweight.loops import Probed, fit_views, linear_probe
from paperweight.nets import evaluating
from paperweight.studies.representation._last_linear import Features, last_linear
from paperweight.studies.representation._unlabelled import Task

__all__ = ["BATCH", "RATE", "Encoder", "encoded", "features_of", "fits_features", "pretrain", "probed", "view"]

BATCH = 64
RATE = 0.003
_AT_ONCE = 1_000
_STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

Loss = Callable[[Tensor, Tensor], Tensor]


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images by up to a fourteenth, change contrast and brightness a little, invert half, and add some noise."""
    height, width = images.shape[2:]
    far = max(1, min(height, width) // 14)
    padded = F.pad(images, (far, far, far, far), mode="replicate")
    shifted = random_crop(padded, far, generator=generator)[..., far : far + height, far : far + width]
    contrast, brightness, sign = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return torch.where(sign < 0.5, -1, 1) * (0.75 + contrast / 2) * shifted + brightness / 2 - 0.25 + 0.1 * noise


class Encoder(nn.Sequential):
    """A small convolutional network with batch normalization, whose 64 features are kept, and a projector."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        super().__init__(
            nn.Sequential(
                *(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
                *(nn.Linear(8 * (height // 4) * (width // 4), 64), nn.BatchNorm1d(64), nn.ReLU()),
            ),
            nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32)),
        )


def encoded(model: nn.Module, images: Tensor) -> Tensor:
    """Compute what a network in eval mode gives for images, without gradients."""
    with evaluating(model), torch.no_grad():
        return torch.cat([model(part) for part in images.split(_AT_ONCE)])


def probed(features: Callable[[Tensor], Tensor], data: Splits, labelled: int) -> Probed:
    """Fit a linear classifier to features of so many training images, its penalty chosen on validation images."""
    train = features(data.train.images[:labelled]), data.train.labels[:labelled]
    validation, test = ((features(part.images), part.labels) for part in (data.validation, data.test))
    return linear_probe(train, validation, test, strengths=_STRENGTHS)


def features_of(model: nn.Module, images: Tensor) -> Features:
    """Give what goes into the last linear layer of a classifier, which must have one."""
    last = last_linear(model, images[:2])
    if last is None:
        raise ValueError("the network's logits must be what a linear layer gives")
    return Features(model, last)


def fits_features(model: nn.Module, data: Splits) -> str:
    """Return the reason why a network has no features to train without labels, which is none where it has."""
    last = last_linear(model, data.train.images[:2])
    if last is None:
        return "the network's logits must be what a linear layer (nn.Linear) gives, called with features (N, d)"
    own = {id(p) for p in last.parameters()}
    if all(id(p) in own for p in model.parameters() if p.requires_grad):
        return "the network must have weights that are trained before its last linear layer"
    return ""


def pretrain(model: nn.Module, inputs: Tensor, steps: int, generator: torch.Generator, loss: Loss) -> None:
    """Train all layers but the last, with a linear projector, for half as many updates, each of two views."""
    projected, optimizer = Task(features_of(model, inputs), inputs, 1, RATE, generator).onto(32)
    fit_views(
        projected,
        optimizer,
        inputs,
        view=view,
        loss=loss,
        steps=max(1, steps // 2),
        batch_size=BATCH,
        generator=generator,
    )
    model.zero_grad()
