"""Attacks in turn: who is asked for what, the points that are kept, the ways towards each class."""

import math
from functools import partial

import pytest
import torch
from tests.attacks.problems import Counting, problem, quick_checks, seeded, unchanged
from torch import nn

from paperweight.attacks import AttackSuite, ProjectedGradient, TowardsOthers, margin_loss, standard_suite
from paperweight.testing import AttackSubject, run_check

BAD = {
    "radius": (-0.1, math.nan, math.inf),
    "norm": (3.0, math.nan),
    "classes": (0, 1.0, True),
    "steps": (0, 1.5),
    "bounds": ((1.0, 0.0), (0.0, math.inf)),
}


def subject(make, norm, radius):
    made = partial(make, radius=radius, norm=norm)
    return AttackSubject(
        make=made,
        norm=norm,
        radius=radius,
        random=True,
        targeted=False,
        bad=BAD,
        null=partial(made, radius=0.0),
        baseline=unchanged,
    )


SUBJECTS = {
    "towards": subject(TowardsOthers, math.inf, 0.1),
    "towards 2": subject(TowardsOthers, 2.0, 0.3),
    "suite": subject(partial(standard_suite, queries=50), math.inf, 0.1),
    "suite 2": subject(partial(standard_suite, queries=50), 2.0, 0.3),
}
CHECKS = {name: quick_checks(declared, steps=5) for name, declared in SUBJECTS.items()}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in CHECKS.items() for check in checks])
def test_contract(name, check):
    result = run_check(check, CHECKS[name][check])
    # What is fooled is given as it first was, short of the worst case on purpose, which the first step has in infinity.
    short = name.endswith("2") and check == "check_optimum_on_linear_model"
    assert result.passed != short, str(result)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    for make in (TowardsOthers, standard_suite):
        with pytest.raises(ValueError, match=rf"^{argument} must"):
            make(**{argument: value})


def test_a_suite_needs_an_attack():
    with pytest.raises(ValueError, match=r"^attacks must be at least one"):
        AttackSuite([])


class Recorded:
    """An attack that moves inputs by a number, and notes which rows it was given."""

    def __init__(self, change):
        self.change, self.given = change, []

    def __call__(self, model, inputs, labels, *, generator=None):
        self.given.append(inputs.flatten().tolist())
        return inputs + self.change


class Threshold(nn.Module):
    """Class 1 above 0.5, with the margin 2 x - 1."""

    def forward(self, inputs):
        return torch.cat([1 - inputs, inputs], dim=1)


def test_each_attack_is_given_what_none_before_has_fooled():
    inputs, labels = torch.tensor([[0.75], [0.45], [0.3], [0.1]]), torch.zeros(4, dtype=torch.int64)
    first, second, third = Recorded(0.1), Recorded(-0.05), Recorded(0.25)
    changed = AttackSuite([first, second, third])(Threshold(), inputs, labels)
    assert first.given == [pytest.approx([0.45, 0.3, 0.1])]
    assert second.given == third.given == [pytest.approx([0.3, 0.1])]
    # Wrong from the first; fooled by the first; by the third; and by none, where the largest margin is the third's.
    torch.testing.assert_close(changed, torch.tensor([[0.75], [0.55], [0.55], [0.35]]))


def test_of_what_is_not_fooled_the_point_of_largest_margin_is_kept():
    inputs, labels = torch.tensor([[0.1]]), torch.zeros(1, dtype=torch.int64)
    changed = AttackSuite([Recorded(0.2), Recorded(0.1), Recorded(-0.05)])(Threshold(), inputs, labels)
    torch.testing.assert_close(changed, torch.tensor([[0.3]]))
    kept = AttackSuite([Recorded(-0.05)])(Threshold(), inputs, labels)
    assert torch.equal(kept, inputs)


def test_attacks_stop_when_all_are_fooled():
    second = Recorded(0.1)
    AttackSuite([Recorded(0.9), second])(Threshold(), torch.tensor([[0.1]]), torch.zeros(1, dtype=torch.int64))
    assert second.given == []


def test_nothing_given_gives_nothing():
    model, images, labels = problem()
    for attack in (TowardsOthers(), standard_suite()):
        assert attack(model, images[:0], labels[:0]).shape == (0, 1, 5, 5)


def test_towards_others_reaches_the_exact_worst_case_towards_each_class_of_a_linear_model():
    source = seeded(3)
    model = nn.Linear(30, 4)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 30, generator=source))
    inputs = 0.4 + 0.2 * torch.rand(60, 30, generator=source)
    labels = model(inputs).argmax(dim=1)
    weights = model.weight.detach()
    radius = 0.08
    exact = torch.stack(
        [
            margin_loss(model(inputs), labels) * 0
            + (model(inputs)[:, j] - model(inputs).gather(1, labels[:, None])[:, 0])
            + radius * (weights[j] - weights[labels]).abs().sum(dim=1)
            for j in range(4)
        ]
    )
    exact.scatter_(0, labels[None], -math.inf)
    reachable = (exact > 0).any(dim=0)
    assert 0 < int(reachable.sum()) < 60
    changed = TowardsOthers(radius, classes=3, steps=20)(model, inputs, labels, generator=source)
    assert torch.equal(model(changed).argmax(dim=1) != labels, reachable)
    margins = margin_loss(model(changed), labels)[~reachable]
    torch.testing.assert_close(margins, exact.amax(dim=0)[~reachable], atol=1e-4, rtol=0)


def test_one_class_less_is_gone_towards_where_there_are_no_more():
    model, images, labels = problem(classes=3)
    counted = Counting(model)
    TowardsOthers(radius=1e-4, classes=9, steps=5)(counted, images, labels, generator=seeded())
    # The class that is seen; for each of two others unchanged inputs, five steps and the last point, and a last look;
    # and a look at the beginning.
    assert counted.passes == 1 + 1 + 2 * (1 + 5 + 1 + 1)


def test_a_suite_is_at_least_as_strong_as_each_of_its_attacks():
    model, images, labels = problem(80, 6)
    suite = standard_suite(0.06, steps=10, queries=100)
    left = [
        int((model(attack(model, images, labels, generator=seeded())).argmax(dim=1) == labels).sum())
        for attack in (*suite.attacks, suite)
    ]
    assert left[-1] <= min(left[:-1])
    assert 0 < left[-1] < max(left)


def test_the_same_generator_gives_the_same_points_and_shares_are_labels():
    model, images, labels = problem(30)
    shares = nn.functional.one_hot(labels, 4).float()
    suite = standard_suite(0.05, steps=5, queries=20)
    first = suite(model, images, labels, generator=seeded(1))
    assert torch.equal(first, suite(model, images, labels, generator=seeded(1)))
    assert torch.equal(first, suite(model, images, shares, generator=seeded(1)))


def test_a_standard_suite_uses_what_it_is_given():
    suite = standard_suite(0.1, 2.0, steps=7, classes=2, queries=30, samples=3, bounds=(-1.0, 2.0))
    assert [attack.bounds for attack in suite.attacks] == [(-1.0, 2.0)] * 4
    ascents = [attack for attack in suite.attacks if isinstance(attack, ProjectedGradient)]
    assert {(each.radius, each.norm, each.steps, each.samples) for each in ascents} == {(0.1, 2.0, 7, 3)}
