"""Class labels from captions: the words of a caption are looked up in a table of all terms of all classes.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821, whose code, https://github.com/penfever/vlhub, matches runs of up to three words
    with terms that are also tried in reverse, in plural and without spaces. Strict matching is that of A. Fang et al.,
    "Data Determines Distributional Robustness in Contrastive Language Image Pre-training (CLIP)", 2022,
    https://arxiv.org/abs/2205.01397.

Deviations:
    - Terms are cleaned and made singular as captions are. In the authors' code captions alone are, so that a class
      whose name is a plural is never found.
    - A caption that names one class twice names one class; their strict matching drops it.
    - A caption may name any number of classes; their code takes 25.
    - Terms in reverse are looked for with spaces as well as without.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from paperweight.robustness._captions import clean_caption, singular

__all__ = ["CaptionLabeler", "LabelReport"]


class LabelReport(NamedTuple):
    """How good the labels from captions are.

    Attributes:
        coverage: Share of the captions that get a label.
        precision: Share of the labels given that are right; NaN where none is given.
        recall: Share of the captions whose class is among their labels.
    """

    coverage: float
    precision: float
    recall: float


@final
class CaptionLabeler:
    """Gives captions the numbers of the classes that they name, in time proportional to their words.

    Args:
        class_terms: For each class its names, separated by commas, as "horse, pony".
        strategy: ``"single"`` for the first class that is named, the paper's default: at the first word where a term
            begins the shortest such term, of equal terms the class that comes first. ``"strict"`` for the only class
            that is named. ``"multi"`` for all classes that are named.
        ngram: Most words of a term, at least 1. Longer ones are found only without spaces.
        clean: Whether captions and terms pass through `clean_caption`; else they are put in small letters.
        lemmatizer: Maps a word to its base form, in captions and terms alike; by default `singular`.
        min_chars: Captions of fewer characters get no label, at least 0.

    Raises:
        ValueError: If an argument is outside its range, or a class is left with no term.

    Example:
        >>> labeler = CaptionLabeler(["golden retriever", "cat, kitten"])
        >>> labeler.label(["A photo of two Golden-Retrievers!", "my kittens", "a boat"])
        tensor([ 0,  1, -1])
    """

    def __init__(
        self,
        class_terms: Sequence[str],
        strategy: Literal["single", "strict", "multi"] = "single",
        ngram: int = 3,
        clean: bool = True,
        lemmatizer: Callable[[str], str] = singular,
        min_chars: int = 5,
    ) -> None:
        if isinstance(class_terms, str) or not len(class_terms):
            raise ValueError(f"class_terms must be a sequence of texts, at least one, got {class_terms!r}")
        if strategy not in ("single", "strict", "multi"):
            raise ValueError(f"strategy must be 'single', 'strict' or 'multi', got {strategy!r}")
        for name, value, least in (("ngram", ngram, 1), ("min_chars", min_chars, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        self.class_terms = class_terms
        self.strategy: Literal["single", "strict", "multi"] = strategy
        self.ngram, self.clean, self.lemmatizer, self.min_chars = ngram, clean, lemmatizer, min_chars
        self._bases: dict[str, str] = {}
        self._classes: dict[str, list[int]] = {}
        for index, names in enumerate(class_terms):
            if not isinstance(names, str):
                raise ValueError(f"class_terms must be texts, got {names!r} for class {index}")
            terms = {variant for name in names.split(",") for variant in self._variants(name)}
            if not terms:
                raise ValueError(f"class_terms must name each class in words, got {names!r} for class {index}")
            for term in terms:
                self._classes.setdefault(term, []).append(index)

    def _words(self, text: str) -> list[str]:
        words = (clean_caption(text) if self.clean else text.lower()).split()
        bases = self._bases
        for word in words:
            if word not in bases:
                bases[word] = self.lemmatizer(word)
        return [bases[word] for word in words]

    def _variants(self, name: str) -> set[str]:
        """Give a name in both orders of its words, with and without spaces, and each with an "s" for a plural."""
        words = self._words(name)
        ways = {glue.join(order) for glue in (" ", "") for order in (words, words[::-1])} - {""}
        return ways | {way + "s" for way in ways}

    def _named(self, caption: str) -> list[int]:
        """List the classes that a caption names, each once, in the order in which it does."""
        if not isinstance(caption, str):
            raise ValueError(f"captions must be texts, got {caption!r}; leave out images without a caption")
        if len(caption) < self.min_chars:
            return []
        words, found = self._words(caption), dict[int, None]()
        for start in range(len(words)):
            for end in range(start + 1, min(start + self.ngram, len(words)) + 1):
                found.update(dict.fromkeys(self._classes.get(" ".join(words[start:end]), ())))
            if found and self.strategy == "single":
                break
        return list(found)

    def label(self, captions: Sequence[str]) -> Tensor:
        """Give captions their labels.

        Args:
            captions: One text an image.

        Returns:
            Class numbers, int64, (N,), -1 where there is none. By the strategy "multi" (N, most), all classes that a
            caption names in the order in which it does, then -1; ``most`` is their largest number, at least 1.

        Raises:
            ValueError: If ``captions`` is a single text, or holds something else.
        """
        if isinstance(captions, str):
            raise ValueError(f"captions must be a sequence of texts, got the text {captions!r}; give a list")
        named = [self._named(caption) for caption in captions]
        if self.strategy == "multi":
            most = max((len(row) for row in named), default=1) or 1
            rows = [[*row, *[-1] * (most - len(row))] for row in named]
            return torch.tensor(rows, dtype=torch.int64).view(len(rows), most)
        most = 1 if self.strategy == "strict" else len(self.class_terms)
        return torch.tensor([row[0] if 0 < len(row) <= most else -1 for row in named], dtype=torch.int64)

    def report(self, captions: Sequence[str], labels: Tensor) -> LabelReport:
        """Compare the labels from captions with true ones.

        Args:
            captions: One text an image, at least one.
            labels: True class numbers, int64, (N,), from 0.

        Returns:
            Coverage, precision and recall.

        Raises:
            ValueError: If an argument is not as above.
        """
        if labels.dtype != torch.int64 or labels.shape != (len(captions),) or not len(captions):
            raise ValueError(
                f"labels must be int64 of shape ({len(captions)},), one a caption and at least one, got {labels.dtype} "
                f"{tuple(labels.shape)}"
            )
        if not ((labels >= 0) & (labels < len(self.class_terms))).all():
            raise ValueError(f"labels must be from 0 to {len(self.class_terms) - 1}, got {labels.unique().tolist()}")
        found = self.label(captions).view(len(captions), -1)
        given, right = found >= 0, found == labels.cpu()[:, None]
        count = int(given.sum())
        return LabelReport(
            coverage=given.any(dim=1).double().mean().item(),
            precision=int(right.sum()) / count if count else math.nan,
            recall=right.any(dim=1).double().mean().item(),
        )
