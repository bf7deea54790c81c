"""The template of studies of erasers, at its smallest: what a hit is, the control, and whose arms an attack takes."""

from importlib import import_module

import pytest
import torch

from paperweight.generators.judge import shows_anything
from paperweight.kinds.arguments import constructor_arguments
from paperweight.studies import Setting
from paperweight.studies.unlearning import concept_inversion
from paperweight.studies.unlearning._erasure import Erasure, best_strength, erasure, renamed


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Erasure:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return erasure(Setting(study="one", seed=0, budget="smoke"))


def test_a_hit_shows_something_and_the_judge_sees_the_concept(task):
    judge, (family, number) = task.world.judge, task.world.vocabulary.concept_of(task.word)
    before = [value.clone() for value in (judge.head.weight, judge.head.bias)]
    first = sum(judge.classes[name] for name in list(judge.classes)[: list(judge.classes).index(family)])
    images = task.images(task.model, task.word, 8, task.noise)
    shown = shows_anything(task.world.test.images, images).double().mean().item()
    found = []
    with torch.no_grad():
        for seen in (number, (number + 1) % judge.classes[family]):
            judge.head.weight.zero_()
            judge.head.bias.zero_()
            judge.head.bias[first + seen] = 1.0
            found.append(task.hits(task.model, [task.word], 8, task.noise))
        for value, kept in zip((judge.head.weight, judge.head.bias), before, strict=True):
            value.copy_(kept)
    assert 0 < shown < 1
    assert found == [shown, 0.0]


def test_a_renamed_word_has_the_embedding_of_the_noun_and_the_model_stays(task):
    before = task.model.embedding_of(task.word)
    chosen = renamed(task)
    assert torch.equal(chosen.model.embedding_of(task.word), task.model.embedding_of(task.noun))
    assert torch.equal(task.model.embedding_of(task.word), before)
    assert not torch.equal(before, task.model.embedding_of(task.noun))
    assert constructor_arguments(chosen.made["eraser"]) == {"word": task.word, "other": task.noun}
    assert chosen.arguments["tries"] == 1
    assert not chosen.curves


def test_of_equal_strengths_the_first_is_kept():
    assert best_strength({0.1: 0.0, 1.0: 0.0}, {0.1: 0.0, 1.0: 0.0}) == 0.1


@pytest.mark.parametrize(
    "stem",
    [
        "concept_ablation",
        "esd",
        "forget_me_not",
        "negative_prompt",
        "safe_latent_diffusion",
        "selective_amnesia",
        "uce",
    ],
)
def test_an_attack_meets_what_the_method_of_an_erasers_study_gives(stem):
    study = import_module(f"paperweight.studies.unlearning.{stem}").STUDY
    assert concept_inversion.STUDY.arm(stem).make is study.arm(study.method).make
