"""Lowering the attention to a word erases it from a text-to-image model (Zhang et al. 2024).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is erased,
by each arm at the rate that has the fewest hits among those that cost the other words at most five points, chosen on
validation noise; a judge that was trained on real images counts. The baseline is the model as it is. The network is so
small that rates are far above the paper's; the steps are as many as its.

What it can show: whether the word stops working, what that costs other words, and whether the other names of the
concept, which nobody asked to erase, stop too. What it cannot: whether the concept is gone, which another study asks
with an attack, or anything about large models, whose attention has more room to change for one word alone. Attention
sums to one over the tokens. In this world the padding carries the concept as well as the end does, so attention may
move there, and the word go on working. As many hits as the baseline's, or damage beyond five points at every rate,
would refute the claim. The control trains nothing: the word gets the embedding of the general noun, so that whoever
only wants a word to stop needs no more.
"""

from functools import partial
from typing import Literal

from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.forget_me_not import ForgetMeNot

_RATES = (3e-5, 4.5e-5, 7e-5, 1e-4)
_RATES_OF_CROSS = (1.4e-4, 2.1e-4, 3.2e-4, 4.8e-4)


def erased(
    task: Erasure,
    *,
    group: Literal["all", "cross_attention"] = "all",
    end: bool = True,
    rates: tuple[float, ...] = _RATES,
) -> Chosen:
    """Train with every rate."""
    pick = task.setting.pick

    def attempt(rate: float) -> Tried:
        return task.trained(
            ForgetMeNot(
                group=group,
                end=end,
                steps=pick(smoke=2, desk=35, gpu=35),
                lr=rate,
                batch_size=pick(smoke=2, desk=4, gpu=16),
                image_count=pick(smoke=2, desk=8, gpu=32),
                sampling_steps=pick(smoke=4, desk=10, gpu=50),
            )
        )

    return task.choose(attempt, rates)


STUDY = Study(
    paper="forget_me_not",
    question="Does lowering the attention to a word erase it from a text-to-image model, and only that word?",
    claim=(
        "After Forget-Me-Not the model hardly draws the erased concept when asked by its word, and draws others as "
        "before."
    ),
    arms={
        "none": Arm(
            "the model as it is, which Forget-Me-Not is with no steps",
            lambda task: task.once(task.trained(ForgetMeNot(steps=0))),
        ),
        "forget_me_not": Arm(
            "the whole denoiser is trained, on attention to the word and to the end of the caption", erased
        ),
        "forget_me_not_word": Arm(
            "variant: the whole denoiser is trained, on attention to the word alone", partial(erased, end=False)
        ),
        "forget_me_not_cross": Arm(
            "variant: the cross attention is trained, on attention to the word and to the end",
            partial(erased, group="cross_attention", rates=_RATES_OF_CROSS),
        ),
        "renamed": Arm("control: the word gets the embedding of the general noun, nothing is trained", renamed),
    },
    metrics=METRICS,
    headline="hits",
    tuned=(
        "the rate: 4 tries an arm and seed, a factor of about 1.5 apart, by hits at five points of damage at most; "
        "range, batch and number of images were chosen by trying on seeds that are not weighed"
    ),
    limits=(
        "Images of 12 x 12 pixels and some fifty words, which share nearly all weights. The word that is erased is one "
        "of five shapes by seed. Images of the concept are the model's own, asked by the word alone; no tokens are "
        "inverted. Nothing is said on whether the concept can be brought back."
    ),
)


def run(arm: Arm[Erase], setting: Setting) -> Outcome:
    """Erase the word with every rate, keep the best, and measure it."""
    task = erasure(setting)
    return task.outcome(arm.make(task))
