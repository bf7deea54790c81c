"""How an encoder learns from two views of each image: a projector on it, AdamW, and a rate that rises and falls."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import fit_views, warmed_cosine
from paperweight.studies import Unlabelled

__all__ = ["drawn", "learn_from_views", "projector"]

_WIDTH, _CODES = 128, 64

Network = TypeVar("Network", bound=nn.Module)


def drawn(build: Callable[[], Network], generator: torch.Generator) -> Network:
    """Return what a function builds of layers, with initial weights that the generator decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        return build()


def projector(dim: int, generator: torch.Generator) -> nn.Sequential:
    """Return two layers that map features, (N, dim), to codes, (N, 64), with weights that the generator decides."""
    layers = nn.BatchNorm1d(_WIDTH), nn.ReLU()
    return drawn(lambda: nn.Sequential(nn.Linear(dim, _WIDTH), *layers, nn.Linear(_WIDTH, _CODES)), generator)


def learn_from_views(task: Unlabelled, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Train an encoder, through a projector that is thrown away, so that the codes of two views suit each other.

    Args:
        task: What it learns with.
        loss: Maps the codes of the first and of the second views to a scalar.
    """
    model = nn.Sequential(task.encoder, projector(task.dim, task.generator).to(task.images.device))
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=task.lr)
    fit_views(
        model,
        optimizer,
        task.images,
        view=task.view,
        loss=loss,
        steps=task.steps,
        batch_size=task.batch_size,
        generator=task.generator,
        schedule=warmed_cosine(optimizer, task.steps),
        on_step=task.on_step,
    )
