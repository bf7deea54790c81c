"""Triggers recovered from a classifier whose trigger is known, the index by hand, and what is refused."""

import math

import pytest
import torch
from tests.poisoning.problems import Planted, examples, seeded
from torch import nn

from paperweight.poisoning import anomaly_index, attack_success, reverse_triggers

IMAGES, LABELS = examples(40)
CLASSES = torch.arange(4)


@pytest.fixture(scope="module")
def found():
    return reverse_triggers(Planted(), IMAGES, LABELS, CLASSES, generator=seeded(), batch=16)


def test_the_planted_trigger_is_found_and_is_the_smallest(found):
    sizes = found.masks.flatten(1).sum(dim=1)
    assert found.masks.shape == (4, 1, 3, 3)
    assert found.patterns.shape == (4, 1, 3, 3)
    assert found.success.min() >= 0.85  # 0.95 of what ten steps saw, while the mask shrank
    assert int(found.masks[0].flatten().argmax()) == 8
    assert float(found.patterns[0].flatten()[8]) > 0.8
    assert int(sizes.argmin()) == 0
    for target in (1, 2, 3):
        assert int(found.masks[target].flatten().argmax()) == target


def test_success_is_that_of_the_trigger(found):
    for number in range(4):
        mask, pattern = found.masks[number], found.patterns[number]
        share = attack_success(
            Planted(),
            IMAGES,
            LABELS,
            trigger=lambda images, mask=mask, pattern=pattern: (1 - mask) * images + mask * pattern,
            targets={source: number for source in range(4) if source != number},
        )
        assert abs(share - float(found.success[number])) < 1e-6


def test_masks_and_patterns_are_within_the_range(found):
    for part in (found.masks, found.patterns):
        assert 0 <= float(part.min()) <= float(part.max()) <= 1
        assert not part.requires_grad


def test_one_class_alone_is_found_too():
    alone = reverse_triggers(Planted(), IMAGES, LABELS, torch.tensor([0]), generator=seeded(), batch=16)
    assert int(alone.masks.flatten().argmax()) == 8


def test_a_class_that_cannot_be_reached_has_no_success():
    class Stubborn(nn.Module):
        def forward(self, images):
            return 0 * images.flatten(1)[:, :4] + torch.tensor([0.0, 0.0, 1.0, 0.0])

    unmoved = reverse_triggers(Stubborn(), IMAGES, LABELS, CLASSES, generator=seeded(), steps=20)
    assert unmoved.success.tolist() == [0, 0, 1, 0]


def test_model_and_random_state_stay_and_it_repeats():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (
            reverse_triggers(model, IMAGES, LABELS, CLASSES, generator=seeded(2), steps=20) for _ in range(2)
        )
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_index_by_hand():
    norms = torch.tensor([2.0, 8.0, 10.0, 13.0, 14.0])  # median 10, deviations 8, 2, 0, 3, 4, their median 3
    expected = torch.tensor([8.0, 2.0, 0.0, -3.0, -4.0]) / (1.4826 * 3)
    torch.testing.assert_close(anomaly_index(norms), expected)


def test_the_index_of_equal_norms_is_zero_and_of_a_single_other_infinite():
    assert anomaly_index(torch.ones(5)).tolist() == [0] * 5
    assert anomaly_index(torch.tensor([1.0, 2, 2, 2, 3])).tolist() == [math.inf, 0, 0, 0, -math.inf]


def test_of_normal_norms_the_index_is_about_normal():
    index = anomaly_index(torch.randn(20_000, generator=seeded(), dtype=torch.float64) * 3 + 50)
    assert abs(float(index.std()) - 1) < 0.03


@pytest.mark.parametrize("norms", [torch.ones(2), torch.ones(2, 3)])
def test_bad_norms_are_named(norms):
    with pytest.raises(ValueError, match=r"^norms must be three at least"):
        anomaly_index(norms)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("images", IMAGES[0]),
        ("images", IMAGES.long()),
        ("images", IMAGES[:3]),
        ("targets", CLASSES.float()),
        ("targets", CLASSES[:0]),
        ("success", 0.0),
        ("success", 1.1),
        ("success", math.nan),
        ("steps", 9),
        ("steps", 20.0),
        ("batch", 0),
        ("batch", True),
        ("rate", 0.0),
        ("rate", math.inf),
        ("labels", torch.zeros(40, dtype=torch.int64)),
    ],
)
def test_bad_arguments_are_named(argument, value):
    given = {"images": IMAGES, "labels": LABELS, "targets": CLASSES, argument: value}
    images, labels, targets = given.pop("images"), given.pop("labels"), given.pop("targets")
    with pytest.raises(ValueError, match=rf"^{argument} must"):
        reverse_triggers(Planted(), images, labels, targets, generator=seeded(), **given)
