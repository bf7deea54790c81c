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

__all__ = ["Judge", "Seen", "WithoutGradient", "differentiable", "differs", "errors", "flat", "median_distance"]

_CHUNK = 256


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


def flat(model: nn.Module, data: LabelledImages) -> Tensor:
    """Tell of each image whether the gradient of the margin is zero everywhere, or not finite somewhere."""
    parts: list[Tensor] = []
    with evaluating(model), torch.enable_grad():
        for images, labels in zip(data.images.split(_CHUNK), data.labels.split(_CHUNK), strict=True):
            given = images.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(margin_loss(model(given), labels).sum(), given)
            size = gradient.flatten(1).abs().amax(dim=1)
            parts.append((size == 0) | ~size.isfinite())
    return torch.cat(parts)


def median_distance(model: nn.Module, images: Tensor, labels: Tensor, near: Tensor) -> float:
    """Give the median distance of images to those found near them that the model takes for another class."""
    with evaluating(model), torch.no_grad():
        fooled = model(near).argmax(dim=1) != labels
    distances = torch.linalg.vector_norm((near - images).flatten(1), dim=1)
    return torch.where(fooled, distances, torch.full_like(distances, math.inf)).median().item()
