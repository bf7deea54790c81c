"""A small vision-language model of coloured shapes: an image tower and a tower of words, that can be asked about names.

The names are those of all concepts, "scarlet striped ball", say, each of three words; each concept has one in usual
words and one in others, so that a suggestion may name a known class in other words.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import SHAPE_WORDS
from paperweight.loops import fit_classifier
from paperweight.robustness.reguide import REJECTED

__all__ = ["NAMES", "NOISE", "TwoTowers", "concept_numbers", "fitted_towers", "same_concept"]

_FAMILIES = ("colour", "style", "shape")
_GROUPS = [tuple(SHAPE_WORDS.concepts[family].values()) for family in _FAMILIES]
_WORDS = tuple(dict.fromkeys(word for groups in _GROUPS for names in groups for word in names[:2]))
_USUAL = [" ".join(names[0] for names in concept) for concept in product(*_GROUPS)]
_OTHER = [" ".join(names[1] for names in concept) for concept in product(*_GROUPS)]
NOISE = 0.7
"""Standard deviation of what is added to images, in training and in use."""

NAMES = (*_USUAL, *_OTHER)
"""All names: those of every concept in usual words, and then in others, in the same order."""

_NUMBER = {name: place % len(_USUAL) for place, name in enumerate(NAMES)}


def same_concept(one: str, other: str) -> bool:
    """Tell whether two names are of one concept."""
    return _NUMBER[one] == _NUMBER[other]


def concept_numbers(labels: Mapping[str, Tensor]) -> Tensor:
    """Give the number of each image's concept, as in `NAMES`."""
    numbers = torch.zeros_like(labels["shape"])
    for family, groups in zip(_FAMILIES, _GROUPS, strict=True):
        numbers = numbers * len(groups) + labels[family]
    return numbers


def _words_of(names: Sequence[str]) -> Tensor:
    return torch.tensor([[float(word in name.split()) for word in _WORDS] for name in names])


@final
class TwoTowers(nn.Module):
    """Embeds images and names; what is rejected has the same similarity to every image."""

    def __init__(self, pixels: int, width: int = 32) -> None:
        super().__init__()
        self.images = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.ReLU(), nn.Linear(128, width))
        self.words = nn.Linear(len(_WORDS), width, bias=False)
        self.register_buffer("names", _words_of(NAMES))
        self.scale, self.rejected = 20.0, 0.5

    def forward(self, images: Tensor) -> Tensor:
        """Give scaled cosines with all names, (N, names)."""
        return self.scale * self.embedded(images) @ F.normalize(self.words(self.get_buffer("names")), dim=1).T

    def embedded(self, images: Tensor) -> Tensor:
        """Embed images."""
        return F.normalize(self.images(images), dim=1)

    def suggest(self, image: Tensor, count: int, *, near: bool) -> list[str]:
        """Name those of largest, or of smallest, cosine; an image is a row of `forward`."""
        return [NAMES[place] for place in image.argsort(descending=near)[:count].tolist()]

    def confidences(self, image: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Give shares of 100; an image is a row of `forward`."""
        logits = [self.scale * self.rejected if name == REJECTED else image[_PLACE[name]].item() for name in names]
        return dict(zip(names, (100 * torch.tensor(logits).softmax(dim=0)).tolist(), strict=True))


_PLACE = {name: place for place, name in enumerate(NAMES)}


def fitted_towers(images: Tensor, numbers: Tensor, steps: int, draw: torch.Generator, init: int) -> TwoTowers:
    """Train on images of all concepts: each is to be nearest to its own names, in usual or in other words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        model = TwoTowers(images[0].numel())
    either = numbers + len(_USUAL) * torch.randint(2, numbers.shape, generator=draw)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        other = (labels + len(_USUAL)) % len(NAMES)
        hidden = logits.scatter(1, other[:, None], -torch.inf)  # the same in other words is not wrong
        return F.cross_entropy(hidden, labels)

    def noisy(batch: Tensor, source: torch.Generator) -> Tensor:
        return batch + NOISE * torch.randn(batch.shape, generator=source)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    fit_classifier(
        model, optimizer, images, either, steps=steps, batch_size=64, generator=draw, loss=loss, augment=noisy
    )
    return model.eval()
