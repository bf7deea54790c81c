"""Images of other things than a task's classes: those of classes that are left out, noise, and shuffled patches."""

from dataclasses import replace

import torch
from torch import Tensor

from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.studies import Classification

__all__ = ["GRID", "halves", "shuffled_patches"]

GRID = 4
"""Patches along each side of an image."""


def halves(task: Classification, labelled: int) -> tuple[Classification, Tensor]:
    """Return the task of the first half of the classes, and the training images of the others.

    Args:
        task: A task of at least 4 classes.
        labelled: How many of the training images of its classes are kept at most.

    Raises:
        InputError: If it has fewer.
    """
    if task.classes < 4:
        raise InputError(f"data must have at least 4 classes, half of which are other things, got {task.classes}")
    kept = task.classes // 2

    def part(given: LabelledImages) -> LabelledImages:
        known = given.labels < kept
        return LabelledImages(given.images[known], given.labels[known])

    data = task.data
    parts = {name: part(getattr(data, name)) for name in ("train", "validation", "test")}
    few = parts["train"]
    parts["train"] = LabelledImages(few.images[:labelled], few.labels[:labelled])
    others = task.train.images[task.train.labels >= kept]
    return replace(task, data=replace(data, **parts, classes=data.classes[:kept])), others


def shuffled_patches(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each image into 4 x 4 patches and put them together in an order of its own, drawn anew.

    Args:
        images: Images, (N, C, H, W), of at least 4 pixels a side; rows and columns beyond whole patches stay.
        generator: Draws the orders.

    Returns:
        Images, (N, C, H, W).
    """
    count, channels, height, width = images.shape
    rows, columns = height // GRID, width // GRID
    inner = images[:, :, : GRID * rows, : GRID * columns]
    patches = inner.unfold(2, rows, rows).unfold(3, columns, columns).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    draw = torch.rand(count, GRID**2, generator=generator, device=generator.device)
    order = draw.argsort(dim=1).to(images.device)
    patches = patches[torch.arange(count, device=images.device)[:, None], order].unflatten(1, (GRID, GRID))
    shuffled = images.clone()
    shuffled[:, :, : GRID * rows, : GRID * columns] = patches.permute(0, 3, 1, 4, 2, 5).reshape(
        count, channels, GRID * rows, GRID * columns
    )
    return shuffled
