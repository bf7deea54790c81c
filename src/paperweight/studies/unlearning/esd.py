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
from typing import Literal

from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.esd import ESD

_RATES = (1e-4, 2e-4, 4e-4, 8e-4)
_RATES_OF_ALL_BUT_CROSS = (2e-5, 4e-5, 8e-5, 1.6e-4)


def erased(
    task: Erasure, *, mode: Literal["x", "u"] = "x", eta: float = 1.0, rates: tuple[float, ...] = _RATES
) -> Chosen:
    """Train with every rate."""
    pick = task.setting.pick

    def attempt(rate: float) -> Tried:
        return task.trained(
            ESD(
                mode=mode,
                eta=eta,
                steps=pick(smoke=2, desk=60, gpu=1000),
                lr=rate,
                sampling_steps=pick(smoke=4, desk=8, gpu=50),
                batch_size=pick(smoke=2, desk=4, gpu=16),
            )
        )

    return task.choose(attempt, rates)


STUDY = Study(
    paper="esd",
    question="Does training on negative guidance erase a word from a text-to-image model, and only that word?",
    claim="After ESD the model hardly draws the erased concept when asked by its word, and draws others as before.",
    arms={
        "none": Arm(
            "the model as it is, which ESD is with no steps", lambda task: task.once(task.trained(ESD(steps=0)))
        ),
        "esd": Arm("ESD-x: the cross attention is trained, with eta 1", erased),
        "esd_u": Arm(
            "ESD-u: all but the cross attention is trained, with eta 1",
            partial(erased, mode="u", rates=_RATES_OF_ALL_BUT_CROSS),
        ),
        "esd_eta_0": Arm(
            "variant: ESD-x with eta 0, whose target is the empty caption alone", partial(erased, eta=0.0)
        ),
        "renamed": Arm("control: the word gets the embedding of the general noun, nothing is trained", renamed),
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


def run(arm: Arm[Erase], setting: Setting) -> Outcome:
    """Erase the word with every rate, keep the best, and measure it."""
    task = erasure(setting)
    return task.outcome(arm.make(task))
