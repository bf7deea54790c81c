"""Drawn features of classes that attributes describe, and zero-shot classifiers of them that generate nothing."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Described", "Task", "drawn_classes", "ridge", "task", "without_last"]


class Described(NamedTuple):
    """Features of images, (N, d), their classes, (N,), and the attributes of all classes, (classes, k)."""

    features: Tensor
    labels: Tensor
    attributes: Tensor


class Task(NamedTuple):
    """What is learned from: features of seen classes; what is judged: features of seen and unseen ones."""

    train: Described
    test: Described
    seen: Tensor
    unseen: Tensor


def drawn_classes(classes: int, images: int, generator: torch.Generator) -> Described:
    """Draw features of 16 dimensions, at least 0, whose mean and spread depend on 7 binary attributes.

    The mean of a class is a fixed random network of one hidden layer of its attributes, as far from linear as its
    hidden units saturate; images differ along eight directions, whose lengths depend on the attributes, and in noise.

    Args:
        classes: How many, at most 128; no two with the same attributes.
        images: Features of each class.
        generator: Decides what is drawn.
    """
    order = torch.randperm(128, generator=generator)[:classes]
    attributes = (order[:, None] >> torch.arange(7) & 1).float()
    signs = 2 * attributes - 1
    hidden = (signs @ torch.randn(7, 40, generator=generator) * 0.5).tanh()
    means = 0.5 + hidden @ torch.randn(40, 16, generator=generator) / 40**0.5
    lengths = (0.3 * signs @ torch.randn(7, 8, generator=generator)).exp() * 0.35
    directions = torch.randn(8, 16, generator=generator) / 2
    drawn = torch.randn(classes, images, 8, generator=generator) * lengths[:, None]
    noise = 0.2 * torch.randn(classes, images, 16, generator=generator)
    features = (means[:, None] + drawn @ directions + noise).relu()
    return Described(features.flatten(0, 1), torch.arange(classes).repeat_interleave(images), attributes)


def without_last(data: Described, count: int) -> Described:
    """Leave out the last features of each class, so many."""
    images = len(data.labels) // len(data.attributes)
    kept = torch.arange(len(data.labels)) % images < images - count
    return Described(data.features[kept], data.labels[kept], data.attributes)


def task(data: Described, seen: Tensor, unseen: Tensor, tested: int) -> Task:
    """Learn from seen classes; judge by the last features, so many of each seen class, and by all of unseen ones."""
    images = len(data.labels) // len(data.attributes)
    last = torch.arange(len(data.labels)) % images >= images - tested
    known, new = torch.isin(data.labels, seen), torch.isin(data.labels, unseen)

    def part(rows: Tensor) -> Described:
        return Described(data.features[rows], data.labels[rows], data.attributes)

    return Task(part(known & ~last), part(known & last | new), seen, unseen)


def ridge(inputs: Tensor, outputs: Tensor, strength: float) -> Tensor:
    """Fit outputs, (N, m), linearly to inputs, (N, k), in least squares with a penalty: weights, (k, m)."""
    gram = inputs.T @ inputs + strength * len(inputs) * torch.eye(inputs.shape[1])
    return torch.linalg.solve(gram, inputs.T @ outputs)
