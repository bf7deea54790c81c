"""How an encoder learns without labels, said once for each method by which it can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paperweight.loops import OnStep

__all__ = ["Embedding", "Unlabelled"]


@final
@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """What an encoder learns with.

    Args:
        encoder: The network that is trained in place; it maps images (N, C, H, W) to features (N, d), and is in
            training mode.
        dim: The number d of features.
        images: The images, each channel with mean 0 and standard deviation 1, (N, C, H, W).
        view: Draws a random view of each image of a batch.
        steps: The number of updates.
        batch_size: Images an update.
        lr: The learning rate that suits AdamW here.
        generator: Decides on everything random: batches, views and initial weights of what is trained beside the
            encoder.
        on_step: Called after every update, with its number from 0 and its loss.
    """

    encoder: nn.Module
    dim: int
    images: Tensor
    view: Callable[[Tensor, torch.Generator], Tensor]
    steps: int
    batch_size: int
    lr: float
    generator: torch.Generator
    on_step: OnStep


@final
@dataclass(frozen=True, kw_only=True)
class Embedding:
    """How a method trains an encoder without labels.

    Args:
        words: What it does, in a few words.
        line: The line of code that does so in a plain loop.
        learn: Trains the encoder.
    """

    words: str
    line: str
    learn: Callable[[Unlabelled], object]
