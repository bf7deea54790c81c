"""Four ways to disturb what a generator is asked with, so that it copies its training images less.

Source:
    G. Somepalli, V. Singla, M. Goldblum, J. Geiping, T. Goldstein, "Understanding and Mitigating Copying in Diffusion
    Models", NeurIPS, 2023; a word is inserted as in the authors' code: between any two words, before the first or after
    the last, each place alike, one word after the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from paperweight.generators.process import normal

__all__ = ["CaptionWordRepetition", "GaussianEmbeddingNoise", "RandomNumberAddition", "RandomTokenAddition"]

_NUMBERS = 100_000


@final
@dataclass(frozen=True)
class GaussianEmbeddingNoise:
    """Adds normal noise to the tokens of a condition.

    Args:
        scale: Standard deviation of the noise, at least 0. The audits of SolidMark count a strength s: it is s / 10 for
            the tokens of captions, where they use s = 1, and s for the embeddings of labels, where they use 0 to 0.9.

    Raises:
        ValueError: If ``scale`` is negative or not finite.

    Example:
        >>> disturb = GaussianEmbeddingNoise(0.3)
        >>> disturb(torch.zeros(2, 5, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 8])
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"scale must be at least 0 and finite, got {self.scale}")

    def __call__(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise.

        Args:
            tokens: Tokens of the condition, (N, L, dim).
            generator: Draws the noise, anew for every entry.

        Returns:
            Tokens with noise, (N, L, dim); the tokens themselves, and nothing is drawn, where ``scale`` is 0.
        """
        return tokens + self.scale * normal(tokens, generator) if self.scale else tokens


@final
@dataclass(frozen=True)
class RandomNumberAddition:
    """Inserts random numbers, from 0 to 99999, into captions.

    Args:
        count: Numbers a caption, at least 0; the audits of SolidMark use 4.

    Raises:
        ValueError: If ``count`` is no whole number of at least 0.

    Example:
        >>> RandomNumberAddition(1)(["a cat"], torch.Generator().manual_seed(0))
        ['36044 a cat']
    """

    count: int = 2

    def __post_init__(self) -> None:
        _check_count(self.count)

    def __call__(self, captions: Sequence[str], generator: torch.Generator) -> list[str]:
        """Insert the numbers.

        Args:
            captions: The captions.
            generator: Draws numbers and places.

        Returns:
            The changed captions, their words one space apart.
        """
        return _inserted(captions, self.count, lambda _: str(_below(_NUMBERS, generator)), generator)


@final
@dataclass(frozen=True)
class RandomTokenAddition:
    """Inserts random words of a vocabulary into captions.

    Args:
        count: Words a caption, at least 0; the audits of SolidMark use 4.
        vocabulary: The words to draw from, each alike; the paper's are the tokens of the text encoder.

    Raises:
        ValueError: If ``count`` is no whole number of at least 0, or ``vocabulary`` holds no word, or a blank one.

    Example:
        >>> RandomTokenAddition(1, vocabulary=["red", "blue"])(["a cat"], torch.Generator().manual_seed(0))
        ['red a cat']
    """

    count: int = 2
    vocabulary: Sequence[str] = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_count(self.count)
        words = self.vocabulary
        if isinstance(words, str) or not len(words) or not all(isinstance(w, str) and w.strip() for w in words):
            raise ValueError(f"vocabulary must be a list of words, at least one and none blank, got {words!r}")
        object.__setattr__(self, "vocabulary", tuple(words))

    def __call__(self, captions: Sequence[str], generator: torch.Generator) -> list[str]:
        """Insert the words.

        Args:
            captions: The captions.
            generator: Draws words and places.

        Returns:
            The changed captions, their words one space apart.
        """
        return _inserted(captions, self.count, lambda _: _one_of(self.vocabulary, generator), generator)


@final
@dataclass(frozen=True)
class CaptionWordRepetition:
    """Inserts words of the caption itself once more, drawn from those that it came with; an empty one stays empty.

    Args:
        count: Words a caption, at least 0; the audits of SolidMark use 4.

    Raises:
        ValueError: If ``count`` is no whole number of at least 0.

    Example:
        >>> CaptionWordRepetition(2)(["a cat"], torch.Generator().manual_seed(0))
        ['cat a a cat']
    """

    count: int = 2

    def __post_init__(self) -> None:
        _check_count(self.count)

    def __call__(self, captions: Sequence[str], generator: torch.Generator) -> list[str]:
        """Insert the words.

        Args:
            captions: The captions.
            generator: Draws words and places.

        Returns:
            The changed captions, their words one space apart.
        """
        return _inserted(captions, self.count, lambda words: _one_of(words, generator) if words else None, generator)


def _inserted(
    captions: Sequence[str], count: int, draw: Callable[[list[str]], str | None], generator: torch.Generator
) -> list[str]:
    """Insert ``count`` words, each drawn with the caption's own words in view, into every caption."""
    if isinstance(captions, str):
        raise ValueError(f"captions must be a list of texts, got the text {captions!r}")
    if not count:
        return list(captions)
    changed: list[str] = []
    for caption in captions:
        own = caption.split()
        words = list(own)
        for _ in range(count):
            word = draw(own)
            if word is not None:
                words.insert(_below(len(words) + 1, generator), word)
        changed.append(" ".join(words))
    return changed


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator, device=generator.device))


def _one_of(words: Sequence[str], generator: torch.Generator) -> str:
    return words[_below(len(words), generator)]


def _check_count(count: int) -> None:
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"count must be a whole number of at least 0, got {count!r}")
