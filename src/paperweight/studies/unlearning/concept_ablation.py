"""Training a word to be answered as a general noun erases it, and related words stay (Kumari et al. 2023).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is erased,
by each arm at the rate that has the fewest hits among those that cost the other words at most five points, chosen on
validation noise; a judge that was trained on real images counts. The anchor is the general noun, in captions of the
world that hold it, each paired with itself with the word in its place. The baseline is the model as it is. The network
is so small, and the steps so few, that rates are far above the paper's.

What it can show: whether the word stops working, what that costs other words, and whether the other names of the
concept, which nobody asked to erase, stop too. What it cannot: whether the concept is gone, which another study asks
with an attack, or anything about large models. Where the noun shows any shape, some of its images are hits, so that
none at all is more than the method aims at. As many hits as the baseline's, or damage beyond five points at every
rate, would refute the claim. The control trains nothing: the word gets the embedding of the noun.
"""

from functools import partial
from typing import Literal

from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.concept_ablation import ConceptAblation

_RATES = (8e-4, 2e-3, 5e-3, 1.2e-2)
_RATES_WITHOUT_REGULARISATION = (7e-5, 1e-4, 1.5e-4, 2.2e-4)


def erased(
    task: Erasure,
    *,
    variant: Literal["model", "noise"] = "model",
    lam: float = 1.0,
    rates: tuple[float, ...] = _RATES,
) -> Chosen:
    """Train with every rate, on captions of the world with the noun, and the same with the word in its place."""
    pick = task.setting.pick
    count = pick(smoke=4, desk=32, gpu=200)
    anchors = list(dict.fromkeys(text for text in task.world.train.captions if task.noun in text.split()))[:count]
    captions = [" ".join(task.word if word == task.noun else word for word in text.split()) for text in anchors]

    def attempt(rate: float) -> Tried:
        eraser = ConceptAblation(
            anchor=anchors,
            variant=variant,
            lam=lam,
            steps=pick(smoke=2, desk=60, gpu=400),
            lr=rate,
            batch_size=pick(smoke=2, desk=8, gpu=64),
            images=pick(smoke=4, desk=32, gpu=1000),
            guidance=3.0,
            sampling_steps=pick(smoke=2, desk=10, gpu=25),
        )
        return task.trained(eraser, captions)

    return task.choose(attempt, rates)


STUDY = Study(
    paper="concept_ablation",
    question="Does training a word to be answered as a general noun is erase that word from a model, and only it?",
    claim="After ablation the model hardly draws the concept when asked by its word, and draws others as before.",
    arms={
        "none": Arm(
            "the model as it is, which ablation is with no steps",
            lambda task: task.once(task.trained(ConceptAblation(steps=0))),
        ),
        "concept_ablation": Arm("model-based, with the regularisation on images of the noun", erased),
        "concept_ablation_noise": Arm(
            "variant: noise-based, with the regularisation", partial(erased, variant="noise")
        ),
        "concept_ablation_plain": Arm(
            "variant: model-based, without the regularisation, as authors train most concepts",
            partial(erased, lam=0.0, rates=_RATES_WITHOUT_REGULARISATION),
        ),
        "renamed": Arm("control: the word gets the embedding of the general noun, nothing is trained", renamed),
    },
    metrics=METRICS,
    headline="hits",
    tuned=(
        "the rate: 4 tries an arm and seed, by hits at five points of damage at most; by trying on two other seeds: "
        "the grids, steps and batch, captions of the world in place of the bare word, and as the method's arm the "
        "regularised one, which had less damage"
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
