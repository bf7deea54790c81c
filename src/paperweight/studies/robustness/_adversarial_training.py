"""What studies of adversarial training share: small images, training on attacked ones, and what is withstood."""

from dataclasses import replace

import torch
from torch import nn

from paperweight.attacks import ProjectedGradient, SquareAttack, margin_loss
from paperweight.data import LabelledImages, resize
from paperweight.loops import (
    Evaluation,
    RobustLoss,
    Schedule,
    TrainingAttack,
    adversarial_loss,
    evaluate_classifier,
    fit_robust,
)
from paperweight.studies import Classification, Setting, Trained, classification

__all__ = ["fit_attacked", "left_by_squares", "small_images", "withstood"]

_Sizes = tuple[int, int, int]


def small_images(setting: Setting, *, smoke: _Sizes, desk: _Sizes, gpu: _Sizes) -> Classification:
    """Return easy glyphs, or the user's images, of at most so few pixels a side that attacks cost little, in [0, 1].

    Args:
        setting: The setting of the run.
        smoke: Numbers of training, validation and test images at the smoke budget.
        desk: The same at the desk budget.
        gpu: The same on a GPU.
    """
    task = classification(setting, smoke=smoke, desk=desk, gpu=gpu, default="glyphs-20", normalised=False)
    most = setting.pick(smoke=10, desk=10, gpu=32)
    channels, height, width = task.shape
    if max(height, width) <= most:
        return task
    height, width = min(height, most), min(width, most)
    smaller = task.with_images(lambda images: resize(images, (height, width)).clamp(0, 1))
    return replace(smaller, data=replace(smaller.data, shape=(channels, height, width)))


def fit_attacked(
    task: Classification,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    attack: TrainingAttack,
    steps: int,
    batch_size: int,
    loss: RobustLoss = adversarial_loss,
    schedule: Schedule | None = None,
) -> Trained:
    """Train on attacked images, by `paperweight.loops.fit_robust`; batches and starts are those of every arm.

    Args:
        task: The data.
        model: The classifier, trained in place.
        optimizer: Holds its parameters.
        attack: Changes the images of a batch.
        steps: Number of updates.
        batch_size: Images a batch.
        loss: Maps model, images, attacked images and labels to a scalar.
        schedule: Stepped after every update.
    """
    losses = fit_robust(
        model,
        optimizer,
        task.train.images,
        task.train.labels,
        attack=attack,
        steps=steps,
        batch_size=batch_size,
        generator=task.setting.generator("batches"),
        loss=loss,
        schedule=schedule,
    )
    made = {"attack": attack, "loss": loss}
    return Trained(task.data, model, optimizer, losses, made, {"steps": steps, "batch_size": batch_size})


def withstood(
    setting: Setting, model: nn.Module, part: LabelledImages, radius: float, *, steps: int = 20, starts: int = 1
) -> Evaluation:
    """Evaluate a classifier under projected gradient ascent of the margin, within a radius in norm infinity.

    Args:
        setting: The setting of the run.
        model: The classifier.
        part: The images and labels.
        radius: The radius.
        steps: Steps from each start.
        starts: Random starts, besides the image itself, which counts, too.
    """
    attack = ProjectedGradient(radius=radius, steps=steps, loss=margin_loss, starts=starts)
    changed = attack(model, part.images, part.labels, generator=setting.generator("evaluation"))
    return evaluate_classifier(model, changed, part.labels)


def left_by_squares(
    setting: Setting, model: nn.Module, part: LabelledImages, radius: float, *, images: int, queries: int
) -> float:
    """Give the accuracy under the Square attack, which sees no gradient that a defence could mask.

    Args:
        setting: The setting of the run.
        model: The classifier.
        part: The images and labels.
        radius: The radius in norm infinity.
        images: How many of the images are attacked, the first.
        queries: Queries an image.
    """
    few, of = part.images[:images], part.labels[:images]
    attack = SquareAttack(radius=radius, queries=queries)
    return evaluate_classifier(model, attack(model, few, of, generator=setting.generator("evaluation")), of).accuracy
