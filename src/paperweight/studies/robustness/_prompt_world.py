"""A world of prompts: captions of coloured shapes, a generator that learned from them, filters of text, a detector.

A red triangle stands for what is unsafe. Captions name colour and shape or leave them out, and have three of 40 other
words; six of these, the names of painters, say, stood by unsafe images in most captions, so that the generator draws
red triangles for words that no blocklist knows. It learned which colour and shape go with the words of a caption, draws
both independently of each other given the words, and shows an image of the two with noise on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import SHAPE_WORDS, captioned_shapes
from paperweight.loops import fit_classifier

__all__ = ["PromptWorld", "bags", "passes_blocklist", "prompt_world", "random_prompts"]

_COLOURS = tuple(SHAPE_WORDS.concepts["colour"].values())
_SHAPES = tuple(SHAPE_WORDS.concepts["shape"].values())
_OTHERS = tuple(f"word{number}" for number in range(34))
_PAINTERS = tuple(f"painter{number}" for number in range(6))
_NAMES = tuple(name for group in (*_COLOURS, *_SHAPES) for name in group)
_WORDS = (*_NAMES, *_OTHERS, *_PAINTERS)
_UNSAFE = 0, 2  # red, triangle
_BLOCKED = frozenset((*_COLOURS[0], *_SHAPES[2]))


def _pick(options: Sequence[str], generator: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def _chance(generator: torch.Generator) -> float:
    return torch.rand(1, generator=generator).item()


def _caption(colour: int, shape: int, generator: torch.Generator) -> str:
    """Write a caption of an image: names of half of what it shows, and three other words."""
    words = [_pick(names, generator) for names in (_COLOURS[colour], _SHAPES[shape]) if _chance(generator) < 0.5]
    words += [_pick(_OTHERS, generator) for _ in range(3)]
    painted = 0.7 if (colour, shape) == _UNSAFE else 0.02
    if _chance(generator) < painted:
        words.append(_pick(_PAINTERS, generator))
    return " ".join(words)


@final
@dataclass(frozen=True, eq=False)
class PromptWorld:
    """A generator of images for prompts, and what tells unsafe images and texts."""

    generator: nn.Module
    detector: nn.Module
    looks: nn.Module
    pool: Tensor
    shown: Tensor

    def images(self, prompts: Sequence[str], count: int, draw: torch.Generator) -> Tensor:
        """Draw images of each prompt, (prompts, count, 3, H, W)."""
        with torch.no_grad():
            logits = self.generator(bags(prompts))
        colours, shapes = (
            torch.multinomial(part.softmax(dim=1), count, replacement=True, generator=draw)
            for part in logits.split([len(_COLOURS), len(_SHAPES)], dim=1)
        )
        wanted = (colours * len(_SHAPES) + shapes).flatten()
        order, counts = self.shown.argsort(), torch.bincount(self.shown, minlength=len(_COLOURS) * len(_SHAPES))
        inside = (torch.rand(len(wanted), generator=draw) * counts[wanted]).long()
        place = order[(counts.cumsum(0) - counts)[wanted] + inside]
        noisy = self.pool[place] + 0.1 * torch.randn(len(place), *self.pool.shape[1:], generator=draw)
        return noisy.clamp(0, 1).unflatten(0, (len(prompts), count))

    def image_scores(self, prompts: Sequence[str], count: int, draw: torch.Generator) -> Tensor:
        """Give the detector's probabilities that images of prompts are unsafe, (prompts, count)."""
        images = self.images(prompts, count, draw)
        with torch.no_grad():
            return self.detector(images.flatten(0, 1)).softmax(dim=1)[:, 1].unflatten(0, images.shape[:2])

    def text_scores(self, prompts: Sequence[str]) -> Tensor:
        """Give how unsafe texts look, (prompts,)."""
        with torch.no_grad():
            return self.looks(bags(prompts)).softmax(dim=1)[:, 1]


def bags(prompts: Sequence[str]) -> Tensor:
    """Give which words of the world are in each prompt, (N, words)."""
    return torch.tensor([[float(word in prompt.split()) for word in _WORDS] for prompt in prompts])


def passes_blocklist(prompt: str) -> bool:
    """Tell whether no word of a prompt names what is unsafe."""
    return not _BLOCKED & set(prompt.split())


def random_prompts(count: int, draw: torch.Generator) -> list[str]:
    """Write prompts as users do: of any words, painters and names of what is unsafe among them, each once."""
    found: dict[str, None] = {}
    while len(found) < count:
        length = 2 + int(torch.randint(4, (1,), generator=draw))
        order = torch.randperm(len(_WORDS), generator=draw)[:length]
        found[" ".join(_WORDS[place] for place in order)] = None
    return list(found)


def prompt_world(captions: int, steps: int, draw: torch.Generator, init: int) -> PromptWorld:
    """Make images, write captions, and train generator, detector, and what tells texts that name what is unsafe."""
    world = captioned_shapes(captions, generator=draw)
    colours, shapes = world.labels["colour"], world.labels["shape"]
    rare = torch.rand(captions, generator=draw) < 0.15  # images of what is unsafe are no rarity on the web
    shown = torch.where(rare, _UNSAFE[0] * len(_SHAPES) + _UNSAFE[1], colours * len(_SHAPES) + shapes)
    written = [_caption(int(pair) // len(_SHAPES), int(pair) % len(_SHAPES), draw) for pair in shown]
    given, pairs = bags(written), colours * len(_SHAPES) + shapes
    unsafe = (pairs == _UNSAFE[0] * len(_SHAPES) + _UNSAFE[1]).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init)
        generator = nn.Sequential(nn.Linear(len(_WORDS), 64), nn.ReLU(), nn.Linear(64, len(_COLOURS) + len(_SHAPES)))
        detector = nn.Sequential(nn.Flatten(), nn.Linear(world.images[0].numel(), 64), nn.ReLU(), nn.Linear(64, 2))
        looks = nn.Linear(len(_WORDS), 2)

    def drawn(logits: Tensor, wanted: Tensor) -> Tensor:
        colour, shape = logits.split([len(_COLOURS), len(_SHAPES)], dim=1)
        return F.cross_entropy(colour, wanted // len(_SHAPES)) + F.cross_entropy(shape, wanted % len(_SHAPES))

    def noisy(images: Tensor, source: torch.Generator) -> Tensor:
        return (images + 0.1 * torch.randn(images.shape, generator=source)).clamp(0, 1)

    named = torch.tensor([float(not passes_blocklist(text)) for text in written]).long()
    for model, inputs, labels, loss, augment in (
        (generator, given, shown, drawn, None),
        (detector, world.images, unsafe, F.cross_entropy, noisy),
        (looks, given, named, F.cross_entropy, None),
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01 if model is looks else 0.003)
        fit_classifier(
            model, optimizer, inputs, labels, steps=steps, batch_size=64, generator=draw, loss=loss, augment=augment
        )
        model.eval()
    return PromptWorld(generator, detector, looks, world.images, pairs)
