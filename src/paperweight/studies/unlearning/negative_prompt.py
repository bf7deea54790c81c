"""A negative prompt keeps a concept out of samples (Ho and Salimans 2022 for the guidance; the practice has no paper).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is the
negative prompt; captions ask for it bare and within others, and a judge that was trained on real images counts. The
baseline is the sampler without a negative prompt. There is no strength to choose: guidance is that of the sampler.

What it can show: whether the concept stays out, when it is asked for by its word or by its other names, and what that
costs other words. What it cannot: anything about large models; and whoever has the weights need not use the sampler. As
many hits as the baseline's, or damage beyond five points, would refute the claim. Where the caption is the negative
prompt itself, guidance cancels and what is left is sampling without it, which is a control here: it is what stronger
guidance away from the word comes down to. The other control gives the word the embedding of the general noun.
"""

from functools import partial

from paperweight.generators.process import guided
from paperweight.generators.steering import Steered
from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.negative_prompt import NegativePrompt


class _Unguided:
    """Guidance of weight 1, whatever the sampler's is."""

    def start(self):
        return lambda eps, guidance: guided(eps("caption"), eps("caption"), 1.0)


def erased(task: Erasure, *, template: str = "{}") -> Chosen:
    """Make a caption around the word the negative prompt."""
    eraser = NegativePrompt()
    return task.once(Tried(eraser(task.model, [template.format(task.word)], []), eraser))


def _unguided(task: Erasure) -> Chosen:
    rule = _Unguided()
    return task.once(Tried(Steered(task.model, "", rule), rule))


STUDY = Study(
    paper="negative_prompt",
    question="Does a negative prompt keep a concept out of samples, and only that concept?",
    claim="With its word as negative prompt a model hardly draws a concept, and draws others as before.",
    arms={
        "none": Arm("the model with plain guidance", lambda task: task.once(Tried(task.model))),
        "negative_prompt": Arm("the word is the negative prompt", erased),
        "negative_caption": Arm(
            "variant: the longest caption of the word is the negative prompt",
            partial(erased, template="a photo of the {}"),
        ),
        "unguided": Arm("control: sampling without guidance and without a negative prompt", _unguided),
        "renamed": Arm("control: the word gets the embedding of the general noun", renamed),
    },
    metrics=METRICS,
    headline="hits",
    tuned="nothing",
    limits=(
        "Images of 12 x 12 pixels and some fifty words; one weight of the guidance, 3. The word is one of five shapes "
        "by seed. Nothing is said on whether the concept can be brought back."
    ),
)


def run(arm: Arm[Erase], setting: Setting) -> Outcome:
    """Steer away from the word, and measure it."""
    task = erasure(setting)
    return task.outcome(arm.make(task))
