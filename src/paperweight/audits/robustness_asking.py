# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What a classifier answers: which images are right and how sure it is, if it is random, and where gradients vanish."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks import margin_loss
from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.loops import expected_calibration_error
from paperweight.nets import evaluating

__all__ = [
    "Judge",
    "Seen",
    "WithoutGradient",
    "astray",
    "differentiable",
    "differs",
    "errors",
    "flat",
    "median_distance",
]

_CHUNK = 256
_DIRECTIONS = 8
_ROUNDING = 1e-6


@final
@dataclass(frozen=True)
class Seen:
    """Which images are right, bool, (N,), the expected calibration error, and the number of classes that are seen."""

    right: Tensor
    error: float
    classes: int


@final
class Judge:
    """Asks a model about images, so often that a random one gives the mean of its answers."""

    def __init__(self, model: nn.Module, repeats: int) -> None:
        self._model, self._repeats = model, repeats

    def __call__(self, data: LabelledImages) -> Seen:
        """Ask about labelled images, in eval mode.

        Raises:
            InputError: If an answer is not finite.
        """
        answers: list[Tensor] = []
        with evaluating(self._model), torch.no_grad():
            for part in data.images.split(_CHUNK):
                answers.append(torch.stack([self._model(part) for _ in range(self._repeats)]).double().mean(dim=0))
        logits = torch.cat(answers)
        if not logits.isfinite().all():
            raise InputError(
                "answers are not finite, of the model or of one trained beside it; look at its weights, mean and std"
            )
        error = expected_calibration_error(logits.softmax(dim=1), data.labels)
        found = logits.argmax(dim=1)
        return Seen(found == data.labels, error, len(found.unique()))


def differs(model: nn.Module, images: Tensor) -> bool:
    """Tell whether a model gives other answers when it is asked again."""
    with evaluating(model), torch.no_grad():
        return not torch.equal(model(images), model(images))


def errors(model: nn.Module, data: LabelledImages) -> int:
    """Count the images that a model gets wrong."""
    return int((~Judge(model, 1)(data).right).sum())


@final
class WithoutGradient(nn.Module):
    """Gives the answers of a model that cannot be differentiated, with a gradient of zero.

    Args:
        model: Maps images (N, ...) to logits (N, classes).

    Example:
        >>> images = torch.ones(1, 2, requires_grad=True)
        >>> torch.autograd.grad(WithoutGradient(nn.Flatten())(images).sum(), images)[0]
        tensor([[0., 0.]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        return self.model(images.detach()).detach() + 0 * images.flatten(1).sum(dim=1, keepdim=True)


def differentiable(model: nn.Module, images: Tensor) -> nn.Module:
    """Give a model, or where no gradient comes back from it one `WithoutGradient`."""
    with evaluating(model), torch.enable_grad():
        given = images[:1].detach().clone().requires_grad_()
        try:
            torch.autograd.grad(model(given).sum(), given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return WithoutGradient(model)
    return model


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Give the gradient of the margin."""
    with torch.enable_grad():
        given = images.detach().clone().requires_grad_()
        return torch.autograd.grad(margin_loss(model(given), labels).sum(), given)[0]


def flat(model: nn.Module, data: LabelledImages) -> Tensor:
    """Tell of each image whether the gradient of the margin is zero everywhere, or not finite somewhere."""
    parts: list[Tensor] = []
    with evaluating(model):
        for images, labels in zip(data.images.split(_CHUNK), data.labels.split(_CHUNK), strict=True):
            size = _gradient(model, images, labels).flatten(1).abs().amax(dim=1)
            parts.append((size == 0) | ~size.isfinite())
    return torch.cat(parts)


def astray(model: nn.Module, data: LabelledImages, length: float, generator: torch.Generator) -> Tensor:
    """Tell of each image whether one of eight random steps does more to the margin than one along the gradient.

    To first order none can: of all changes of entries by a length within [0, 1] that along the sign of the gradient
    does most. So a gradient that leads astray is not that of what the model computes, or not on this length.

    Args:
        model: Maps images (N, ...) to logits (N, classes), the same ones whenever it is asked.
        data: Images in [0, 1], and their labels.
        length: By how much each entry changes.
        generator: Draws directions, on the CPU.

    Returns:
        Bool, (N,); of an image without a gradient, or with one that is not finite, False.
    """
    parts: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for images, labels in zip(data.images.split(_CHUNK), data.labels.split(_CHUNK), strict=True):
            gradient = _gradient(model, images, labels)

            def after(direction: Tensor, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return margin_loss(model((images + length * direction).clamp(0, 1)), labels)

            signs = [2 * torch.randint(2, images.shape, generator=generator) - 1 for _ in range(_DIRECTIONS)]
            best = torch.stack([after(each) for each in signs]).amax(dim=0)
            along = after(gradient.sign())
            size = gradient.flatten(1).abs().amax(dim=1)
            parts.append((best > along + _ROUNDING * (1 + along.abs())) & (size > 0) & size.isfinite())
    return torch.cat(parts)


def median_distance(model: nn.Module, images: Tensor, labels: Tensor, near: Tensor) -> float:
    """Give the median distance of images to those found near them that the model takes for another class."""
    with evaluating(model), torch.no_grad():
        fooled = model(near).argmax(dim=1) != labels
    distances = torch.linalg.vector_norm((near - images).flatten(1), dim=1)
    return torch.where(fooled, distances, torch.full_like(distances, math.inf)).median().item()
