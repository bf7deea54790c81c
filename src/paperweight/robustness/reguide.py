"""ReGuide: a vision-language model suggests other classes for each image, and then judges it among those as well.

Asked which of some classes an image shows, such a model is sure of one even where none fits. So it is first asked for
classes that look like the image, and for some that do not; those that are among the classes in other words go, and the
rest compete for its confidence. What they and a class "none of these classes" get tells how far out the image is.
Cost: one more answer of the model for each image, and a longer question.

Source:
    J. Kim, S. Lee, S. Hwang, "Reflexive Guidance: Improving OoDD in Vision-Language Models via Self-Guided
    Image-Adaptive Concept Generation", ICLR 2025, https://arxiv.org/abs/2410.14975; questions and answers that the
    authors published, https://github.com/daintlab/ReGuide, for what is asked, confidences from 0 to 100, the form of
    an answer, and answers that refuse.

Deviations:
    - Questions ask for the same in words of our own. Lists may come with numbers or dashes. Suggested classes follow
      those that are known; the authors' questions have them shuffled.
    - What counts as the same class is a function of the caller's; the authors filter by rules and by a text encoder.
    - Confidences are divided by their sum; an answer without any is judged as out of the classes for certain.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, final

from paperweight.catalogue import Paper

__all__ = [
    "REJECTED",
    "ConceptModel",
    "Judged",
    "PromptedModel",
    "filter_names",
    "judge_confidences",
    "parse_confidences",
    "parse_names",
    "reflexive_guidance",
]

PAPER = Paper(
    title="Reflexive Guidance: Improving OoDD in Vision-Language Models via Self-Guided Image-Adaptive Concept "
    "Generation",
    authors=("Jihyo Kim", "Seulbi Lee", "Sangheum Hwang"),
    year=2024,
    url="https://arxiv.org/abs/2410.14975",
    provides={
        "filter_names": "function",
        "judge_confidences": "function",
        "parse_confidences": "function",
        "parse_names": "function",
        "reflexive_guidance": "function",
    },
    null={"near": 0, "far": 0},
    claim="Classes that a vision-language model suggests for an image help it to tell images of other classes.",
)

REJECTED = "none of these classes"
"""The class of what is none of the others."""


def _never(one: str, other: str) -> bool:
    return False


class ConceptModel(Protocol):
    """What can be asked about an image."""

    def suggest(self, image: Any, count: int, *, near: bool) -> Sequence[str]:
        """Name classes that look like the image, or that have nothing to do with it."""
        ...

    def confidences(self, image: Any, names: Sequence[str]) -> Mapping[str, float]:
        """Give a confidence of at least 0 for each of some names, the rejected class among them."""
        ...


class Judged(NamedTuple):
    """What was made of an image.

    ``label`` is the class of largest confidence, the first of equal ones, which is never the rejected one;
    ``confidence`` its share of all confidence, and ``ood_score`` 1 less that; ``suggested`` are the other classes.
    """

    label: str
    confidence: float
    ood_score: float
    suggested: tuple[str, ...] = ()


def reflexive_guidance(
    model: ConceptModel,
    image: Any,
    classes: Sequence[str],
    near: int = 20,
    far: int = 20,
    same: Callable[[str, str], bool] = _never,
) -> Judged:
    """Judge an image among the classes and what the model suggests for it.

    Args:
        model: What is asked.
        image: What it takes.
        classes: The classes that are known, at least one, each once.
        near: How many classes that look like the image are asked for, at least 0; the authors have 20.
        far: How many that have nothing to do with it, at least 0; with 0 of both the classes alone are judged.
        same: As in `filter_names`.

    Returns:
        What was made of it.

    Raises:
        ValueError: If a number is below 0, or there are no classes, or one twice, or the rejected one.

    Example:
        >>> class Colours:
        ...     def suggest(self, image, count, *, near):
        ...         return ["Red", "pink"] if near else ["sea"]
        ...     def confidences(self, image, names):
        ...         return {name: 4.0 if name == "pink" else 1.0 for name in names}
        >>> reflexive_guidance(Colours(), None, ["red", "blue"])
        Judged(label='red', confidence=0.125, ood_score=0.875, suggested=('pink', 'sea'))
    """
    _check_classes(classes)
    for name, count in (("near", near), ("far", far)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {count!r}")
    asked = [list(model.suggest(image, count, near=of))[:count] for of, count in ((True, near), (False, far)) if count]
    suggested = filter_names([name for names in asked for name in names], classes, same)
    found = model.confidences(image, (*classes, *suggested, REJECTED))
    return judge_confidences(found, classes)._replace(suggested=tuple(suggested))


def filter_names(names: Sequence[str], classes: Sequence[str], same: Callable[[str, str], bool] = _never) -> list[str]:
    """Take out of suggested names those of the classes, of the rejected one, and repetitions.

    Args:
        names: What was suggested.
        classes: The classes that are known.
        same: Tells of a name and a class whether they are the same in other words, or one a kind of the other;
            difference of case, spaces and hyphens alone never counts.

    Returns:
        The names that stay, in their order.

    Raises:
        ValueError: If there are no classes, or one twice, or the rejected one.

    Example:
        >>> filter_names(["Tabby-cat", "lynx", "puma", "LYNX", ""], ["tabby cat"], lambda one, _: one == "puma")
        ['lynx']
    """
    _check_classes(classes)
    seen = {_plain(name) for name in (*classes, REJECTED, "")}
    kept: list[str] = []
    for name in names:
        if _plain(name) in seen:
            continue
        seen.add(_plain(name))
        if not any(same(name, of) for of in classes):
            kept.append(name)
    return kept


def judge_confidences(confidences: Mapping[str, float], classes: Sequence[str]) -> Judged:
    """Give the class of most confidence, and the score S = 1 - max of a class / sum of all.

    Args:
        confidences: By name, at least 0 and finite; a class that is missing has 0.
        classes: The classes that are known.

    Returns:
        What was made of the image; without any confidence the score is 1.

    Raises:
        ValueError: If a confidence is outside its range, there are no classes, one twice, or the rejected one.

    Example:
        >>> judge_confidences({"cat": 30.0, "dog": 10.0, "lynx": 60.0}, ["cat", "dog"])
        Judged(label='cat', confidence=0.3, ood_score=0.7, suggested=())
    """
    _check_classes(classes)
    if any(isinstance(value, bool) or not 0 <= value < math.inf for value in confidences.values()):
        raise ValueError(f"confidences must be at least 0 and finite, got {dict(confidences)}")
    total = sum(confidences.values())
    label = max(classes, key=lambda name: confidences.get(name, 0.0))
    share = confidences.get(label, 0.0) / total if total > 0 else 0.0
    return Judged(label, share, 1 - share)


def parse_confidences(answer: str, names: Sequence[str]) -> dict[str, float]:
    r"""Read the confidences in an answer, those after "Confidence:" between braces.

    Args:
        answer: What a model wrote; one that refuses has no confidences.
        names: The names that count; others are left out, and those that are missing have 0.

    Returns:
        By name the confidence, cut to 0 to 100; 0 where it is no number.

    Raises:
        ValueError: If there are no names.

    Example:
        >>> parse_confidences("Prediction: cat\nConfidence: {'cat': '80.5', 'dog': 12}", ["cat", "dog", "cow"])
        {'cat': 80.5, 'dog': 12.0, 'cow': 0.0}
    """
    if not names:
        raise ValueError("names must be one at least, got none")
    match = re.search(r"confidences?[\"'*_]*\s*:[*_]*\s*(\{.*?\})", answer, re.IGNORECASE | re.DOTALL)
    read: Any = {}
    if match is not None:
        try:
            read = ast.literal_eval(match.group(1))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            read = {}
    values = {_plain(str(name)): value for name, value in read.items()} if isinstance(read, dict) else {}
    return {name: _number(values.get(_plain(name))) for name in names}


def parse_names(answer: str) -> list[str]:
    r"""Read names from a list in an answer: between commas or lines, maybe with numbers, dashes, quotes or brackets.

    Args:
        answer: What a model wrote.

    Returns:
        The names, in their order.

    Raises:
        ValueError: If the answer is no text.

    Example:
        >>> parse_names("1. red fox\n2) 'lynx'\n- wild cat"), parse_names("[lynx, puma]")
        (['red fox', 'lynx', 'wild cat'], ['lynx', 'puma'])
    """
    if not isinstance(answer, str):
        raise ValueError(f"answer must be a text, got {answer!r}")
    parts = re.split(r"[,\n;]", answer)
    names = (re.sub(r"^\s*(?:\d+\s*[.)]|[-*])\s*", "", part.strip(" \t[](){}")) for part in parts)
    return [name for name in (name.strip(" \t'\"`.[](){}") for name in names) if name]


@final
class PromptedModel:
    """A `ConceptModel` of what answers questions about an image in words.

    Args:
        complete: Gives the answer, a text, to an image and a question.

    Example:
        >>> PromptedModel(lambda image, question: "1. lynx, 2. puma").suggest(None, 2, near=True)
        ['lynx', 'puma']
    """

    def __init__(self, complete: Callable[[Any, str], str]) -> None:
        self.complete = complete

    def suggest(self, image: Any, count: int, *, near: bool) -> list[str]:
        """Name classes that look like the image, or that have nothing to do with it, at most ``count``."""
        wanted = (
            "look like it or mean something close to it" if near else "neither look like it nor mean anything close"
        )
        question = (
            f"Look at the image. Name {count} classes of things that {wanted}. Answer with a list of names alone."
        )
        return parse_names(self.complete(image, question))[:count]

    def confidences(self, image: Any, names: Sequence[str]) -> dict[str, float]:
        """Give the confidence for each of some names, from 0 to 100."""
        shown = ", ".join(repr(name) for name in names)
        question = (
            f"Decide which of these {len(names)} classes the image shows: [{shown}].\n"
            f"Choose {REJECTED!r} if none of the others fits, or if you are not sure that one does.\n"
            "Give each class a confidence between 0 and 100; they are compared with each other. Your prediction is the "
            "class of largest confidence. Answer in this form and with nothing else:\n"
            f"Prediction: one of the classes\nConfidence: {{{', '.join(f'{name!r}: a number' for name in names)}}}"
        )
        return parse_confidences(self.complete(image, question), names)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _number(value: object) -> float:
    try:
        number = float(str(value).strip().rstrip("%"))
    except ValueError:
        return 0.0
    return min(max(number, 0.0), 100.0) if not math.isnan(number) else 0.0


def _check_classes(classes: Sequence[str]) -> None:
    plain = [_plain(name) for name in classes]
    if isinstance(classes, str) or not plain or len(set(plain)) < len(plain) or REJECTED in plain or "" in plain:
        raise ValueError(f"classes must be names, one at least, each once, without {REJECTED!r}, got {classes!r}")
