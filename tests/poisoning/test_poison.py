"""Poisoned training sets by counting, the contract of data transforms, and success by a loop."""

import math
from functools import partial

import pytest
import torch
from tests.poisoning.problems import Planted, drawn, examples, seeded

from paperweight.poisoning import Patch, all_to_one, attack_success, poison
from paperweight.testing import DataTransformSubject, run_check
from paperweight.testing.data_transform import data_transform_checks

IMAGES, LABELS = examples(60)
WHITE = Patch(torch.ones(1, 1, 1), -1, -1)
BAD = {"rate": (-0.1, 1.1, math.nan, True, 0.9), "targets": ({}, {0: 0}, {-1: 0}, {0: -2})}


def pairs(*, rate: float = 0.5, targets=None, trigger=WHITE):
    chosen = {0: 1, 2: 0} if targets is None else targets

    def changed(images, labels, *, generator):
        planted = poison(images, labels, trigger=trigger, targets=chosen, rate=rate, generator=generator)
        return planted.images, planted.labels

    return changed


SUBJECT = DataTransformSubject(
    make=pairs,
    range=(0, 1),
    labels=None,
    random=True,
    null=partial(pairs, rate=0.0),
    baseline=lambda: lambda images, labels, *, generator: (images, labels),
)


@pytest.mark.parametrize("check", data_transform_checks(SUBJECT))
def test_contract(check):
    result = run_check(check, data_transform_checks(SUBJECT)[check])
    assert result.passed, str(result)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.26, 0.5])
@pytest.mark.parametrize("targets", [{0: 1, 2: 0}, {0: 1, 1: 2, 2: 3, 3: 0}, all_to_one(3, 4)])
def test_so_many_of_the_sources_change_and_nothing_else(rate, targets):
    planted = poison(IMAGES, LABELS, trigger=WHITE, targets=targets, rate=rate, generator=seeded(3))
    assert len(planted.indices) == round(rate * 60)
    assert planted.indices.tolist() == sorted(set(planted.indices.tolist()))
    for number in range(60):
        if number in planted.indices:
            assert planted.labels[number] == targets[int(LABELS[number])]
            assert torch.equal(planted.images[number], WHITE(IMAGES[number : number + 1])[0])
        else:
            assert planted.labels[number] == LABELS[number]
            assert torch.equal(planted.images[number], IMAGES[number])


def test_every_source_image_may_be_poisoned_and_each_is_as_likely():
    planted = poison(IMAGES, LABELS, trigger=WHITE, targets={1: 0}, rate=0.25, generator=seeded())
    assert torch.equal(planted.indices, (LABELS == 1).nonzero().squeeze(1))
    counts = torch.zeros(60)
    source = seeded(5)
    for _ in range(600):
        found = poison(IMAGES, LABELS, trigger=WHITE, targets={1: 0, 2: 0}, rate=0.1, generator=source)
        counts[found.indices] += 1
    assert counts[(LABELS == 0) | (LABELS == 3)].sum() == 0
    chosen = counts[(LABELS == 1) | (LABELS == 2)]
    statistic = ((chosen - 120) ** 2 / (120 * 0.8)).sum()  # 6 of 30 are drawn each time: chi-square with 29 degrees
    assert 13.1 < statistic < 52.3


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must"):
        pairs(**{argument: value})(IMAGES, LABELS, generator=seeded())


@pytest.mark.parametrize("labels", [LABELS[:-1], LABELS.float(), LABELS[:, None]])
def test_bad_labels_are_named(labels):
    with pytest.raises(ValueError, match=r"^labels must be one class number"):
        pairs()(IMAGES, labels, generator=seeded())
    with pytest.raises(ValueError, match=r"^labels must be one class number"):
        attack_success(Planted(), IMAGES, labels, trigger=WHITE, targets={0: 1})


@pytest.mark.parametrize(("target", "classes"), [(3, 3), (-1, 3), (0, 1)])
def test_all_to_one_needs_a_class_and_another(target, classes):
    with pytest.raises(ValueError, match=r"^target must"):
        all_to_one(target, classes)


def test_success_counts_the_sources_alone():
    model = Planted()
    assert attack_success(model, IMAGES, LABELS, trigger=WHITE, targets=all_to_one(0, 4)) == 1.0
    assert attack_success(model, IMAGES, LABELS, trigger=WHITE, targets={1: 0, 0: 1}) == 0.5
    assert attack_success(model, IMAGES, LABELS, trigger=lambda images: images, targets=all_to_one(0, 4)) == 0.0
    with pytest.raises(ValueError, match=r"^labels must have one of the source classes \[7\]"):
        attack_success(model, IMAGES, LABELS, trigger=WHITE, targets={7: 0})


def test_success_is_asked_in_eval_mode_and_the_mode_is_restored():
    model = torch.nn.Sequential(torch.nn.Dropout(0.999), Planted()).train()
    assert attack_success(model, IMAGES, LABELS, trigger=WHITE, targets=all_to_one(0, 4)) == 1.0
    assert model.training
    assert model[0].training


def test_success_over_several_batches_is_that_of_a_loop():
    images, labels = drawn(2500, 1, 3, 3), torch.arange(2500) % 4
    targets = {0: 2, 1: 3, 3: 0}
    model = Planted()
    seen = model(WHITE(images)).argmax(dim=1)
    hits = [int(seen[n]) == targets[int(labels[n])] for n in range(2500) if int(labels[n]) in targets]
    assert attack_success(model, images, labels, trigger=WHITE, targets=targets) == sum(hits) / len(hits)
