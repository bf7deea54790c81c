"""Networks and inputs that the tests of attacks share."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from paperweight.nets import MLP
from paperweight.testing.attack import attack_checks
from paperweight.testing.classifiers import toy_images

OPTIMUM = "check_optimum_on_linear_model"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def unchanged():
    return lambda model, inputs, labels, generator=None: inputs


def quick_checks(subject, **fewer):
    """Give the checks of an attack, with fewer steps or queries where the optimum is not asked for."""
    quick = replace(subject, make=partial(subject.make, **fewer), null=partial(subject.null, **fewer))
    return {**attack_checks(quick), OPTIMUM: attack_checks(subject)[OPTIMUM]}


def problem(count=12, classes=4):
    """Give a small network, images with black and white pixels among them, and the classes that it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP((1, 5, 5), classes, hidden=(32,)).eval()
    images = (1.4 * toy_images(count, (1, 5, 5)) - 0.2).clamp(0, 1)
    return model, images, model(images).argmax(dim=1)


class Counting(nn.Module):
    """Counts the images that pass through a network, and the passes."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen, self.passes = model, 0, 0

    def forward(self, images):
        self.seen += len(images)
        self.passes += 1
        return self.model(images)


class Noisy(nn.Module):
    """A linear model of two classes that adds to its logits noise from a generator of its own."""

    def __init__(self, weight, sigma):
        super().__init__()
        self.weight, self.sigma, self.generator = weight, sigma, seeded()

    def forward(self, images):
        score = images.flatten(1) @ self.weight
        noise = self.sigma * torch.randn(len(images), generator=self.generator)
        return torch.stack([score + noise, -score - noise], dim=1)
