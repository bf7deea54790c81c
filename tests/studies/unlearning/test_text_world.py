"""The shared world at its smallest: determined by the seed, cached for every study."""

import pytest
import torch

from paperweight.data import DIGIT_WORDS, SHAPE_WORDS
from paperweight.studies import Setting
from paperweight.studies.unlearning._text_world import captions_of, text_world


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path))


def test_a_seed_gives_every_study_the_same_world_and_trains_it_once(tmp_path):
    first, again, other = (
        text_world(Setting(study=study, seed=seed, budget="smoke"))
        for study, seed in (("one", 0), ("another", 0), ("one", 1))
    )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    state = first.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())
    assert not torch.equal(other.model.state_dict()["text.table.weight"], state["text.table.weight"])
    assert first.train.captions == again.train.captions
    assert not torch.equal(first.test.images, first.train.images[: len(first.test)])
    assert not first.model.training
    assert not any(value.requires_grad for value in (*first.model.parameters(), *first.judge.parameters()))
    assert set(first.accuracy) == {"shape", "colour", "style"}
    digits = text_world(Setting(study="one", seed=0, budget="smoke"), "digits")
    assert digits.model.spec.shape == (1, 8, 8)
    known = {tuple(row) for row in digits.train.images[digits.train.labels["style"] == 0].flatten(1).tolist()}
    plain = digits.test.images[digits.test.labels["style"] == 0].flatten(1).tolist()
    assert sum(tuple(row) in known for row in plain) < 0.02 * len(plain)


def test_captions_stand_around_a_word():
    assert captions_of(SHAPE_WORDS, "bar", 5) == ["bar", "the bar", "a photo of the bar", "a drawing of the bar", "bar"]
    assert captions_of(DIGIT_WORDS, "bold", 2) == ["bold digit", "the bold digit"]
    assert captions_of(SHAPE_WORDS, "<v>", 1) == ["<v>"]
