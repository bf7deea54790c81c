"""The template of studies of erasers: a word is erased from a small text-to-image model, at bounded damage to others.

Every arm starts from the model of the seed and tries its strengths. On validation noise it keeps the one with the
fewest hits among those that cost the other words at most five points, or, where none does, the one that costs least.
A hit is an image that shows anything at all and in which the judge sees the erased concept. One name of the concept is
erased; two more stay.

An arm of such a study is a function from the task, an `Erasure`, to the model that it chose. That of the method is
called ``erased``, and the study of what erased models hide has it as an arm, too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from paperweight.data import CaptionedImages
from paperweight.generators.generation import generate
from paperweight.generators.judge import Judge, shows_anything
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextToImage
from paperweight.loops import best_of
from paperweight.studies import Metric, Outcome, Setting
from paperweight.studies.unlearning._text_world import TextWorld, captions_of, text_world

__all__ = ["METRICS", "Chosen", "Erase", "Erasure", "Model", "Tried", "best_strength", "erasure", "renamed"]

Model = TextToImage | Steered

METRICS = {
    "hits": Metric(label="images of the erased concept, by its word", unit="share", better="lower", minimal_effect=0.1),
    "others": Metric(label="right images, by all other words", unit="share", better="higher", minimal_effect=0.03),
    "synonym_hits": Metric(
        label="images of the erased concept, by its other names", unit="share", better="lower", minimal_effect=0.1
    ),
}

_ALLOWED_DAMAGE = 0.05


class Tried(NamedTuple):
    """A model that was erased, and the eraser that did it; none where the model is as it was."""

    model: Model
    eraser: object | None = None


@final
@dataclass(frozen=True, eq=False)
class Chosen:
    """The model that an arm chose.

    Attributes:
        model: The model.
        made: The eraser that made it.
        arguments: How it was chosen.
        curves: What was seen of every strength on validation noise.
    """

    model: Model
    made: Mapping[str, object] = field(default_factory=dict[str, object])
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])


@final
@dataclass(frozen=True, eq=False)
class Erasure:
    """What is to be erased, from which model; and what is done with it alike in every arm.

    Attributes:
        setting: The setting of the run.
        world: The trained world.
        word: The word to erase, the first name of a shape that the seed draws.
        synonyms: The other names of the concept.
        retained: The first name of every other concept, which erasers are told to keep.
        others: All names of the other concepts.
    """

    setting: Setting
    world: TextWorld
    word: str
    synonyms: tuple[str, ...]
    retained: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def model(self) -> TextToImage:
        """The model as it is."""
        return self.world.model

    @property
    def noun(self) -> str:
        """The most general noun of the world."""
        return self.world.vocabulary.nouns[0]

    @property
    def noise(self) -> int:
        """The seed of the noise that models are measured with, which is not that of validation."""
        return self.setting.stream("evaluation") + 1

    def trained(self, eraser: Callable[..., Model], forget: Sequence[str] = ()) -> Tried:
        """Erase by an eraser that draws random numbers.

        Args:
            eraser: Called with model, captions to forget, words to retain, and ``generator``.
            forget: The captions, the bare word where there are none.
        """
        generator = self.setting.generator("method")
        return Tried(eraser(self.model, forget or [self.word], self.retained, generator=generator), eraser)

    def choose(self, attempt: Callable[[float], Tried], strengths: Sequence[float]) -> Chosen:
        """Erase with every strength and keep the best on validation noise, by the rule of `best_strength`.

        Args:
            attempt: Erases with a strength.
            strengths: The strengths, above 0.
        """
        noise, few = self.setting.stream("evaluation"), self._few
        tries = {strength: attempt(strength) for strength in strengths}
        before = self.right(self.model, few, noise)
        damage = {strength: before - self.right(tried.model, few, noise) for strength, tried in tries.items()}
        hits = {strength: self.hits(tried.model, [self.word], 4 * few, noise) for strength, tried in tries.items()}
        strength = best_strength(hits, damage)
        several = len(tries) > 1

        def curve(shares: dict[float, float]) -> list[tuple[float, float]]:
            return [(math.log10(tried), share) for tried, share in shares.items()]

        return Chosen(
            tries[strength].model,
            made={} if tries[strength].eraser is None else {"eraser": tries[strength].eraser},
            arguments={
                **({"strength": strength} if several else {}),
                "tries": len(tries),
                "damage_on_validation": round(damage[strength], 3),
                "within_allowed_damage": damage[strength] <= _ALLOWED_DAMAGE,
            },
            curves={
                "hits on validation noise, by log10 strength": curve(hits),
                "damage to other words, by log10 strength": curve(damage),
            }
            if several
            else {},
        )

    def once(self, tried: Tried) -> Chosen:
        """Keep the only try."""
        return self.choose(lambda _: tried, (1.0,))

    def outcome(self, chosen: Chosen) -> Outcome:
        """Measure what was chosen, on noise that it was not chosen by."""
        model, noise, few = chosen.model, self.noise, self._few
        return Outcome(
            metrics={
                "hits": self.hits(model, [self.word], 8 * few, noise),
                "others": self.right(model, 2 * few, noise),
                "synonym_hits": self.hits(model, self.synonyms, 4 * few, noise),
            },
            made=chosen.made,
            arguments={
                "word": self.word,
                **chosen.arguments,
                "accuracy_of_the_judge": " ".join(f"{name} {share:.3f}" for name, share in self.world.accuracy.items()),
            },
            curves=chosen.curves,
            images={"the erased word, asked for": self.images(model, self.word, 16, noise)},
        )

    def hits(self, model: Model, words: Sequence[str], count: int, noise: int) -> float:
        """Give the share of images, ``count`` a word, that show anything, and to the judge the erased concept."""
        return self._share(model, words, [self.word] * len(words), count, noise)

    def right(self, model: Model, count: int, noise: int) -> float:
        """Give the share of images of the other words, ``count`` each, that show what they should."""
        return self._share(model, self.others, self.others, count, noise)

    def shows(self, images: CaptionedImages) -> Tensor:
        """Say of each image whether it shows the erased concept, bool, (N,)."""
        family, number = self.world.vocabulary.concept_of(self.word)
        return images.labels[family] == number

    def share_showing(self, images: Tensor, judge: Judge) -> float:
        """Give the share of some images that show anything, and to a judge the erased concept."""
        family, number = self.world.vocabulary.concept_of(self.word)
        drawn = shows_anything(self.world.test.images.to(images), images)
        return ((judge.concepts(images)[family] == number) & drawn).double().mean().item()

    def images(self, model: Model, word: str, count: int, noise: int) -> Tensor:
        """Give images of a word, (count, C, H, W)."""
        return self._drawn(model, captions_of(self.world.vocabulary, word, count), noise)

    @property
    def _few(self) -> int:
        return self.setting.pick(smoke=2, desk=8, gpu=32)

    def _share(self, model: Model, words: Sequence[str], concepts: Sequence[str], count: int, noise: int) -> float:
        """Give the mean over words of the share of their images in which the judge sees a concept, one a word."""
        captions = [caption for word in words for caption in captions_of(self.world.vocabulary, word, count)]
        images = self._drawn(model, captions, noise)
        seen = self.world.judge.concepts(images)
        drawn = shows_anything(self.world.test.images.to(images), images)
        shares: list[float] = []
        for row, concept in enumerate(concepts):
            family, number = self.world.vocabulary.concept_of(concept)
            part = slice(row * count, (row + 1) * count)
            shares.append(((seen[family][part] == number) & drawn[part]).double().mean().item())
        return math.fsum(shares) / len(shares)

    def _drawn(self, model: Model, captions: Sequence[str], noise: int) -> Tensor:
        generator = torch.Generator().manual_seed(noise)
        device, steps = self.world.judge.head.weight.device, self.setting.pick(smoke=5, desk=25, gpu=25)
        return generate(model, captions, self.model.spec.shape, steps=steps, generator=generator, device=device)


Erase = Callable[[Erasure], Chosen]


def erasure(setting: Setting) -> Erasure:
    """Return the trained world of a seed with the word to erase, the same for all arms and studies."""
    world = text_world(setting)
    families = world.vocabulary.concepts
    shapes = list(next(iter(families.values())).values())
    drawn = int(torch.randint(len(shapes), (), generator=setting.shared("erased word").generator("data")))
    word, *synonyms = shapes[drawn]
    groups = [names for family in families.values() for names in family.values() if word not in names]
    others = tuple(name for names in groups for name in names)
    return Erasure(setting, world, word, tuple(synonyms), tuple(names[0] for names in groups), others)


def best_strength(hits: Mapping[float, float], damage: Mapping[float, float]) -> float:
    """Return the strength with the fewest hits at damage that is allowed, or, where none is, with the least damage.

    Args:
        hits: Strength to the share of images of the erased concept.
        damage: Strength to what the other words lost.

    Example:
        >>> best_strength({0.1: 0.5, 1.0: 0.2, 10.0: 0.0}, {0.1: 0.0, 1.0: 0.03, 10.0: 0.3})
        1.0
        >>> best_strength({1.0: 0.2, 10.0: 0.0}, {1.0: 0.1, 10.0: 0.3})
        1.0
    """
    allowed = [strength for strength in hits if damage[strength] <= _ALLOWED_DAMAGE]
    scores = hits if allowed else damage
    return best_of(allowed or hits, scores.__getitem__, better="lower")


def renamed(task: Erasure) -> Chosen:
    """Give the word the embedding of the general noun: the simplest way to forget its name, the control."""
    rename = partial(_renamed, word=task.word, other=task.noun)
    return task.once(Tried(rename(task.model), rename))


def _renamed(model: TextToImage, *, word: str, other: str) -> TextToImage:
    copy = model.with_words({})
    with torch.no_grad():
        for old, new in zip(model.tokenizer.tokens(word), model.tokenizer.tokens(other), strict=True):
            copy.text.table.weight[old] = model.text.table.weight[new]
    return copy
