"""Learning: by a paper's method without labels, by labels as the ceiling, and not at all as the floor."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.catalogue import entries, nearest
from paperweight.data import affine
from paperweight.errors import InputError
from paperweight.loops import index_batches, minimise, warmed_cosine
from paperweight.nets import evaluating
from paperweight.studies import Embedding, Unlabelled

__all__ = ["LR", "Learning", "find_embedding", "methods"]

LR = 0.003
"""The rate of AdamW that everything is trained with."""

_WARM = 20


def methods() -> list[str]:
    """Return the names of the papers by which an encoder can learn.

    Example:
        >>> "noise_as_targets" in methods()
        True
    """
    return [entry.stem for entry in entries() if entry.has_embedding]


def find_embedding(name: str) -> Embedding:
    """Return how an encoder learns by a paper's method.

    Raises:
        InputError: If no paper of that name says so.

    Example:
        >>> find_embedding("noise_as_targets").line[:8]
        'training'
    """
    entry = next((entry for entry in entries() if entry.stem == name and entry.has_embedding), None)
    if entry is None:
        raise InputError(
            f"method {name!r} is none by which an encoder learns without labels; {nearest(name, methods())}"
        )
    found: Embedding = import_module(f"paperweight.studies.{entry.field}.{entry.stem}").EMBEDDING
    return found


def drawn_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, enlarge and move prepared images a little, change their contrast and brightness, and add noise.

    Nothing is mirrored, which would make another of some letters, and nothing is inverted.

    Args:
        images: Images with mean 0 and standard deviation 1, (N, C, H, W).
        generator: Decides by how much.

    Returns:
        Shape (N, C, H, W).
    """
    count, channels, height, width = images.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, device=generator.device)
        return (low + (high - low) * drawn).to(images)

    moved = affine(
        images,
        angle=uniform(-15, 15),
        scale=uniform(0.8, 1.3),
        right=uniform(-0.12, 0.12) * width,
        down=uniform(-0.12, 0.12) * height,
    )
    grey = moved.mean(dim=1, keepdim=True)
    colourful = torch.lerp(grey, moved, uniform(0, 1.5, 1, 1, 1)) if channels > 1 else moved
    noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
    return colourful * uniform(0.6, 1.4, 1, 1, 1) + uniform(-0.4, 0.4, 1, 1, 1) + 0.05 * noise


@final
@dataclass(frozen=True)
class Learning:
    """What all that learns has alike.

    Args:
        network: The network as it is initialised; it stays so.
        images: The images that are learned, prepared, (N, C, H, W).
        dim: Number of features.
        steps: Updates.
        batch_size: Images an update.
        seed: What batches, views and projectors are drawn with.
        tell: Called with words and (updates done, updates in all).
    """

    network: nn.Module
    images: Tensor
    dim: int
    steps: int
    batch_size: int
    seed: int
    tell: Callable[[str, int, int], None]

    def by(self, name: str) -> tuple[nn.Module, list[float], int]:
        """Train a copy of the network by a paper's method.

        Returns:
            The copy, the losses that were told, and the number of updates, which a method of whole passes rounds.

        Raises:
            InputError: If the loss or the features are not finite, so that nothing was learned.
        """
        network, losses, made = deepcopy(self.network).train(), list[float](), [0]

        def on_step(step: int, loss: Tensor) -> None:
            losses.append(float(loss))
            made.append(step + 1)
            self.tell("learning without labels", min(step + 1, self.steps), self.steps)

        find_embedding(name).learn(
            Unlabelled(
                encoder=network,
                dim=self.dim,
                images=self.images,
                view=drawn_view,
                steps=self.steps,
                batch_size=self.batch_size,
                lr=LR,
                generator=self._generator(),
                on_step=on_step,
            )
        )
        with evaluating(network), torch.no_grad():
            finite = bool(network(self.images[: self.batch_size]).isfinite().all())
        if not finite:
            raise InputError(f"the training by {name} diverged; its features are not finite. Try another method")
        return network, losses, made[-1]

    def by_labels(self, index: Tensor, labels: Tensor, classes: int, steps: int) -> nn.Sequential:
        """Train a copy of the network and a linear layer on it by labels, and return both as one network.

        Args:
            index: The numbers of the images that have labels to learn from, (M,).
            labels: Theirs, from 0, (M,).
            classes: Number of classes.
            steps: Updates.
        """
        generator, images = self._generator(), self.images[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = nn.Sequential(deepcopy(self.network), nn.Linear(self.dim, classes)).train()
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=LR)

        def loss(batch: Tensor) -> Tensor:
            return F.cross_entropy(model(drawn_view(images[batch], generator)), labels[batch])

        minimise(
            loss,
            optimizer,
            index_batches(len(images), min(self.batch_size, len(images)), generator, images.device),
            steps=steps,
            schedule=warmed_cosine(optimizer, steps),
            on_step=lambda step, _: self.tell("learning with labels, as the ceiling", step + 1, steps),
        )
        return model

    def untrained(self) -> nn.Module:
        """Return a copy whose batch normalization has the statistics of the images, and nothing else has changed."""
        network = deepcopy(self.network).train()
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None  # the plain mean of all batches
            norm.reset_running_stats()
        draw = self._generator()
        with torch.no_grad():
            for _ in range(_WARM if norms else 0):
                index = torch.randperm(len(self.images), generator=draw)[: self.batch_size]
                network(self.images[index])
        return network

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
