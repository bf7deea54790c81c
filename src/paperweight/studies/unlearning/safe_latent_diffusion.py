"""Guidance away from a concept where the caption comes near it removes it from samples (Schramowski et al. 2023).

A small text-to-image model knows shapes, colours and styles by several names each. The first name of a shape is the
concept to keep off; each arm does so with the preset that has the fewest hits among those that cost the other words at
most five points, chosen on validation noise; a judge that was trained on real images counts. The baseline is plain
guidance. Presets are for 50 steps of a sampler; here are 25, and warm-ups are half as long.

What it can show: whether the concept stays out, when it is asked for by its word or by its other names, and what that
costs other words. What it cannot: anything about large models, whose concepts are scenes more than words; and whoever
has the weights need not use the sampler. As many hits as the baseline's, or damage beyond five points with every
preset, would refute the claim. The control gives the word the embedding of the general noun.
"""

from functools import partial

from paperweight.studies import Arm, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import METRICS, Chosen, Erase, Erasure, Tried, erasure, renamed
from paperweight.unlearning.safe_latent_diffusion import PRESETS, SafeLatentDiffusion

_PRESETS = {preset["safety_scale"]: preset for preset in PRESETS.values()}


def erased(task: Erasure, *, warm_up: bool = True, momentum: bool = True) -> Chosen:
    """Keep off the word with every preset."""

    def attempt(scale: float) -> Tried:
        preset = _PRESETS[scale]
        eraser = SafeLatentDiffusion(
            warmup=int(preset["warmup"]) // 2 if warm_up else 0,
            safety_scale=scale,
            threshold=preset["threshold"],
            momentum_scale=preset["momentum_scale"] if momentum else 0.0,
            momentum_decay=preset["momentum_decay"],
        )
        return Tried(eraser(task.model, [task.word], task.retained), eraser)

    return task.choose(attempt, tuple(_PRESETS))


STUDY = Study(
    paper="safe_latent_diffusion",
    question="Does safe latent diffusion keep a concept out of samples, and only that concept?",
    claim="With safe latent diffusion a model hardly draws a concept, and draws others as before.",
    arms={
        "none": Arm(
            "the model with plain guidance, which SLD is at safety_scale 0", lambda task: task.once(Tried(task.model))
        ),
        "sld": Arm("SLD with the presets", erased),
        "sld_at_once": Arm("variant: the presets without warm-up", partial(erased, warm_up=False)),
        "sld_no_momentum": Arm("variant: the presets without momentum", partial(erased, momentum=False)),
        "renamed": Arm("control: the word gets the embedding of the general noun", renamed),
    },
    metrics=METRICS,
    headline="hits",
    tuned="the preset, known by its safety_scale: 4 tries an arm and seed, by hits at five points of damage at most",
    limits=(
        "Images of 12 x 12 pixels and some fifty words; one weight of the guidance, 3, and 25 steps. The word is one "
        "of five shapes by seed. Nothing is said on whether the concept can be brought back."
    ),
)


def run(arm: Arm[Erase], setting: Setting) -> Outcome:
    """Steer away from the word with every preset, keep the best, and measure it."""
    task = erasure(setting)
    return task.outcome(arm.make(task))
