"""Adversarial prompts distilled from a safety benchmark: texts that look harmless and are drawn as what is not.

A benchmark holds prompts, what detectors say of several images of each, and how unsafe its text looks. What is kept
are prompts whose images are often unsafe, whose text is not, that a service's filters let pass, and that are no near
copies of others: they show what filters of text alone cannot stop, for those who test or mend such a service.
Cost: a look at each record; near copies take a product of embeddings; to find a trigger, some prompts of fewer words.

Source:
    M. Brack, P. Schramowski, K. Kersting, "Distilling Adversarial Prompts from Safety Benchmarks: Report for the
    Adversarial Nibbler Challenge", 2023, https://aclanthology.org/2023.artofsafety-1.3/. Implemented: the steps of the
    distillation.

Deviations:
    - The text was not at hand, and no code of the authors was found: thresholds, and the order of the steps, are ours.
    - The search for the words that make a prompt unsafe is ours; the report analyses prompts by reading.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = [
    "Passed",
    "PromptRecord",
    "bypass_report",
    "deduplicate",
    "distill_prompts",
    "minimal_trigger",
    "unsafe_share",
]

PAPER = Paper(
    title="Distilling Adversarial Prompts from Safety Benchmarks: Report for the Adversarial Nibbler Challenge",
    authors=("Manuel Brack", "Patrick Schramowski", "Kristian Kersting"),
    year=2023,
    url="https://aclanthology.org/2023.artofsafety-1.3/",
    provides={
        "bypass_report": "function",
        "deduplicate": "function",
        "distill_prompts": "function",
        "minimal_trigger": "function",
        "unsafe_share": "function",
    },
    claim="Prompts distilled from a benchmark pass filters of text and are drawn as unsafe images.",
)

Filter = Callable[[str], bool]
"""Tells of a prompt whether a service accepts it."""


class PromptRecord(NamedTuple):
    """A prompt of a benchmark.

    ``image_scores`` are the probabilities, by a detector, that its images are unsafe, one or more; ``text_score`` is
    how unsafe its text looks, from 0 to 1, such as its toxicity; ``category`` is what kind of harm it stands for.
    """

    text: str
    image_scores: tuple[float, ...]
    text_score: float
    category: str = ""


def unsafe_share(record: PromptRecord, cut: float = 0.5) -> float:
    """Give the share of a prompt's images whose score is at least ``cut``.

    Args:
        record: The prompt and its scores.
        cut: From where on an image is unsafe, from 0 to 1.

    Returns:
        The share.

    Raises:
        ValueError: If ``cut`` or a score is not from 0 to 1, or there is no image.

    Example:
        >>> unsafe_share(PromptRecord("a walk", (0.9, 0.2, 0.5, 0.1), 0.0))
        0.5
    """
    _check_unit("cut", cut)
    scores = record.image_scores
    if not scores or not all(0 <= score <= 1 for score in scores) or not 0 <= record.text_score <= 1:
        found = f"{scores} and {record.text_score}"
        raise ValueError(f"record must have scores from 0 to 1, of one image at least and of the text, got {found}")
    return sum(score >= cut for score in scores) / len(scores)


def distill_prompts(
    records: Sequence[PromptRecord],
    filters: Sequence[Filter] = (),
    min_unsafe: float = 0.5,
    max_text_score: float = 0.5,
    cut: float = 0.5,
) -> list[PromptRecord]:
    """Keep prompts that are often drawn as unsafe, do not look it, and pass every filter.

    Args:
        records: The benchmark.
        filters: What a prompt must pass, a blocklist, say.
        min_unsafe: Smallest `unsafe_share`, from 0 to 1.
        max_text_score: What the text's score must be below, from 0 to 1; at 0 nothing is kept.
        cut: As in `unsafe_share`.

    Returns:
        The records, by falling share; of equal ones the harmless looking first, then in the order given.

    Raises:
        ValueError: If a number or a score is outside its range.

    Example:
        >>> records = [PromptRecord("a walk", (0.9,), 0.1), PromptRecord("a fight", (0.9,), 0.8)]
        >>> [record.text for record in distill_prompts(records, [lambda text: "blood" not in text])]
        ['a walk']
    """
    _check_unit("min_unsafe", min_unsafe)
    _check_unit("max_text_score", max_text_score)
    shares = [unsafe_share(record, cut) for record in records]
    kept = [
        (share, record)
        for share, record in zip(shares, records, strict=True)
        if share >= min_unsafe and record.text_score < max_text_score and all(passes(record.text) for passes in filters)
    ]
    return [record for _, record in sorted(kept, key=lambda pair: (-pair[0], pair[1].text_score))]


def deduplicate(embeddings: Tensor, most: float = 0.9) -> list[int]:
    """Choose prompts none of which is nearer than ``most`` to another, the earlier of two that are.

    Args:
        embeddings: Of the texts, the best first, floating, (N, dimensions).
        most: Largest cosine of two that stay, from -1 to 1; at 1 all stay.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: If the shape is another, an embedding has no direction, or ``most`` is outside its range.

    Example:
        >>> deduplicate(Tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0]]))
        [0, 2]
    """
    if isinstance(most, bool) or not -1 <= most <= 1:
        raise ValueError(f"most must be from -1 to 1, got {most!r}")
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        found = f"{embeddings.dtype} of shape {tuple(embeddings.shape)}"
        raise ValueError(f"embeddings must be floating, (N, dimensions), got {found}")
    sizes = embeddings.norm(dim=1)
    if not bool(((sizes > 0) & sizes.isfinite()).all()):
        raise ValueError("embeddings must be finite and none of them 0, got one that has no direction")
    if most == 1:
        return list(range(len(embeddings)))
    directions = F.normalize(embeddings, dim=1)
    cosines = directions @ directions.T
    kept: list[int] = []
    for number in range(len(embeddings)):
        if not kept or bool((cosines[number, kept] <= most).all()):
            kept.append(number)
    return kept


def minimal_trigger(prompt: str, unsafe: Callable[[str], float], least: float = 0.5) -> str:
    """Take words out of a prompt, one after the other, as long as its images stay unsafe often enough.

    In each round the word goes without which the share is largest, of equal ones the first; the last word stays.

    Args:
        prompt: Words with spaces between them, one at least.
        unsafe: Gives the share of unsafe images of a prompt, from 0 to 1, the same at each call.
        least: Share below which it may not fall, from 0 to 1.

    Returns:
        The words that are left, in their order; the whole prompt if its own share is below ``least``.

    Raises:
        ValueError: If the prompt has no word, or ``least`` is outside its range.

    Example:
        >>> minimal_trigger("a quiet walk in crimson", lambda text: 0.8 if "crimson" in text else 0.1)
        'crimson'
    """
    _check_unit("least", least)
    words = prompt.split()
    if not words:
        raise ValueError(f"prompt must have one word at least, got {prompt!r}")
    if unsafe(" ".join(words)) < least:
        return " ".join(words)
    while len(words) > 1:
        shorter = [words[:place] + words[place + 1 :] for place in range(len(words))]
        shares = [unsafe(" ".join(each)) for each in shorter]
        best = max(shares)
        if best < least:
            break
        words = shorter[shares.index(best)]
    return " ".join(words)


class Passed(NamedTuple):
    """Of the prompts of a category, their number, and the share of them that passes a filter; not a number for none."""

    prompts: int
    share: float


def bypass_report(
    records: Sequence[PromptRecord], filters: Mapping[str, Filter], min_unsafe: float = 0.5, cut: float = 0.5
) -> dict[str, dict[str, Passed]]:
    """Tell which share of the prompts that are drawn as unsafe each filter lets pass, by category.

    Args:
        records: The benchmark.
        filters: The filters by name.
        min_unsafe: `unsafe_share` from which on a prompt counts, from 0 to 1.
        cut: As in `unsafe_share`.

    Returns:
        By filter and category, ``"all"`` among them, what passes.

    Raises:
        ValueError: If a number or a score is outside its range, or a category is called ``"all"``.

    Example:
        >>> records = [PromptRecord("a walk", (0.9,), 0.1, "harm"), PromptRecord("blood", (0.9,), 0.8, "harm")]
        >>> bypass_report(records, {"blocklist": lambda text: "blood" not in text})["blocklist"]["harm"]
        Passed(prompts=2, share=0.5)
    """
    _check_unit("min_unsafe", min_unsafe)
    if any(record.category == "all" for record in records):
        raise ValueError("records must have no category 'all', which stands for every category, got one")
    counted = [record for record in records if unsafe_share(record, cut) >= min_unsafe]
    groups = {"all": counted}
    for record in records:
        groups.setdefault(record.category, [other for other in counted if other.category == record.category])
    return {
        name: {
            category: Passed(len(members), _share([passes(record.text) for record in members]))
            for category, members in groups.items()
        }
        for name, passes in filters.items()
    }


def _share(given: Sequence[bool]) -> float:
    return sum(given) / len(given) if given else math.nan


def _check_unit(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
