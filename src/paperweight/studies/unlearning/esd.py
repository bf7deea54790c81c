"""Training on negative guidance erases a word from a text-to-image model (Gandikota et al. 2023).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is erased,
by each arm at the rate that has the fewest hits among those that cost the other words at most five points, chosen on
validation noise; a judge that was trained on real images counts. The baseline is the model as it is. The network is so
small, and the steps so few, that rates are far above the paper's.

What it can show: whether the word stops working, what that costs other words, and whether the other names of the
concept, which nobody asked to erase, stop too. What it cannot: whether the concept is gone, which another study asks
with an attack, or anything about large models, where the weights have more room between concepts. As many hits as the
baseline's, or damage beyond five points at every rate, would refute the claim. The control trains nothing: the word
gets the embedding of the general noun, so that whoever only wants a word to stop needs no more.
"""

from functools import partial

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
from paperweight.unlearning.esd import ESD

STUDY = Study(
    paper="esd",
    question="Does training on negative guidance erase a word from a text-to-image model, and only that word?",
    claim="After ESD the model hardly draws the erased concept when asked by its word, and draws others as before.",
    arms={
        "none": "the model as it is, which ESD is with no steps",
        "esd": "ESD-x: the cross attention is trained, with eta 1",
        "esd_u": "ESD-u: all but the cross attention is trained, with eta 1",
        "esd_eta_0": "variant: ESD-x with eta 0, whose target is the empty caption alone",
        "renamed": "control: the word gets the embedding of the general noun, nothing is trained",
    },
    metrics=METRICS,
    headline="hits",
    tuned=(
        "the rate: 4 tries an arm and seed, a factor of 2 apart, by hits at five points of damage at most; where the "
        "tries begin was set on two other seeds"
    ),
    limits=(
        "Images of 12 x 12 pixels and some fifty words, which share nearly all weights. The word that is erased is one "
        "of five shapes by seed. Steps, samplers and batch are fixed. Nothing is said on whether the concept can be "
        "brought back."
    ),
)

_RATES = {
    "esd": (1e-4, 2e-4, 4e-4, 8e-4),
    "esd_eta_0": (1e-4, 2e-4, 4e-4, 8e-4),
    "esd_u": (2e-5, 4e-5, 8e-5, 1.6e-4),
}


def run(arm: str, setting: Setting) -> Outcome:
    """Erase the word with every rate, keep the best, and measure it."""
    task = erasure(setting)
    return erased_outcome(setting, task, erased(setting, task, arm))


def erased(setting: Setting, task: Erasure, arm: str = "esd") -> Chosen:
    """Erase the word as an arm does, with every rate, and keep the best."""
    if arm in CONTROLS:
        return control(setting, task, arm)

    def make(rate: float) -> Eraser:
        eraser = ESD(
            mode="u" if arm == "esd_u" else "x",
            eta=0.0 if arm == "esd_eta_0" else 1.0,
            steps=setting.pick(smoke=2, desk=60, gpu=1000),
            lr=rate,
            sampling_steps=setting.pick(smoke=4, desk=8, gpu=50),
            batch_size=setting.pick(smoke=2, desk=4, gpu=16),
        )
        return partial(eraser, generator=setting.generator("method"))

    return choose(setting, task, make, _RATES[arm])
