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

from paperweight.studies import Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import (
    CONTROLS,
    METRICS,
    Chosen,
    Eraser,
    Erasure,
    choose,
    control,
    erased_outcome,
    erasure,
)
from paperweight.unlearning.uce import UCE

STUDY = Study(
    paper="uce",
    question="Does editing cross attention in closed form erase a word from a text-to-image model, and only that word?",
    claim="After UCE the model hardly draws the erased concept when asked by its word, and draws others as before.",
    arms={
        "none": "the model as it is, which UCE is at erase_scale 0",
        "uce": "UCE with the last word of the caption, guided by the empty caption",
        "uce_all": "variant: every position of the caption, guided by the empty caption",
        "uce_noun": "variant: every position, guided by the general noun",
        "uce_nothing_kept": "variant: the last word, with no words to keep",
        "renamed": "control: the word gets the embedding of the general noun, no weight is edited",
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

_SCALES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_KEPT = ("uce", "uce_all", "uce_noun")


def run(arm: str, setting: Setting) -> Outcome:
    """Erase the word with every strength, keep the best, and measure it."""
    task = erasure(setting)
    return erased_outcome(setting, task, erased(setting, task, arm))


def erased(setting: Setting, task: Erasure, arm: str = "uce") -> Chosen:
    """Erase the word as an arm does, with every strength, and keep the best."""
    if arm in CONTROLS:
        return control(setting, task, arm)

    def make(scale: float) -> Eraser:
        tokens = "all" if arm in ("uce_all", "uce_noun") else "last"
        eraser = UCE(guide="shape" if arm == "uce_noun" else "", erase_scale=scale, tokens=tokens)
        return lambda model, forget, retain: eraser(model, forget, retain if arm in _KEPT else [])

    return choose(setting, task, make, _SCALES)
