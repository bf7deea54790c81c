"""A learned word brings back a concept that was thought to be erased (Pham et al. 2024).

A word is erased from a small text-to-image model by UCE, at a strength that costs other words at most five points; then
an embedding for a new word is learned from real images of the concept, on the erased model, and the measure is how
often the judge sees the concept in images of the new word. The baseline is what no memory explains: the same attack on
a model that was trained without any image of the concept. More hits than there show that the concept was hidden and
not removed.

What it can show: whether erased models know more of a concept than models that never saw it. What it cannot: anything
about large models or long attacks; and an eraser that withstands this attack may fall to another. As many hits as the
baseline's would refute the claim for an eraser. Controls: the attack on the model that nothing was erased from, and no
attack at all but an embedding drawn at random.
"""

import torch

from paperweight.loops import loss_curve
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.unlearning._erasure import (
    Erased,
    Eraser,
    Erasure,
    choose,
    erasure,
    evaluation_noise,
    rates,
    rename,
)
from paperweight.studies.unlearning._never_trained import never_trained
from paperweight.unlearning.concept_inversion import invert_concept
from paperweight.unlearning.uce import UCE

STUDY = Study(
    paper="concept_inversion",
    question="Is an erased concept gone, or can a learned word bring it back?",
    claim="A word learned on an erased model draws the concept, one learned on a model that never saw it hardly.",
    arms={
        "never_trained": "the attack on a model trained without any image of the concept: what a word can teach",
        "uce": "the attack on the model that UCE erased the word from",
        "uce_noun": "the same, where UCE edits every position of the caption and is guided by the general noun",
        "renamed": "the same, where the word has the embedding of the general noun: nothing is erased but the name",
        "uce_4_vectors": "variant: a word of four tokens, on UCE's",
        "uce_no_attack": "control: an embedding drawn at random, on UCE's",
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
    },
    headline="recovered",
    tuned="the strength of each eraser, for few hits at little damage; the attack's rate and steps were fixed before",
    limits=(
        "Images of 12 x 12 pixels and some fifty words: what large models hide is another matter. "
        "The two other names of the concept were not erased. One attack, from the general noun, of some hundred steps."
    ),
)

_SCALES = (0.3, 1.0, 3.0, 10.0)


def run(arm: str, setting: Setting) -> Outcome:
    """Erase, attack, and count the images of the concept."""
    task = erasure(setting)
    model, strength, damage = _attacked(arm, setting, task)
    shows = task.shows(task.world.test)
    images = task.world.test.images[shows][: setting.pick(smoke=8, desk=48, gpu=200)]
    found = invert_concept(
        model,
        images.to(setting.device),
        generator=setting.generator("method"),
        vectors=4 if arm == "uce_4_vectors" else 1,
        initial=None if arm == "uce_no_attack" else task.world.vocabulary.nouns[0],
        steps=0 if arm == "uce_no_attack" else setting.pick(smoke=3, desk=400, gpu=2000),
        lr=0.02,
    )
    told = model.with_words({"<found>": found.embedding})
    noise, count = evaluation_noise(setting), setting.pick(smoke=4, desk=64, gpu=256)
    losses = found.losses.tolist()
    own = model.embedding_of(task.word)[0]
    likeness = torch.nn.functional.cosine_similarity(found.embedding, own[None], dim=1).max().item()
    return Outcome(
        metrics={
            "recovered": rates(task.world, told, ["<found>"], [task.word], count, noise)["<found>"],
            "by_its_word": task.hits(model, [task.word], count, noise),
            "others": task.right(model, setting.pick(smoke=2, desk=8, gpu=32), noise),
        },
        arguments={
            "word": task.word,
            "strength": strength,
            "damage_on_validation": damage,
            "images_shown": len(images),
            "steps": len(losses),
            "likeness_to_the_word": round(likeness, 2),
            "norm": round(found.embedding.norm(dim=1).mean().item(), 2),
        },
        curves={"loss of the attack, by step": loss_curve(found.losses, 20)} if losses else {},
        images={
            "by its own word": task.images(model, task.word, 16, noise),
            "by the new word": task.images(told, "<found>", 16, noise),
        },
    )


def _attacked(arm: str, setting: Setting, task: Erasure) -> tuple[Erased, object, object]:
    """Give the model that the arm attacks, with the strength of its eraser and the damage that it did."""
    if arm == "not_erased":
        return task.world.model, None, None
    if arm == "never_trained":
        return never_trained(setting, task.world, task.word), None, None
    noun = task.world.vocabulary.nouns[0]
    if arm == "renamed":
        return rename(task.world.model, task.word, noun), None, None

    def make(scale: float) -> Eraser:
        if arm == "uce_noun":
            return UCE(guide=noun, erase_scale=scale, tokens="all")
        return UCE(erase_scale=scale)

    chosen = choose(setting, task, make, _SCALES)
    return chosen.model, chosen.strength, round(chosen.damage[chosen.strength], 3)
