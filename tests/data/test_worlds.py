"""Captions tell what their images show, by pixels counted here; synonyms are told apart from other concepts."""

import pytest
import torch
import torch.nn.functional as F

from paperweight.data import LabelledImages
from paperweight.data.captions import DIGIT_WORDS, SHAPE_WORDS, Vocabulary
from paperweight.data.worlds import captioned_digits, captioned_shapes
from paperweight.errors import InputError


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SHAPES = captioned_shapes(600, generator=drawn())
DIGITS = captioned_digits(600, generator=drawn())


@pytest.mark.parametrize("world", [SHAPES, DIGITS], ids=["shapes", "digits"])
def test_what_a_caption_names_is_what_the_label_says(world):
    counts: dict[str, int] = {}
    for row, caption in enumerate(world.captions):
        for word in caption.split():
            assert word in world.vocabulary.words
            if word not in (*world.vocabulary.common, *world.vocabulary.nouns):
                family, concept = world.vocabulary.concept_of(word)
                assert world.labels[family][row] == concept
                counts[word] = counts.get(word, 0) + 1
    named = {name for family in world.vocabulary.concepts.values() for group in family.values() for name in group}
    assert set(counts) == named
    assert {len(caption.split()) for caption in world.captions} >= {1, 2, 3, 5, 6}
    assert max(len(caption.split()) for caption in world.captions) <= 8
    assert any(noun in caption.split() for caption in world.captions for noun in world.vocabulary.nouns)
    assert world.images.min() >= 0
    assert world.images.max() <= 1
    assert world.images.dtype == torch.float32


def test_synonyms_belong_to_their_group_and_to_no_other():
    assert SHAPE_WORDS.synonyms("disc") == ("circle", "disc", "ball")
    assert SHAPE_WORDS.concept_of("ball") == SHAPE_WORDS.concept_of("circle") == ("shape", 0)
    assert DIGIT_WORDS.concept_of("septet") == ("digit", 7)
    for vocabulary in (SHAPE_WORDS, DIGIT_WORDS):
        names = [n for groups in vocabulary.concepts.values() for group in groups.values() for n in group]
        assert len(names) == len(set(names))
        assert not set(names) & {*vocabulary.common, *vocabulary.nouns}
        assert set(vocabulary.words) == {*names, *vocabulary.common, *vocabulary.nouns}
        assert all(len(group) >= 2 for groups in vocabulary.concepts.values() for group in groups.values())
    with pytest.raises(InputError, match="name of a concept, got 'photo'"):
        SHAPE_WORDS.concept_of("photo")
    assert Vocabulary({"animal": {"cat": ("cat",)}}, ()).synonyms("cat") == ("cat",)


def test_a_red_circle_is_red_and_no_other_colour():
    wanted = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for index, (name, colour) in enumerate(wanted.items()):
        assert tuple(SHAPE_WORDS.concepts["colour"])[index] == name
        sums = SHAPES.images[SHAPES.labels["colour"] == index].sum(dim=(2, 3))
        present = torch.tensor(colour, dtype=torch.bool)
        assert (sums[:, present] > 5).all()
        assert (sums[:, ~present] == 0).all()


def test_styles_of_shapes_by_their_area_and_solid_shapes_by_what_they_fill():
    large = captioned_shapes(400, 32, generator=drawn(1))
    area = large.images.amax(dim=1).sum(dim=(1, 2))
    solid, outlined, striped = (large.labels["style"] == index for index in range(3))
    for shape in range(5):
        here = large.labels["shape"] == shape
        means = [area[here & style].mean() for style in (solid, outlined, striped)]
        assert means[0] > 1.3 * means[1]
        assert 0.3 < means[2] / means[0] < 0.7
    cover = large.images.amax(dim=1)
    columns, rows = (cover.amax(dim=dim) > 0.5 for dim in (1, 2))
    share = area / (columns.sum(dim=1) * rows.sum(dim=1))
    filled = [share[(large.labels["shape"] == index) & solid].mean() for index in range(5)]
    assert filled[1] > 0.9
    torch.testing.assert_close(filled[0], torch.tensor(torch.pi / 4), atol=0.06, rtol=0)
    torch.testing.assert_close(filled[2], torch.tensor(0.5), atol=0.08, rtol=0)
    torch.testing.assert_close(filled[4], torch.tensor(0.5), atol=0.08, rtol=0)


def test_shapes_lie_wholly_inside():
    larger = captioned_shapes(100, 24, generator=drawn(3)).images.amax(dim=1)
    assert larger.shape == (100, 24, 24)
    edges = torch.cat([larger[:, 0], larger[:, -1], larger[:, :, 0], larger[:, :, -1]], dim=1)
    assert edges.mean() < 0.1


def test_styles_of_digits_by_hand():
    stroke = torch.zeros(1, 1, 5, 5)
    stroke[0, 0, 1:4, 2] = 1.0
    world = captioned_digits(60, LabelledImages(stroke, torch.tensor([7])), generator=drawn())
    assert (world.labels["digit"] == 7).all()
    plain, bold, thin, outlined, negative = (world.images[world.labels["style"] == k][0, 0] for k in range(5))
    assert torch.equal(plain, stroke[0, 0])
    assert torch.equal(bold, F.pad(torch.ones(3, 2), (2, 1, 1, 1)))
    assert torch.equal(thin > 0, plain > 0)
    assert thin.sum() < plain.sum()
    assert torch.equal(outlined, F.pad(torch.ones(5, 3), (1, 1, 0, 0)) - plain)
    assert torch.equal(negative, 1 - plain)


def test_the_generator_alone_decides_and_the_digits_given_stay():
    state = torch.get_rng_state()
    digits = LabelledImages(torch.rand(20, 1, 8, 8, generator=drawn()), torch.arange(20) % 10)
    before = digits.images.clone()
    for make in (
        lambda seed: captioned_shapes(20, generator=drawn(seed)),
        lambda seed: captioned_digits(20, digits, generator=drawn(seed)),
    ):
        first, again, other = make(1), make(1), make(2)
        assert torch.equal(first.images, again.images)
        assert first.captions == again.captions
        assert first.captions != other.captions
        assert len(first) == 20
    assert torch.equal(digits.images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: captioned_shapes(0, generator=drawn()), "count must be a whole number of at least 1, got 0"),
        (lambda: captioned_shapes(1, 8, generator=drawn()), "size must be a whole number of at least 12, got 8"),
        (lambda: captioned_digits(0, generator=drawn()), "count must be a whole number of at least 1, got 0"),
        (
            lambda: captioned_digits(1, LabelledImages(torch.zeros(1, 1, 8, 8), torch.tensor([10])), generator=drawn()),
            "labelled 0 to 9",
        ),
        (
            lambda: captioned_digits(1, LabelledImages(torch.zeros(1, 3, 8, 8), torch.tensor([1])), generator=drawn()),
            "must be grey",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
