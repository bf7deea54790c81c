"""A small diffusion model of the training images, which all arms of a seed share, and what adaptive attacks leave."""

import math

import torch
from torch import nn

from paperweight.attacks import ProjectedGradient, margin_loss
from paperweight.data import LabelledImages
from paperweight.generators import DiffusionModel, ModelSpec
from paperweight.loops import DenoiserTraining, Evaluation, evaluate_classifier
from paperweight.studies import Classification, Setting

__all__ = ["adaptively_left", "trained_diffusion"]


def trained_diffusion(
    task: Classification, spec: ModelSpec, *, steps: int, label_dropout: float = 0.0
) -> DiffusionModel:
    """Train a diffusion model on the training images, or give it as an arm before left it: its average, in eval mode.

    Args:
        task: The images, in [0, 1].
        spec: What the model is built from; with classes it is shown the labels.
        steps: Number of updates, of 128 images each.
        label_dropout: Share of the images shown without their label.
    """
    setting = task.setting

    def build() -> dict[str, torch.Tensor]:
        training = DenoiserTraining(
            setting.initialised(spec.build),
            lr=2e-3,
            batch_size=128,
            decay=0.99,
            label_dropout=label_dropout,
            seed=setting.stream("batches"),
        )
        training.run(task.train.images, task.train.labels if spec.classes else None, steps)
        return training.average.state_dict()

    model = setting.initialised(spec.build)
    model.load_state_dict(setting.cached(f"diffusion {spec} {steps} {label_dropout}", build))
    return model.eval().requires_grad_(False)


def adaptively_left(
    setting: Setting,
    model: nn.Module,
    part: LabelledImages,
    radius: float,
    *,
    steps: int,
    samples: int,
    norm: float = math.inf,
) -> Evaluation:
    """Evaluate a classifier, maybe a random one, under ascent of its mean margin with its own gradients.

    Args:
        setting: The setting of the run.
        model: The classifier; a defended one is differentiated as a whole.
        part: The images and labels.
        radius: Largest change of an image, in the norm.
        steps: Steps of the ascent.
        samples: Calls of the classifier that are averaged at each point.
        norm: Norm of a change.
    """
    attack = ProjectedGradient(radius, norm, steps, loss=margin_loss, samples=samples, keep_going=True)
    changed = attack(model, part.images, part.labels, generator=setting.generator("evaluation"))
    return evaluate_classifier(model, changed, part.labels)
