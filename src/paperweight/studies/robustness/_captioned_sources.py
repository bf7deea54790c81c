"""Two sources of one set of classes, photographs and prints, with captions of which some name a wrong class or none."""

import string
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, affine
from paperweight.nets import Tokenizer
from paperweight.robustness.data_budget import TrainingSource, simple_caption

__all__ = ["BagOfWords", "Centred", "Sources", "captioned_sources", "new_sample", "prints", "tokenizer"]

_WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo"
)
_NAMES = (*_WORDS.split(), "sierra", "tango", "uniform", "victor", "whiskey", "xray", "yankee", "zulu")
_ONE = ("a photo of {0}", "{0} in print", "an old sign with {0}", "my favourite {0}", "the letter {0} on paper")
_TWO = ("{1} poster behind {0}", "not {1} but {0}", "{1} and {0}")
_NONE = ("an old sign", "something on paper", "my favourite", "untitled photo")
_BAYER = ((0, 8, 2, 10), (12, 4, 14, 6), (3, 11, 1, 9), (15, 7, 13, 5))


class Sources(NamedTuple):
    """Photographs, and prints of other images of the same classes in styles near the shifts and far; class names."""

    photos: TrainingSource
    near: TrainingSource
    far: TrainingSource
    names: tuple[str, ...]


def captioned_sources(images: LabelledImages, classes: int, *, simple: bool, generator: torch.Generator) -> Sources:
    """Make three quarters of the images photographs, as they are, and the others prints, all with captions.

    Args:
        images: In [0, 1], (N, C, H, W), with labels.
        classes: Number of classes.
        simple: Whether captions name the class and nothing else; else 70% name the class, 15% another one first, and
            15% none.
        generator: Draws styles and captions.
    """
    names = tuple(_NAMES[index % 26] + string.ascii_lowercase[index // 26] * (index > 25) for index in range(classes))
    end = 3 * len(images) // 4
    captions = _captions(images.labels, names, simple, generator)
    near, far = (prints(images.images[end:], like, generator) for like in (True, False))
    return Sources(
        TrainingSource(images.images[:end], images.labels[:end], captions[:end]),
        TrainingSource(near, images.labels[end:], captions[end:]),
        TrainingSource(far, images.labels[end:], captions[end:]),
        names,
    )


def _captions(labels: Tensor, names: tuple[str, ...], simple: bool, generator: torch.Generator) -> tuple[str, ...]:
    kinds, ways = torch.rand(2, len(labels), generator=generator).tolist()
    others = torch.randint(1, len(names), (len(labels),), generator=generator).tolist()
    said: list[str] = []
    for label, kind, way, other in zip(labels.tolist(), kinds, ways, others, strict=True):
        templates = _ONE if kind < 0.7 else _TWO if kind < 0.85 else _NONE
        template = templates[int(way * len(templates))]
        name = names[label]
        said.append(simple_caption(name) if simple else template.format(name, names[(label + other) % len(names)]))
    return tuple(said)


def prints(images: Tensor, near: bool, generator: torch.Generator) -> Tensor:
    """Show each image in one of four styles.

    Args:
        images: In [0, 1], (N, C, H, W).
        near: Whether outlines, bright or dark, and other tones, also reversed, are two of the styles, akin to sketches
            and renditions; else relief and bleached. The other two are halftone and on cloth.
        generator: Draws styles, textures and tones, on the CPU.
    """
    count, _, height, width = images.shape
    style = torch.randint(4, (count,), generator=generator).to(images.device)
    coarse = torch.rand(count, 1, 4, 4, generator=generator).to(images)
    first, second = torch.rand(2, count, 1, 1, 1, generator=generator).to(images)
    steps = (images.new_tensor(_BAYER) + 0.5) / 16
    halftone = (images > steps.repeat(-(-height // 4), -(-width // 4))[:height, :width]).to(images.dtype)
    cloth = (images + F.interpolate(coarse, (height, width), mode="bilinear")) / 2
    if near:
        outlines = F.max_pool2d(images, 3, stride=1, padding=1) - images
        one = torch.where(first < 0.5, outlines, 1 - outlines)
        other = first + (second - first) * images
    else:
        one = 0.5 + (images - images.roll((1, 1), dims=(2, 3))) / 2
        other = images ** (4 * first - 2).exp2()
    return torch.stack([halftone, cloth, one, other])[style, torch.arange(count, device=images.device)]


def new_sample(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shrink or enlarge and move images at random, (N, C, H, W): the same classes, sampled otherwise."""
    turn, size, right, down = (2 * torch.rand(4, len(images), generator=generator) - 1).to(images.device)
    moved = images.shape[3] / 10
    return affine(images, angle=0.3 * turn, scale=1 + 0.2 * size, right=moved * right, down=moved * down).clamp(0, 1)


def tokenizer(names: tuple[str, ...]) -> Tokenizer:
    """Give the tokenizer of all captions."""
    sentences = [simple_caption("{0}"), *_ONE, *_TWO, *_NONE]
    words = dict.fromkeys(word for text in sentences for word in text.lower().split() if word.isalpha())
    return Tokenizer((*[word for word in words if word not in names], *names), length=8)


class BagOfWords(nn.Module):
    """Maps captions in numbers, (N, length), to features, (N, dim): the mean of their words, through a linear layer."""

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, dim, padding_idx=0)
        self.last = nn.Linear(dim, dim)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.last(self.words(numbers))


class Centred(nn.Module):
    """Moves images from [0, 1] to [-1, 1], as a part of the network."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1
