"""Glyphs: drawn anew in any number, as hard as asked for, kept once drawn."""

import numpy as np
import pytest
import torch

from paperweight.data import available, cache_root, glyphs, is_embedded, load_images, source_hash
from paperweight.data.typesetting import CHARACTERS, MAKERS
from paperweight.loops import evaluate_classifier, fit_classifier
from paperweight.nets import LeNet
from paperweight.provenance import Recording, here, recording


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("colour", [False, True])
def test_images_lie_in_the_unit_interval_with_every_class(colour: bool) -> None:
    drawn = glyphs(300, difficulty=1.0, side=32, colour=colour, generator=seeded())
    assert drawn.images.shape == (300, 3 if colour else 1, 32, 32)
    assert (drawn.images.min(), drawn.images.max()) == (0, 1)
    assert torch.bincount(drawn.labels, minlength=10).min() > 10


def test_the_generator_decides_the_draw() -> None:
    first, again, other = (glyphs(20, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_without_difficulty_a_character_is_as_typeset_upright_and_in_the_middle() -> None:
    drawn = glyphs(200, difficulty=0.0, side=32, generator=seeded())
    ground = drawn.images.flatten(1).min(dim=1).values
    assert torch.allclose(ground, torch.tensor(0.05))
    ink = drawn.images[:, 0] - 0.05
    axis = torch.arange(32.0) - 15.5
    for away in ((ink.sum(1) * axis).sum(1), (ink.sum(2) * axis).sum(1)):
        assert (away / ink.sum((1, 2))).abs().max() < 4
    rows = drawn.images[drawn.labels == CHARACTERS.index("H")][:, 0].mean(0) - 0.05
    assert torch.corrcoef(torch.stack([rows.flatten(), rows.flip(1).flatten()]))[0, 1] > 0.9


def test_difficulty_takes_a_small_network_from_nearly_always_right_to_three_in_five() -> None:
    accuracy = {}
    for difficulty in (0.0, 0.5, 1.0):
        draw = seeded(3)
        train, test = (glyphs(1_500, difficulty=difficulty, generator=draw) for _ in range(2))
        torch.manual_seed(0)
        network = LeNet((1, 28, 28), 10)
        adam = torch.optim.Adam(network.parameters(), lr=2e-3)
        fit_classifier(network, adam, train.images - 0.4, train.labels, steps=500, batch_size=32, generator=seeded(0))
        accuracy[difficulty] = evaluate_classifier(network, test.images - 0.4, test.labels).accuracy
    assert accuracy[0.0] > 0.99
    assert 0.85 < accuracy[0.5] < 0.97
    assert 0.3 < accuracy[1.0] < 0.7


def test_named_sets_are_drawn_once_and_then_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.data.embedded._TRAIN", 60)
    monkeypatch.setattr("paperweight.data.embedded._TEST", 40)
    first = load_images("glyphs-20-colour")
    assert first.test is not None
    assert (first.train.images.shape, first.test.images.shape) == ((60, 3, 28, 28), (40, 3, 28, 28))
    assert (first.classes, first.name) == (tuple(CHARACTERS), "glyphs-20-colour")
    (entry,) = (cache_root() / "images").iterdir()
    written = {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    with recording(Recording(here().package)) as record:
        again = load_images("glyphs-20-colour")
    assert {file.name: file.stat().st_mtime_ns for file in entry.iterdir()} == written
    np.testing.assert_array_equal(again.train.images, first.train.images)
    used = here().used(record)
    assert {f"data.typesetting:{maker.__name__}" for maker in MAKERS} <= {*used}
    assert load_images("glyphs-80-colour").fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["digits", "glyphs", "glyphs-colour", "glyphs-0", "glyphs-07", "glyphs-100-colour"])
def test_names_of_embedded_sets_stand_for_themselves(name: str) -> None:
    assert is_embedded(name)
    assert source_hash(name) == name


@pytest.mark.parametrize("name", ["glyphs-", "glyphs-101", "glyphs-5-color", "Glyphs", "glyph"])
def test_other_names_do_not(name: str) -> None:
    assert not is_embedded(name)


def test_embedded_sets_are_offered() -> None:
    assert available()[:3] == ("digits", "glyphs", "glyphs-colour")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 1, "difficulty": 1.1}, r"difficulty must lie in \[0, 1\], got 1.1"),
        ({"count": 1, "side": 7}, "side must be at least 8 pixels, got 7"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        glyphs(**given, generator=seeded())  # type: ignore[arg-type]
