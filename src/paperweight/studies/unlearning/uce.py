"""Cross attention edited in closed form erases a word and hardly touches others (Gandikota et al. 2024).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is erased,
by each arm at the strength that has the fewest hits among those that cost the other words at most five points, chosen
on validation noise; a judge that was trained on real images counts. The baseline is the model as it is.

What it can show: whether the word stops working, what that costs other words, and whether the other names of the
concept, which nobody asked to erase, stop too. What it cannot: whether the concept is gone, which another study asks
with an attack, or anything about large models. As many hits as the baseline's, or damage beyond five points at every
strength, would refute the claim. The control edits no weight: the word gets the embedding of the general noun, so that
whoever only wants a word to stop needs no more.
"""

from functools import partial
from typing import Literal

from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.uce import UCE

_SCALES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def _edited(task: Erasure, eraser: UCE, *, keep: bool = True) -> Tried:
    return Tried(eraser(task.model, [task.word], task.retained if keep else []), eraser)


def erased(task: Erasure, *, tokens: Literal["last", "all"] = "last", noun: bool = False, keep: bool = True) -> Chosen:
    """Edit with every scale."""

    def attempt(scale: float) -> Tried:
        return _edited(task, UCE(guide=task.noun if noun else "", erase_scale=scale, tokens=tokens), keep=keep)

    return task.choose(attempt, _SCALES)


STUDY = Study(
    paper="uce",
    question="Does editing cross attention in closed form erase a word from a text-to-image model, and only that word?",
    claim="After UCE the model hardly draws the erased concept when asked by its word, and draws others as before.",
    arms={
        "none": Arm(
            "the model as it is, which UCE is at erase_scale 0",
            lambda task: task.once(_edited(task, UCE(erase_scale=0.0))),
        ),
        "uce": Arm("UCE with the last word of the caption, guided by the empty caption", erased),
        "uce_all": Arm(
            "variant: every position of the caption, guided by the empty caption", partial(erased, tokens="all")
        ),
        "uce_noun": Arm(
            "variant: every position, guided by the general noun", partial(erased, tokens="all", noun=True)
        ),
        "uce_nothing_kept": Arm("variant: the last word, with no words to keep", partial(erased, keep=False)),
        "renamed": Arm("control: the word gets the embedding of the general noun, no weight is edited", renamed),
    },
    metrics=METRICS,
    headline="hits",
    tuned=(
        "erase_scale: 6 tries an arm and seed, a factor of about 3 apart, by hits at five points of damage at most; "
        "the two lowest were added after a first weighing, whose grid ended at 0.3, had been seen"
    ),
    limits=(
        "Images of 12 x 12 pixels and some fifty words, whose end and padding tokens carry the concept as well. The "
        "word that is erased is one of five shapes by seed. Nothing is said on whether the concept can be brought back."
    ),
)


def run(arm: Arm[Erase], setting: Setting) -> Outcome:
    """Erase the word with every strength, keep the best, and measure it."""
    task = erasure(setting)
    return task.outcome(arm.make(task))
