"""Mitigations by what they keep, what they add, and the law of where they add it."""

import math
from collections import Counter
from dataclasses import FrozenInstanceError

import pytest
import torch

from paperweight.auditing._mitigations import (
    CaptionWordRepetition,
    GaussianEmbeddingNoise,
    RandomNumberAddition,
    RandomTokenAddition,
)

WORDS = ("red", "blue", "tree")
CAPTIONS = ["a photo of a cat", "zero", "two dogs"]
ON_CAPTIONS = {
    "number": RandomNumberAddition,
    "token": lambda count=2: RandomTokenAddition(count, vocabulary=WORDS),
    "repetition": CaptionWordRepetition,
}
all_on_captions = pytest.mark.parametrize("make", ON_CAPTIONS.values(), ids=ON_CAPTIONS)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def added(before: str, after: str) -> Counter[str]:
    kept, changed = Counter(before.split()), Counter(after.split())
    assert not kept - changed, "a word is lost"
    return changed - kept


@all_on_captions
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_words_are_kept_in_their_order_and_so_many_are_added(make, count: int):
    for seed in range(20):
        for before, after in zip(CAPTIONS, make(count)(CAPTIONS, drawn(seed)), strict=True):
            assert added(before, after).total() == count
            rest = iter(after.split())
            assert all(word in rest for word in before.split())


def test_what_is_added():
    for seed in range(50):
        for before, after in zip(CAPTIONS, RandomNumberAddition(3)(CAPTIONS, drawn(seed)), strict=True):
            assert all(0 <= int(word) < 100_000 for word in added(before, after))
        for before, after in zip(
            CAPTIONS, RandomTokenAddition(3, vocabulary=WORDS)(CAPTIONS, drawn(seed)), strict=True
        ):
            assert set(added(before, after)) <= set(WORDS)
        for before, after in zip(CAPTIONS, CaptionWordRepetition(3)(CAPTIONS, drawn(seed)), strict=True):
            assert set(after.split()) == set(before.split())


def test_numbers_are_uniform():
    numbers = [int(text) for text in RandomNumberAddition(1)([""] * 4_000, drawn(1))]
    assert sum(numbers) / len(numbers) == pytest.approx(50_000, abs=5 * 100_000 / math.sqrt(12 * 4_000))
    assert max(numbers) > 99_000
    assert min(numbers) < 1_000


def test_every_place_is_reached_alike():
    captions = ["one two three"] * 4_000
    places = Counter(text.split().index("x") for text in RandomTokenAddition(1, vocabulary=["x"])(captions, drawn(2)))
    assert set(places) == {0, 1, 2, 3}
    assert all(abs(found - 1_000) < 5 * math.sqrt(4_000 * 3 / 16) for found in places.values())


def test_a_second_word_goes_to_any_place_of_the_longer_caption():
    # Of the 2 x 3 ways to insert x twice into one word each leaves it with probability 1/3 first, second or third.
    captions = ["one"] * 6_000
    found = Counter(text.split().index("one") for text in RandomTokenAddition(2, vocabulary=["x"])(captions, drawn(3)))
    assert all(abs(found[place] - 2_000) < 5 * math.sqrt(6_000 * 2 / 9) for place in range(3))


def test_repeated_words_are_drawn_from_those_that_the_caption_came_with():
    # "a" stands twice among three words, so two thirds of the repetitions are of it; and since what was repeated is not
    # drawn from again, the two are independent: both are "a" in 4 of 9 captions.
    texts = CaptionWordRepetition(2)(["a b a"] * 3_000, drawn(4))
    repeated = [added("a b a", text)["a"] for text in texts]
    assert sum(repeated) == pytest.approx(4_000, abs=5 * math.sqrt(6_000 * 2 / 9))
    assert repeated.count(2) == pytest.approx(3_000 * 4 / 9, abs=5 * math.sqrt(3_000 * 20 / 81))


def test_empty_captions():
    assert CaptionWordRepetition(3)(["", "a"], drawn()) == ["", "a a a a"]
    assert RandomTokenAddition(2, vocabulary=["x"])([""], drawn()) == ["x x"]
    assert CaptionWordRepetition(3)([], drawn()) == []


@all_on_captions
def test_none_added_is_the_caption_as_it_was_and_draws_nothing(make):
    generator = drawn(5)
    state = generator.get_state()
    assert make(0)(["  two  spaces "], generator) == ["  two  spaces "]
    assert torch.equal(generator.get_state(), state)


@all_on_captions
def test_defaults_add_two_words(make):
    assert make() == make(2)
    assert len(make()(["one"], drawn())[0].split()) == 3


@all_on_captions
def test_only_the_generator_decides_and_captions_stay_as_they_were(make):
    captions, state = list(CAPTIONS), torch.random.get_rng_state()
    first = make(3)(captions, drawn(1))
    assert first == make(3)(captions, drawn(1))
    assert first != make(3)(captions, drawn(2))
    assert captions == CAPTIONS
    assert torch.equal(torch.random.get_rng_state(), state)


@all_on_captions
@pytest.mark.parametrize("count", [-1, 1.5, None])
def test_bad_counts(make, count):
    with pytest.raises(ValueError, match="count must be a whole number of at least 0, got"):
        make(count)


@all_on_captions
def test_one_text_is_no_list_of_captions(make):
    with pytest.raises(ValueError, match="captions must be a list of texts, got the text 'a cat'"):
        make()("a cat", drawn())


@pytest.mark.parametrize("vocabulary", [[], ["a", " "], "word", ["a", 3]])
def test_bad_vocabularies(vocabulary):
    with pytest.raises(ValueError, match="vocabulary must be a list of words"):
        RandomTokenAddition(vocabulary=vocabulary)


def test_a_vocabulary_that_changes_later_changes_nothing():
    words = ["x"]
    mitigation = RandomTokenAddition(1, vocabulary=words)
    words.append("y")
    assert mitigation.vocabulary == ("x",)


@pytest.mark.parametrize("scale", [0.1, 0.9])
def test_noise_has_the_deviation_asked_for_and_every_entry_its_own(scale: float):
    tokens = torch.randn(50, 7, 100, generator=drawn(1))
    copy, state = tokens.clone(), torch.random.get_rng_state()
    noise = GaussianEmbeddingNoise(scale)(tokens, drawn(2)) - tokens
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=5 * scale / math.sqrt(n))
    assert noise.std().item() == pytest.approx(scale, abs=5 * scale / math.sqrt(2 * n))
    assert noise[0].std(dim=0).min() > 0
    assert noise[:, 0].std(dim=0).min() > 0
    torch.testing.assert_close(noise, scale * torch.randn(50, 7, 100, generator=drawn(2)), rtol=0, atol=1e-6)
    assert torch.equal(tokens, copy)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_noise_is_the_tokens_themselves():
    generator, tokens = drawn(3), torch.ones(2, 3, 4)
    state = generator.get_state()
    assert GaussianEmbeddingNoise(0.0)(tokens, generator) is tokens
    assert torch.equal(generator.get_state(), state)
    assert GaussianEmbeddingNoise()(tokens.half(), generator).dtype == torch.float16


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf])
def test_bad_scales(scale: float):
    with pytest.raises(ValueError, match="scale must be at least 0 and finite, got"):
        GaussianEmbeddingNoise(scale)


def test_mitigations_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        RandomNumberAddition(1).count = 3
