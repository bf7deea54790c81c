"""Generators whose memory is known: they look images up instead of having learned them."""

import math
from typing import Any

import torch
from torch import Tensor

from paperweight.auditing.solidmark import SolidMark
from paperweight.audits.memorization import marked_by
from paperweight.generators.process import cosine_schedule
from paperweight.marks.keybook import Keybook


class Lookup:
    """Predicts the marked image for records that it knows, and a mark of 0.5 for the others."""

    def __init__(self, mark: SolidMark, images: Tensor, keys: Tensor, known: Tensor) -> None:
        self.schedule = cosine_schedule(20)
        self.clamp: tuple[float, float] | None = None
        self.hidden = mark.pixels((images.shape[1], images.shape[2], images.shape[3]))
        shown = torch.where(known, keys, torch.full_like(keys, 0.5))
        self.memory = 2 * mark.insert(images, shown) - 1

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        abar = self.schedule.abar[t[0]].item()
        visible = ~self.hidden
        gaps = (z[:, None] - math.sqrt(abar) * self.memory[None]) * visible
        nearest = self.memory[gaps.flatten(2).square().sum(dim=2).argmin(dim=1)]
        return (z - math.sqrt(abar) * nearest) / math.sqrt(1 - abar)

    def condition(self, given: Any, count: int) -> Tensor | None:
        return None

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, z: Tensor) -> Tensor:
        return (z + 1) / 2

    def latent_mask(self, mask: Tensor) -> Tensor:
        return mask


class Rounding(Lookup):
    """A lookup behind a vae that halves the contrast."""

    def round_trip(self, images: Tensor) -> Tensor:
        return 0.25 + images / 2


def lookup(keybook: Keybook, images: Tensor, known: set[str], kind: type[Lookup] = Lookup) -> Lookup:
    """Make one that knows the last key of some records of a keybook."""
    ids = sorted(keybook.keys)
    index = [int(record) for record in ids]
    keys = torch.tensor([keybook.keys[record][-1] for record in ids])
    return kind(marked_by(keybook), images[index], keys, torch.tensor([record in known for record in ids]))
