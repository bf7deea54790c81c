"""Parts of a game of pixels: a place of its tree, a model that is asked so often and no more, pixels put back."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["Asked", "Place", "changed_pixels", "restored"]


@dataclass(eq=False)
class Place:
    """A place of the tree: how often it was come by, what that brought, and what follows, by keypoint or turn."""

    visits: int = 0
    reward: float = 0.0
    after: dict[int, "Place"] = field(default_factory=dict["int", "Place"])

    def best(self, sign: float = 1.0) -> int:
        """Name what follows of the largest upper bound, of the reward or of its negative."""
        bounds = {
            turn: sign * place.reward / place.visits + math.sqrt(2 * math.log(self.visits) / place.visits)
            for turn, place in self.after.items()
        }
        return max(bounds, key=bounds.__getitem__)


@dataclass
class Asked:
    """A model that is asked for classes as often as is left."""

    model: nn.Module
    label: Tensor
    left: int

    def wrong(self, images: Tensor) -> list[bool]:
        """Tell of which images the class is not the label."""
        self.left -= len(images)
        return (self.model(images).argmax(dim=1) != self.label).tolist()


def changed_pixels(changed: Tensor, image: Tensor) -> int:
    return int((changed != image).any(dim=0).sum())


def restored(changed: Tensor, image: Tensor, asked: Asked, generator: torch.Generator | None) -> Tensor:
    """Restore changed pixels, one after the other in random order, where the class stays wrong without them."""
    places = (changed != image).any(dim=0).nonzero()
    for row, column in places[torch.randperm(len(places), generator=generator)].tolist():
        if asked.left <= 0:
            break
        tried = changed.clone()
        tried[:, row, column] = image[:, row, column]
        if asked.wrong(tried[None])[0]:
            changed = tried
    return changed
