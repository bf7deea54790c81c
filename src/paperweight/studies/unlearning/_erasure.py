"""What the studies of erasers share: a word is erased from a small text-to-image model, at bounded damage to others.

Every arm starts from the model of the seed and tries its strengths. On validation noise it keeps the one with the
fewest hits among those that cost the other words at most five points, or, where none does, the one that costs least.
A hit is an image that shows anything at all and in which the judge sees the erased concept. One name of the concept is
erased; two more stay.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from paperweight.data import CaptionedImages
from paperweight.diffusion._generation import generate
from paperweight.diffusion._text_model import TextToImage
from paperweight.loops import best_of
from paperweight.studies import Metric, Outcome, Setting
from paperweight.studies.unlearning._text_world import TextWorld, captions_of, text_world
from paperweight.unlearning._steering import Steered

__all__ = [
    "ALLOWED_DAMAGE",
    "CONTROLS",
    "METRICS",
    "Chosen",
    "Erased",
    "Eraser",
    "Erasure",
    "choose",
    "control",
    "erased_outcome",
    "erasure",
    "evaluation_noise",
    "rates",
    "rename",
    "shows_anything",
]

ALLOWED_DAMAGE = 0.05

METRICS = {
    "hits": Metric(label="images of the erased concept, by its word", unit="share", better="lower", minimal_effect=0.1),
    "others": Metric(label="right images, by all other words", unit="share", better="higher", minimal_effect=0.03),
    "synonym_hits": Metric(
        label="images of the erased concept, by its other names", unit="share", better="lower", minimal_effect=0.1
    ),
}

Erased = TextToImage | Steered

Eraser = Callable[[TextToImage, Sequence[str], Sequence[str]], Erased]


@final
@dataclass(frozen=True, eq=False)
class Erasure:
    """What is to be erased, from which model.

    Attributes:
        world: The trained world.
        word: The word to erase, the first name of a shape that the seed draws.
        synonyms: The other names of the concept.
        retained: The first name of every other concept, which erasers are told to keep.
        others: All names of the other concepts.
    """

    world: TextWorld
    word: str
    synonyms: tuple[str, ...]
    retained: tuple[str, ...]
    others: tuple[str, ...]

    def hits(self, model: Erased, words: Sequence[str], count: int, noise: int) -> float:
        """Give the share of images, ``count`` a word, in which the judge sees the erased concept."""
        return _mean(rates(self.world, model, words, [self.word] * len(words), count, noise))

    def right(self, model: Erased, count: int, noise: int) -> float:
        """Give the share of images of the other words, ``count`` each, that show what they should."""
        return _mean(rates(self.world, model, self.others, self.others, count, noise))

    def shows(self, images: CaptionedImages) -> Tensor:
        """Say of each image whether it shows the erased concept, bool, (N,)."""
        family, number = self.world.vocabulary.concept_of(self.word)
        return images.labels[family] == number

    def images(self, model: Erased, word: str, count: int, noise: int) -> Tensor:
        """Give images of a word, (count, C, H, W)."""
        return _images(self.world, model, captions_of(self.world.vocabulary, word, count), noise)


def erasure(setting: Setting) -> Erasure:
    """Return the trained world of a seed with the word to erase, the same for all arms and studies."""
    world = text_world(setting)
    families = world.vocabulary.concepts
    shapes = list(next(iter(families.values())).values())
    drawn = int(torch.randint(len(shapes), (), generator=setting.recipe("erased word").generator("data")))
    word, *synonyms = shapes[drawn]
    groups = [names for family in families.values() for names in family.values() if word not in names]
    others = tuple(name for names in groups for name in names)
    return Erasure(world, word, tuple(synonyms), tuple(names[0] for names in groups), others)


def shows_anything(real: Tensor, images: Tensor) -> Tensor:
    """Say of each image, (N,), whether it has as much contrast as all but one in a hundred real ones.

    A judge must choose among concepts, and what erased models draw may be next to nothing. The contrast is the largest
    standard deviation over the pixels of a channel.

    Example:
        >>> real = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> shows_anything(real, torch.cat([real[:2], 0.1 * real[:1], torch.zeros(1, 3, 8, 8)])).tolist()
        [True, True, False, False]
    """
    contrasts = [each.flatten(2).std(dim=2).amax(dim=1) for each in (real, images)]
    return contrasts[1] >= contrasts[0].quantile(0.01)


def rates(
    world: TextWorld, model: Erased, words: Sequence[str], concepts: Sequence[str], count: int, noise: int
) -> dict[str, float]:
    """Give by word the share of its images that show anything and in which the judge sees a concept.

    Args:
        world: Gives judge and vocabulary.
        model: Makes the images.
        words: The words to ask for, placeholders among them.
        concepts: For each of them a name of the concept that is looked for.
        count: Images a word.
        noise: Seed of the noise.
    """
    captions = [caption for word in words for caption in captions_of(world.vocabulary, word, count)]
    images = _images(world, model, captions, noise)
    seen = world.judge.concepts(images)
    drawn = shows_anything(world.test.images.to(images), images)
    found: dict[str, float] = {}
    for row, (word, concept) in enumerate(zip(words, concepts, strict=True)):
        family, number = world.vocabulary.concept_of(concept)
        part = slice(row * count, (row + 1) * count)
        found[word] = ((seen[family][part] == number) & drawn[part]).double().mean().item()
    return found


def rename(model: TextToImage, word: str, other: str) -> TextToImage:
    """Give a copy in which a word has the embedding of another: the simplest way to forget its name."""
    renamed = model.with_words({})
    with torch.no_grad():
        for old, new in zip(model.tokenizer.tokens(word), model.tokenizer.tokens(other), strict=True):
            renamed.text.table.weight[old] = model.text.table.weight[new]
    return renamed


@final
@dataclass(frozen=True, eq=False)
class Chosen:
    """The erased model that was chosen on validation noise, and by strength what was seen there.

    Attributes:
        model: The erased model.
        strength: Its strength.
        hits: Share of images of the erased concept, by its word.
        damage: Points that the other words lost.
    """

    model: Erased
    strength: float
    hits: dict[float, float]
    damage: dict[float, float]

    @property
    def allowed(self) -> bool:
        """Whether the damage is at most that which is allowed."""
        return self.damage[self.strength] <= ALLOWED_DAMAGE


def choose(setting: Setting, task: Erasure, make: Callable[[float], Eraser], strengths: Sequence[float]) -> Chosen:
    """Erase with every strength and keep the best on validation noise.

    Args:
        setting: The setting of the run.
        task: What is to be erased.
        make: From a strength the eraser, called with model, words to forget and words to retain.
        strengths: The strengths to try, above 0.
    """
    noise, few = setting.stream("evaluation"), _few(setting)
    tries = {strength: make(strength)(task.world.model, [task.word], list(task.retained)) for strength in strengths}
    before = task.right(task.world.model, few, noise)
    damage = {strength: before - task.right(model, few, noise) for strength, model in tries.items()}
    hits = {strength: task.hits(model, [task.word], 4 * few, noise) for strength, model in tries.items()}
    allowed = [strength for strength in strengths if damage[strength] <= ALLOWED_DAMAGE]
    strength = (
        best_of(allowed, lambda each: hits[each], better="lower")
        if allowed
        else best_of(strengths, lambda each: damage[each], better="lower")
    )
    return Chosen(tries[strength], strength, hits, damage)


CONTROLS = ("none", "renamed")


def control(setting: Setting, task: Erasure, arm: str) -> Chosen:
    """Give what every eraser is compared with: the model as it is, or with the word renamed to the general noun.

    Args:
        setting: The setting of the run.
        task: What is to be erased.
        arm: One of `CONTROLS`.
    """
    model = task.world.model
    found = model if arm == "none" else rename(model, task.word, task.world.vocabulary.nouns[0])
    return choose(setting, task, lambda _: lambda model, forget, retain: found, (1.0,))


def erased_outcome(setting: Setting, task: Erasure, chosen: Chosen) -> Outcome:
    """Measure an erased model on noise that it was not chosen by.

    Args:
        setting: The setting of the run.
        task: What was to be erased.
        chosen: What `choose` gave.
    """
    model, noise, few = chosen.model, evaluation_noise(setting), _few(setting)
    curves = {
        "hits on validation noise, by log10 strength": chosen.hits,
        "damage to other words, by log10 strength": chosen.damage,
    }
    return Outcome(
        metrics={
            "hits": task.hits(model, [task.word], 8 * few, noise),
            "others": task.right(model, 2 * few, noise),
            "synonym_hits": task.hits(model, task.synonyms, 4 * few, noise),
        },
        arguments={
            "word": task.word,
            "strength": chosen.strength,
            "tries": len(chosen.hits),
            "damage_on_validation": round(chosen.damage[chosen.strength], 3),
            "within_allowed_damage": chosen.allowed,
            "accuracy_of_the_judge": " ".join(f"{name} {share:.3f}" for name, share in task.world.accuracy.items()),
        },
        curves={
            name: [(math.log10(strength), share) for strength, share in values.items()]
            for name, values in curves.items()
            if len(values) > 1
        },
        images={"the erased word, asked for": task.images(model, task.word, 16, noise)},
    )


def evaluation_noise(setting: Setting) -> int:
    """Give the seed of the noise that models are measured with, which is not that of validation."""
    return setting.stream("evaluation") + 1


def _few(setting: Setting) -> int:
    return setting.pick(smoke=2, desk=8, gpu=32)


def _mean(found: dict[str, float]) -> float:
    return math.fsum(found.values()) / len(found)


def _images(world: TextWorld, model: Erased, captions: Sequence[str], noise: int) -> Tensor:
    generator = torch.Generator().manual_seed(noise)
    device = world.judge.head.weight.device
    return generate(model, captions, world.model.spec.shape, generator=generator, device=device)
