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

from collections.abc import Sequence

from paperweight.diffusion._text_model import TextToImage
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
from paperweight.unlearning.concept_ablation import ConceptAblation

STUDY = Study(
    paper="concept_ablation",
    question="Does training a word to be answered as a general noun is erase that word from a model, and only it?",
    claim="After ablation the model hardly draws the concept when asked by its word, and draws others as before.",
    arms={
        "none": "the model as it is, which ablation is with no steps",
        "concept_ablation": "model-based, with the regularisation on images of the noun",
        "concept_ablation_noise": "variant: noise-based, with the regularisation",
        "concept_ablation_plain": "variant: model-based, without the regularisation, as authors train most concepts",
        "renamed": "control: the word gets the embedding of the general noun, nothing is trained",
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

_RATES = {
    "concept_ablation": (8e-4, 2e-3, 5e-3, 1.2e-2),
    "concept_ablation_noise": (8e-4, 2e-3, 5e-3, 1.2e-2),
    "concept_ablation_plain": (7e-5, 1e-4, 1.5e-4, 2.2e-4),
}


def run(arm: str, setting: Setting) -> Outcome:
    """Erase the word with every rate, keep the best, and measure it."""
    task = erasure(setting)
    return erased_outcome(setting, task, erased(setting, task, arm))


def erased(setting: Setting, task: Erasure, arm: str = "concept_ablation") -> Chosen:
    """Erase the word as an arm does, with every rate, and keep the best."""
    if arm in CONTROLS:
        return control(setting, task, arm)
    noun = task.world.vocabulary.nouns[0]
    count = setting.pick(smoke=4, desk=32, gpu=200)
    anchors = list(dict.fromkeys(text for text in task.world.train.captions if noun in text.split()))[:count]

    def make(rate: float) -> Eraser:
        eraser = ConceptAblation(
            anchor=anchors,
            variant="noise" if arm == "concept_ablation_noise" else "model",
            lam=0.0 if arm == "concept_ablation_plain" else 1.0,
            steps=setting.pick(smoke=2, desk=60, gpu=400),
            lr=rate,
            batch_size=setting.pick(smoke=2, desk=8, gpu=64),
            images=setting.pick(smoke=4, desk=32, gpu=1000),
            guidance=3.0,
            sampling_steps=setting.pick(smoke=2, desk=10, gpu=25),
        )

        def erase(model: TextToImage, forget: Sequence[str], retain: Sequence[str]) -> TextToImage:
            captions = [" ".join(forget[0] if word == noun else word for word in text.split()) for text in anchors]
            return eraser(model, captions, retain, generator=setting.generator("method"))

        return erase

    return choose(setting, task, make, _RATES[arm])
