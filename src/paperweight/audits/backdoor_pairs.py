# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Backdoors between pairs of classes: one trigger that turns each source class to a target of its own, found by UMD."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from torch import nn

from paperweight.backdoor.umd import UMD, PairTriggers, reverse_additive, reverse_patch
from paperweight.data import LabelledImages
from paperweight.nets import evaluating

__all__ = ["PairFinding", "pair_findings"]

_CHUNK = 256
_MOST_CLASSES = 20  # of which there are 380 pairs
_EACH = 10  # images of each class
_STEPS = 100  # of a search for a patch
_LEVEL = 0.999

Form = Literal["patch", "pattern"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PairFinding:
    """What UMD finds in a model.

    Attributes:
        form: ``patch``, or ``pattern`` that is added.
        score: By how much the triggers that pairs share are smaller than the others.
        threshold: The score of which there is an alarm.
        pairs: Source and target classes that share a trigger most.
    """

    form: Form
    score: float
    threshold: float
    pairs: tuple[tuple[int, int], ...]

    @property
    def alarm(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold


def pair_findings(model: nn.Module, clean: LabelledImages, classes: int) -> tuple[PairFinding, ...]:
    """Ask UMD for both forms of triggers; not of two classes or more than 20, nor where a class has too few images.

    Args:
        model: Maps images in [0, 1] to logits.
        clean: Clean images and their labels.
        classes: Number of classes.
    """
    if not 3 <= classes <= _MOST_CLASSES:
        return ()
    with evaluating(model), torch.no_grad():
        seen = torch.cat([model(part).argmax(dim=1) for part in clean.images.split(_CHUNK)])
    right = clean.labels[seen == clean.labels]
    if int(torch.bincount(right, minlength=classes).min()) < _EACH:
        return ()
    found: list[PairFinding] = []
    forms: tuple[tuple[Form, Callable[..., PairTriggers]], ...] = (
        ("patch", partial(reverse_patch, steps=_STEPS)),
        ("pattern", reverse_additive),
    )
    for form, reverse in forms:
        one = UMD(reverse, images_per_class=_EACH, level=_LEVEL).detect(model, clean.images, clean.labels)
        found.append(PairFinding(form=form, score=one.score, threshold=one.threshold, pairs=one.pairs))
    return tuple(found)
