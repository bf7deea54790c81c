"""Words of captions: concepts with their names, vocabularies of shapes and digits, and captions drawn from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from paperweight.errors import InputError

__all__ = ["DIGIT_WORDS", "SHAPE_WORDS", "Vocabulary", "draw_captions"]

_COMMON = ("a", "the", "photo", "picture", "drawing", "of", "in")
_PREFIXES = ("", "the", "a photo of the", "a picture of the", "a drawing of the")


@final
@dataclass(frozen=True)
class Vocabulary:
    """The words of a world, and which of them are names of one concept.

    Args:
        concepts: By family and concept the names of the concept; the first family is the noun of a caption.
        nouns: Nouns that leave the first family open, such as ``shape``.
        common: All other words.

    Example:
        >>> vocabulary = Vocabulary({"animal": {"cat": ("cat", "kitten"), "dog": ("dog",)}}, ("animal",), ("a", "of"))
        >>> vocabulary.concept_of("kitten"), vocabulary.synonyms("kitten")
        (('animal', 0), ('cat', 'kitten'))
        >>> vocabulary.words
        ('a', 'of', 'animal', 'cat', 'kitten', 'dog')
    """

    concepts: Mapping[str, Mapping[str, tuple[str, ...]]]
    nouns: tuple[str, ...]
    common: tuple[str, ...] = _COMMON

    @property
    def words(self) -> tuple[str, ...]:
        """All words, each once."""
        names = (name for family in self.concepts.values() for group in family.values() for name in group)
        return tuple(dict.fromkeys((*self.common, *self.nouns, *names)))

    def concept_of(self, word: str) -> tuple[str, int]:
        """Give the family of a word and the number of its concept in it.

        Raises:
            InputError: If the word is the name of no concept.
        """
        for family, groups in self.concepts.items():
            for index, names in enumerate(groups.values()):
                if word in names:
                    return family, index
        raise InputError(f"word must be the name of a concept, got {word!r}; see the concepts of the vocabulary")

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Give all names of the concept that a word names, itself among them.

        Raises:
            InputError: If the word is the name of no concept.
        """
        family, index = self.concept_of(word)
        return tuple(self.concepts[family].values())[index]


SHAPE_WORDS = Vocabulary(
    {
        "shape": {
            "circle": ("circle", "disc", "ball"),
            "bar": ("bar", "beam", "plank"),
            "triangle": ("triangle", "wedge", "pyramid"),
            "cross": ("cross", "plus", "crossing"),
            "diamond": ("diamond", "rhombus", "lozenge"),
        },
        "colour": {
            "red": ("red", "scarlet"),
            "green": ("green", "emerald"),
            "blue": ("blue", "azure"),
            "yellow": ("yellow", "golden"),
        },
        "style": {
            "solid": ("solid", "filled"),
            "outlined": ("outlined", "hollow"),
            "striped": ("striped", "banded"),
        },
    },
    ("shape", "figure"),
)
"""The words of `paperweight.data.captioned_shapes`."""

DIGIT_WORDS = Vocabulary(
    {
        "digit": {
            "zero": ("zero", "nil", "nought"),
            "one": ("one", "single", "uno"),
            "two": ("two", "duo", "due"),
            "three": ("three", "trio", "tre"),
            "four": ("four", "quartet", "quattro"),
            "five": ("five", "quintet", "cinque"),
            "six": ("six", "sextet", "sei"),
            "seven": ("seven", "septet", "sette"),
            "eight": ("eight", "octet", "otto"),
            "nine": ("nine", "nonet", "nove"),
        },
        "style": {
            "plain": ("plain", "usual"),
            "bold": ("bold", "heavy"),
            "thin": ("thin", "fine"),
            "outlined": ("outlined", "hollow"),
            "negative": ("negative", "inverted"),
        },
    },
    ("digit", "number"),
)
"""The words of `paperweight.data.captioned_digits`."""


def draw_captions(vocabulary: Vocabulary, labels: dict[str, Tensor], generator: torch.Generator) -> tuple[str, ...]:
    """Describe images: the first family by a noun, others by adjectives or not at all, a colour sometimes by ``in``.

    Args:
        vocabulary: The words.
        labels: By family the number of the concept that each image shows, int64, (N,).
        generator: Draws names, what is said and how.

    Returns:
        A caption an image.

    Example:
        >>> labels = {family: torch.zeros(3, dtype=torch.int64) for family in SHAPE_WORDS.concepts}
        >>> draw_captions(SHAPE_WORDS, labels, torch.Generator().manual_seed(0))
        ('a drawing of the solid shape', 'a photo of the solid disc', 'a photo of the solid disc')
    """
    draws = torch.rand(
        len(labels[next(iter(labels))]), 2 + 2 * len(labels), generator=generator, dtype=torch.float64
    ).tolist()
    families = tuple(vocabulary.concepts)
    names = {family: tuple(groups.values()) for family, groups in vocabulary.concepts.items()}
    concepts = {family: labels[family].tolist() for family in families}
    captions: list[str] = []
    for row, (prefix, postposed, *rest) in enumerate(draws):
        said = {
            family: _pick(names[family][concepts[family][row]], rest[2 * place])
            for place, family in enumerate(families)
            if rest[2 * place + 1] < (0.9 if place == 0 else 0.6)
        }
        noun = said.get(families[0]) or _pick(vocabulary.nouns, rest[0])
        colour = said.pop("colour", None) if postposed < 0.2 else None
        adjectives = [said[family] for family in reversed(families[1:]) if family in said]
        tail = [] if colour is None else ["in", colour]
        captions.append(" ".join([*_pick(_PREFIXES, prefix).split(), *adjectives, noun, *tail]))
    return tuple(captions)


def _pick(values: tuple[str, ...], uniform: float) -> str:
    return values[int(uniform * len(values))]
