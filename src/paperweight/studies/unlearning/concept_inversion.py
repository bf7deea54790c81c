"""A learned word brings back a concept that was thought to be erased (Pham et al. 2024).

A word is erased from a small text-to-image model, by each of seven erasers at a strength that costs other words at most
five points where there is one; then an embedding for a new word is learned from real images of the concept, on the
erased model or against its sampler, and the measure is how often the judge sees the concept in images of the new word.
The baseline is what no memory explains: the same attack on a model that was trained without any image of the concept.

How to read an arm: many images by its own word, the concept was *not erased*; else, more by the new word than on the
baseline, it was *hidden*; else, and with an interval that excludes an effect, *removed* as far as this attack tells.

What it can show: whether erased models know more of a concept than models that never saw it. What it cannot: anything
about large models or long attacks; and an eraser that withstands this attack may fall to another. As many hits as the
baseline's would refute the claim for an eraser. The control is the attack on the model that nothing was erased from; a
second judge, trained on other images for another seed, counts as well.
"""

from collections.abc import Callable

import torch

from paperweight.loops import loss_curve
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.unlearning import (
    concept_ablation,
    esd,
    forget_me_not,
    negative_prompt,
    safe_latent_diffusion,
    selective_amnesia,
    uce,
)
from paperweight.studies.unlearning._erasure import Chosen, Erased, Erasure, erasure, evaluation_noise, shows_anything
from paperweight.studies.unlearning._never_trained import never_trained
from paperweight.studies.unlearning._text_world import text_world
from paperweight.unlearning.concept_inversion import invert_concept

STUDY = Study(
    paper="concept_inversion",
    question="Is an erased concept gone, or can a learned word bring it back?",
    claim="A word learned on an erased model draws the concept, one learned on a model that never saw it hardly.",
    arms={
        "never_trained": "the attack on a model trained without any image of the concept: what a word can teach",
        "esd": "the attack on the model that ESD erased the word from",
        "uce": "the same after UCE",
        "concept_ablation": "the same after concept ablation",
        "forget_me_not": "the same after Forget-Me-Not",
        "selective_amnesia": "the same after selective amnesia",
        "negative_prompt": "the same against a sampler with the word as negative prompt",
        "safe_latent_diffusion": "the same against a sampler with safe latent diffusion",
        "not_erased": "control: the attack on the model as it is",
    },
    metrics={
        "recovered": Metric(
            label="images of the concept, by the new word", unit="share", better="higher", minimal_effect=0.1
        ),
        "by_its_word": Metric(
            label="images of the concept, by its own word", unit="share", better="lower", minimal_effect=0.1
        ),
        "others": Metric(label="right images, by all other words", unit="share", better="higher", minimal_effect=0.03),
        "recovered_other_judge": Metric(
            label="the first, as another judge sees it", unit="share", better="higher", minimal_effect=0.1
        ),
    },
    headline="recovered",
    tuned=(
        "the strength of each eraser, at most 6 tries, for few hits at little damage, as in its own study; rate and "
        "steps of the attack were fixed before"
    ),
    limits=(
        "Images of 12 x 12 pixels and some fifty words: what large models hide is another matter. The two other names "
        "of the concept were not erased. One attack, of one vector, from the general noun, of some hundred steps."
    ),
)

_ERASERS: dict[str, Callable[[Setting, Erasure], Chosen]] = {
    "esd": esd.erased,
    "uce": uce.erased,
    "concept_ablation": concept_ablation.erased,
    "forget_me_not": forget_me_not.erased,
    "selective_amnesia": selective_amnesia.erased,
    "negative_prompt": negative_prompt.erased,
    "safe_latent_diffusion": safe_latent_diffusion.erased,
}


def run(arm: str, setting: Setting) -> Outcome:
    """Erase, attack, and count the images of the concept."""
    task = erasure(setting)
    chosen = _ERASERS[arm](setting, task) if arm in _ERASERS else None
    model: Erased = chosen.model if chosen is not None else task.world.model
    if arm == "never_trained":
        model = never_trained(setting, task.world, task.word)
    shows = task.shows(task.world.test)
    images = task.world.test.images[shows][: setting.pick(smoke=8, desk=48, gpu=200)]
    found = invert_concept(
        model,
        images.to(setting.device),
        generator=setting.generator("method"),
        initial=task.world.vocabulary.nouns[0],
        guidance=3.0,
        steps=setting.pick(smoke=2, desk=300, gpu=2000),
        lr=0.02,
        history=setting.pick(smoke=2, desk=4, gpu=7),
        history_range=18,
    )
    told = model.with_words({"<found>": found.embedding})
    noise, count = evaluation_noise(setting), setting.pick(smoke=4, desk=64, gpu=256)
    drawn = task.images(told, "<found>", count, noise)
    other = text_world(_another(setting)).judge
    anything = shows_anything(task.world.test.images.to(drawn), drawn)
    family, number = task.world.vocabulary.concept_of(task.word)
    own = model.embedding_of(task.word)[0]
    likeness = torch.nn.functional.cosine_similarity(found.embedding, own[None], dim=1).max().item()
    return Outcome(
        metrics={
            "recovered": _share(anything & (task.world.judge.concepts(drawn)[family] == number)),
            "by_its_word": task.hits(model, [task.word], count, noise),
            "others": task.right(model, setting.pick(smoke=2, desk=8, gpu=32), noise),
            "recovered_other_judge": _share(anything & (other.concepts(drawn)[family] == number)),
        },
        arguments={
            "word": task.word,
            "strength": None if chosen is None else chosen.strength,
            "damage_on_validation": None if chosen is None else round(chosen.damage[chosen.strength], 3),
            "within_allowed_damage": None if chosen is None else chosen.allowed,
            "images_shown": len(images),
            "steps": len(found.losses),
            "likeness_to_the_word": round(likeness, 2),
            "norm": round(found.embedding.norm(dim=1).mean().item(), 2),
        },
        curves={"loss of the attack, by step": loss_curve(found.losses, 20)},
        images={
            "by its own word": task.images(model, task.word, 16, noise),
            "by the new word": drawn[:16],
        },
    )


def _another(setting: Setting) -> Setting:
    """Give the setting of another seed, whose judge is another one."""
    return Setting(
        study=setting.study,
        seed=setting.seed - 1 if setting.seed else 1,
        budget=setting.budget,
        device=str(setting.device),
    )


def _share(seen: torch.Tensor) -> float:
    return seen.double().mean().item()
