"""The attack by estimated gradients: the estimate against closed forms, the count of queries, linear models."""

import math
from functools import partial

import pytest
import torch
from tests.attacks.problems import Counting, normal, problem, quick_checks, seeded, unchanged
from torch import nn

from paperweight.attacks import NESAttack, cross_entropy_loss, estimated_gradient
from paperweight.testing import AttackSubject, run_check

BAD = {
    "radius": (-0.1, math.nan, math.inf),
    "norm": (1.0, 3.0, math.nan),
    "queries": (0, 41, 100.0, True),
    "pairs": (0, 1.5, True),
    "width": (0.0, -1.0, math.nan, math.inf),
    "bounds": ((1.0, 0.0), (0.0, math.inf)),
}


def subject(norm, radius, slack, **given):
    make = partial(NESAttack, radius=radius, norm=norm, queries=1650, keep_going=True, **given)
    return AttackSubject(
        make=make,
        norm=norm,
        radius=radius,
        slack=slack,
        random=True,
        targeted=given.get("targeted", False),
        bad=BAD,
        null=partial(make, radius=0.0),
        baseline=unchanged,
    )


SUBJECTS = {
    # Forty estimates of twenty pairs each: small weights keep the wrong sign now and then.
    "infinity": subject(math.inf, 0.1, slack=0.1),
    "targeted": subject(math.inf, 0.1, slack=0.1, targeted=True),
    "2": subject(2.0, 0.3, slack=0.03),
}
CHECKS = {name: quick_checks(declared, queries=124) for name, declared in SUBJECTS.items()}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in CHECKS.items() for check in checks])
def test_contract(name, check):
    result = run_check(check, CHECKS[name][check])
    assert result.passed, str(result)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        NESAttack(**{argument: value})


def test_an_estimate_by_hand():
    source = seeded(3)
    directions = [torch.randn(2, 3, generator=source) for _ in range(2)]
    point = normal(2, 3)

    def loss(x):
        return x.pow(3).sum(dim=1)

    expected = sum(
        ((loss(point + 0.5 * u) - loss(point - 0.5 * u))[:, None] * u for u in directions), torch.zeros(2, 3)
    ) / (2 * 0.5 * 2)
    torch.testing.assert_close(estimated_gradient(loss, point, 2, 0.5, seeded(3)), expected)


def test_estimates_of_a_quadratic_have_its_gradient_as_their_mean():
    """Even terms cancel in a pair, so that the width does not matter."""
    matrix, point = normal(4, 4, seed=1), normal(1, 4, seed=2).expand(1, 4)

    def loss(x):
        return (x @ matrix * x).sum(dim=1)

    found = estimated_gradient(loss, point, 20_000, 2.0, seeded())
    torch.testing.assert_close(found, point @ (matrix + matrix.T), rtol=0.1, atol=0.2)


def test_queries_are_those_asked_for_and_counted():
    model, images, labels = problem()
    counting = Counting(model)
    attack = NESAttack(radius=0.2, queries=101, pairs=10, width=0.01)
    found = attack.search(counting, images, labels, generator=seeded())
    assert counting.seen == found.queries.sum()
    assert counting.passes <= 85  # four steps of 21, and the last look
    assert found.queries[~found.fooled].eq(85).all()
    assert ((found.queries[found.fooled] - 1) % 21 == 0).all()
    assert torch.equal(found.fooled, model(found.inputs).argmax(dim=1) != labels)
    assert found.fooled.sum() > 0


def test_who_is_wrong_already_is_asked_once():
    model, images, labels = problem()
    found = NESAttack(queries=100, pairs=2).search(model, images, (labels + 1) % 4, generator=seeded())
    assert found.queries.eq(1).all()
    assert torch.equal(found.inputs, images)


def test_with_keep_going_the_largest_loss_is_given():
    model, images, labels = problem()
    stops, goes_on = (
        NESAttack(radius=0.2, queries=400, pairs=10, loss=cross_entropy_loss, keep_going=keep).search(
            model, images, labels, generator=seeded()
        )
        for keep in (False, True)
    )
    with torch.no_grad():
        first, second = (cross_entropy_loss(model(each.inputs), labels) for each in (stops, goes_on))
    assert (second >= first - 0.05).all()
    assert (second[stops.fooled] > first[stops.fooled]).any()
    assert goes_on.queries.eq(19 * 21 + 1).all()


def test_no_gradient_of_the_model_is_needed():
    class Stepwise(nn.Module):
        def forward(self, x):
            score = (x.flatten(1).sum(dim=1) * 4).round() / 4
            return torch.stack([score, torch.full_like(score, 2.0)], dim=1)

    found = NESAttack(radius=0.2, queries=400, width=0.2).search(
        Stepwise(), torch.full((3, 8), 0.3), torch.zeros(3, dtype=torch.int64), generator=seeded()
    )
    assert found.fooled.all()
