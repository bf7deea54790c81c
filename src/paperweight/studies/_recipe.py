"""How a classifier is trained, said once for each method that plugs into any: a recipe with one slot for each kind."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.loops import Schedule, index_batches, minimise, warmed_cosine
from paperweight.studies._classification import Classification, Procedure, Trained

__all__ = ["MISFIT", "MisfitError", "Recipe", "fits_any", "train_by"]

MISFIT = "paperweight.studies._recipe.MisfitError: "
"""How the last line of the traceback of a recipe that does not fit begins."""

MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]


class MisfitError(Exception):
    """A recipe does not fit the network or the data."""


def fits_any(model: nn.Module, data: Splits) -> str:
    """Return the reason why a recipe fits no network and data, which is none."""
    return ""


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained, where that differs from a baseline. A slot that is left out is the baseline's.

    The baseline is an optimizer whose rate rises over a tenth of the steps and falls along a cosine, cross-entropy, and
    shuffled batches.

    Args:
        words: What the recipe does, in a few words.
        line: The line of code that applies it in a plain loop.
        optimizer: Makes the optimizer from parameters, a learning rate, and what makes the baseline's from these two,
            for one that wraps another.
        schedule: Makes the schedule of an optimizer for a number of updates.
        surgery: Maps the network to the one to train, which may be the same, changed.
        loss: Makes the loss from the number of training examples and that of classes: it maps logits, labels and the
            numbers of the examples, (N, classes), (N,) and (N,), to a scalar.
        penalty: Maps the network to a scalar that is added to the loss.
        batches: Yields the numbers of the examples of each batch, from the labels, (N,), the size of a batch, and a
            generator.
        data: Changes a batch: maps inputs, labels and a generator to inputs and labels.
        training: Makes what replaces the loop, as ``training(model, optimizer, inputs, labels, batch_size=...,
            epochs=..., generator=...)``; its ``step`` is one pass. Loss, penalty, batches and data are then its own.
        pretraining: Changes the network before training, from the network, the training inputs, the number of updates
            that follow, and a generator.
        lr: The learning rate from which the tries of it start; that of the baseline where left out.
        fits: Returns why it does not fit a network and data, and nothing where it fits.

    Raises:
        InputError: If no slot is filled, or one that a training of its own leaves no room for.

    Example:
        >>> smoothed = Recipe(
        ...     words="labels mixed with the uniform distribution",
        ...     line="loss = F.cross_entropy(logits, labels, label_smoothing=0.1)",
        ...     loss=lambda samples, classes: lambda logits, labels, index: F.cross_entropy(
        ...         logits, labels, label_smoothing=0.1),
        ... )
        >>> smoothed.slots
        ('loss',)
    """

    words: str
    line: str
    optimizer: Callable[[Iterable[nn.Parameter], float, MakeOptimizer], Optimizer] | None = None
    schedule: Callable[[Optimizer, int], Schedule] | None = None
    surgery: Callable[[nn.Module], nn.Module] | None = None
    loss: Callable[[int, int], Callable[[Tensor, Tensor, Tensor], Tensor]] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    batches: Callable[[Tensor, int, torch.Generator], Iterator[Tensor]] | None = None
    data: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None
    training: Callable[..., Procedure] | None = None
    pretraining: Callable[[nn.Module, Tensor, int, torch.Generator], None] | None = None
    lr: float | None = None
    fits: Callable[[nn.Module, Splits], str] = fits_any

    def __post_init__(self) -> None:
        if not self.slots:
            raise InputError(f"recipe {self.words!r} must fill at least one slot: {', '.join(_SLOTS)}")
        crowded = [slot for slot in ("loss", "penalty", "batches", "data") if slot in self.slots]
        if self.training is not None and crowded:
            raise InputError(f"recipe {self.words!r} has a training of its own, which leaves {crowded[0]} no room")

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that it fills."""
        return tuple(slot for slot in _SLOTS if getattr(self, slot) is not None)


_SLOTS = tuple(field.name for field in fields(Recipe) if field.name not in ("words", "line", "lr", "fits"))


def train_by(
    recipe: Recipe | None,
    task: Classification,
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    *,
    lr: float,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
) -> Trained:
    """Train a network by a recipe, in place of the slots that it leaves out by the baseline.

    Args:
        recipe: The recipe; the baseline where it is ``None``.
        task: The data.
        model: The network.
        make_optimizer: Makes the baseline's optimizer from parameters and a learning rate.
        lr: The learning rate.
        steps: Number of updates, at least 1; of a training of its own as many passes as come nearest, at least one.
        batch_size: Examples a batch, at least 1.
        generator: Of the batches.

    Returns:
        What was trained.

    Raises:
        MisfitError: If the recipe does not fit the network and the data.
    """
    device = task.setting.device
    inputs, labels = task.train.images, task.train.labels
    made: dict[str, Any] = {}
    schedule_of: Callable[[Optimizer, int], Schedule] = warmed_cosine
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = _cross_entropy
    if recipe is not None:
        if reason := recipe.fits(model, task.data):
            raise MisfitError(reason)
        if recipe.surgery is not None:
            model = _operated(recipe.surgery, model).to(device)
        if recipe.pretraining is not None:
            recipe.pretraining(model, inputs, steps, task.setting.generator("method"))
        schedule_of = recipe.schedule or schedule_of
        if recipe.loss is not None:
            loss = made["loss"] = _on(device, recipe.loss(len(task.train), task.classes))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe is None or recipe.optimizer is None:
        optimizer = make_optimizer(parameters, lr)
    else:
        optimizer = recipe.optimizer(parameters, lr, make_optimizer)
    if recipe is not None and recipe.training is not None:
        passes = max(1, round(steps * batch_size / len(task.train)))
        training = recipe.training(
            model, optimizer, inputs, labels, batch_size=batch_size, epochs=passes, generator=generator
        )
        return task.fit_by(training, passes, schedule_of(optimizer, passes))

    def batch_loss(index: Tensor) -> Tensor:
        images, targets = inputs.index_select(0, index), labels.index_select(0, index)
        if recipe is not None and recipe.data is not None:
            images, targets = recipe.data(images, targets, generator)
        value = loss(model(images), targets, index)
        return value if recipe is None or recipe.penalty is None else value + recipe.penalty(model)

    if recipe is None or recipe.batches is None:
        batches = index_batches(len(inputs), batch_size, generator, inputs.device)
    else:
        batches = recipe.batches(labels, min(batch_size, len(inputs)), generator)
    losses = minimise(batch_loss, optimizer, batches, steps=steps, schedule=schedule_of(optimizer, steps))
    return Trained(task.data, model, optimizer, losses, made, {"steps": steps, "batch_size": batch_size})


def _operated(surgery: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    try:
        return surgery(model)
    except ValueError as error:
        raise MisfitError(str(error)) from error


def _cross_entropy(logits: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def _on(device: torch.device, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return loss.to(device) if isinstance(loss, nn.Module) else loss
