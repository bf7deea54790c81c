"""Training and evaluation of a classifier."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops.core import OnStep, Schedule, index_batches, minimise
from paperweight.nets import evaluating

__all__ = ["Evaluation", "evaluate_classifier", "fit_classifier"]


def fit_classifier(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Train a model in place on shuffled batches, in train mode, and leave it in train mode.

    Batches are those of `index_batches`, divergence is handled as in `minimise`. Only the generator is drawn
    from, except by a model that is random itself (dropout uses the global random state).

    Args:
        model: Maps images (N, ...) to what ``loss`` takes first, for cross-entropy logits (N, classes).
        optimizer: Holds the parameters to train; steps without a closure.
        images: Inputs, (N, ...), on the model's device.
        labels: Targets, (N, ...), on the model's device; class numbers, int64 (N,), for cross-entropy.
        steps: Number of optimizer steps, at least 1.
        batch_size: Images a step, at least 1.
        generator: Source of the shuffles and of ``augment``.
        loss: Maps the model's output and the labels of a batch to a scalar.
        augment: Maps a batch of images to the batch to train on.
        schedule: Stepped after every optimizer step.
        on_step: Called after every step, with the step's number from 0 and its loss.

    Returns:
        The loss of every step taken, each before its update, shape (steps,); shorter after a divergence.

    Raises:
        ValueError: If images and labels differ in number, there are none, or ``steps`` or ``batch_size`` is below 1.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.eye(4), torch.arange(4)
        >>> model = nn.Linear(4, 4)
        >>> losses = fit_classifier(model, torch.optim.SGD(model.parameters(), lr=1.0), images, labels,
        ...     steps=100, batch_size=4, generator=torch.Generator().manual_seed(0))
        >>> losses.shape, bool(losses[-1] < 0.2)
        (torch.Size([100]), True)
    """
    _check_pairs(images, labels)
    model.train()

    def batch_loss(index: Tensor) -> Tensor:
        batch = images.index_select(0, index)
        if augment is not None:
            batch = augment(batch, generator)
        return loss(model(batch), labels.index_select(0, index))

    batches = index_batches(len(images), batch_size, generator, images.device)
    return minimise(batch_loss, optimizer, batches, steps=steps, schedule=schedule, on_step=on_step)


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier achieves on a labelled set.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Share of images classified correctly, in [0, 1].
        correct: Which images were classified correctly, bool, (N,).
    """

    loss: float
    accuracy: float
    correct: Tensor


def evaluate_classifier(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 512) -> Evaluation:
    """Evaluate a classifier in eval mode, without gradients, and leave it as it was.

    Args:
        model: Maps images (N, ...) to logits (N, classes).
        images: Inputs, (N, ...), on the model's device.
        labels: Class numbers, int64, (N,), on the model's device.
        batch_size: Images a forward pass; changes speed and memory, not the result beyond rounding.

    Returns:
        Loss, accuracy, and which images were classified correctly.

    Raises:
        ValueError: If images and labels differ in number or there are none, or if ``batch_size`` is below 1.

    Example:
        >>> evaluate_classifier(nn.Identity(), 9 * torch.eye(3), torch.tensor([0, 1, 0])).correct
        tensor([ True,  True, False])
    """
    _check_pairs(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    with evaluating(model), torch.inference_mode():
        for batch, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(batch)
            losses.append(F.cross_entropy(logits, target, reduction="none"))
            correct.append(logits.argmax(dim=1) == target)
    hits = torch.cat(correct)
    return Evaluation(
        loss=torch.cat(losses).double().mean().item(),
        accuracy=hits.sum().item() / len(hits),
        correct=hits,
    )


def _check_pairs(images: Tensor, labels: Tensor) -> None:
    if len(images) < 1 or len(images) != len(labels):
        raise ValueError(
            f"images and labels must have the same length, at least 1, got {len(images)} and {len(labels)}"
        )
