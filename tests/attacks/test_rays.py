"""The RayS attack: blocks by hand, distances against closed forms, decisions alone, queries counted."""

import math
from functools import partial

import pytest
import torch
from tests.attacks.problems import Counting, normal, problem
from torch import nn

from paperweight.attacks import RaySAttack, turned
from paperweight.testing import AttackSubject, run_check
from paperweight.testing.attack import attack_checks

BAD = {
    "queries": (0, 1, 10.0, True),
    "tolerance": (0.0, -1.0, math.nan, math.inf),
    "bounds": ((1.0, 0.0), (0.0, math.inf)),
}
SUBJECT = AttackSubject(
    # It stays with the class that its first ray meets, which need not be the nearest; between two classes, see below.
    make=partial(RaySAttack, queries=600),
    norm=math.inf,
    radius=None,
    slack=1.0,
    shape=(1, 4, 4),
    bad=BAD,
)


@pytest.mark.parametrize("check", attack_checks(SUBJECT))
def test_contract(check):
    result = run_check(check, attack_checks(SUBJECT)[check])
    assert result.passed, str(result)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        RaySAttack(**{argument: value})


class Deciding(nn.Module):
    """Gives one-hot decisions of a model, and notes what it is asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, inputs):
        self.asked.append(inputs.clone())
        logits = self.model(inputs)
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(logits)


def half(weight, bias):
    """Give a model whose first class is left where weight @ x + bias is above 0."""
    model = nn.Linear(len(weight), 2)
    model.weight.data.copy_(torch.stack([torch.zeros(len(weight)), torch.tensor(weight)]))
    model.bias.data.copy_(torch.tensor([0.0, bias]))
    return nn.Sequential(nn.Flatten(), model)


def test_blocks_are_turned_by_stages():
    """Of five entries: all; the first three, the last two; 2, 2, 1; one by one, and again one by one."""
    deciding = Deciding(half([0.0] * 5, -1.0))
    RaySAttack(queries=17).search(deciding, torch.full((1, 5), 0.5), torch.tensor([0]))
    signs = ["".join("+" if entry == 1 else "-" for entry in point[0].tolist()) for point in deciding.asked[1:]]
    assert signs == [
        "+++++",
        "-----",
        *("---++", "+++--"),
        *("--+++", "++--+", "++++-"),
        *("-++++", "+-+++", "++-++", "+++-+", "++++-"),
        *("-++++", "+-+++", "++-++", "+++-+"),
    ]


def test_a_block_is_the_rest_where_no_more_is_left():
    stage, block = torch.tensor([2, 2, 5]), torch.tensor([0, 2, 4])
    assert turned(torch.ones(3, 5), stage, block).tolist() == [
        [-1, -1, 1, 1, 1],
        [1, 1, 1, 1, -1],
        [1, 1, 1, 1, -1],
    ]


def test_the_first_ray_is_searched_by_bisection():
    """Along all pluses the class changes at 0.3 on."""
    deciding = Deciding(half([1.0, 1.0], -1.6))
    found = RaySAttack(queries=12).search(deciding, torch.full((1, 2), 0.5), torch.tensor([0]))
    steps = [round(point[0, 0].item() - 0.5, 6) for point in deciding.asked[1:6]]
    assert steps == [0.5, 0.5, 0.25, 0.375, 0.3125]  # the first two are cut off at 1
    assert found.fooled.all()
    assert 0.3 < (found.inputs - 0.5).abs().max() < 0.302


def test_with_queries_enough_the_signs_are_those_of_the_weights():
    weight = normal(16).tolist()
    model = half(weight, -0.02 * sum(map(abs, weight)) - sum(weight) / 2)
    found = RaySAttack(queries=2000, tolerance=1e-5).search(model, torch.full((1, 16), 0.5), torch.tensor([0]))
    assert torch.equal((found.inputs - 0.5).sign()[0], torch.tensor(weight).sign())
    assert (found.inputs - 0.5).abs().max() == pytest.approx(0.02, abs=2e-5)


def test_more_queries_bring_the_change_nearer_and_each_is_wrong():
    model, images, labels = problem()
    sizes = []
    for queries in (50, 200, 1000):
        counting = Counting(Deciding(model))
        found = RaySAttack(queries=queries).search(counting, images, labels)
        assert counting.passes == queries
        assert found.queries.eq(queries).all()
        assert torch.equal(found.fooled, model(found.inputs).argmax(dim=1) != labels)
        sizes.append((found.inputs - images).abs().flatten(1).amax(dim=1))
    assert (sizes[1] <= sizes[0]).all()
    assert (sizes[2] <= sizes[1]).all()
    assert sizes[2].mean() < 0.7 * sizes[0].mean()


def test_who_is_wrong_already_stays_and_who_is_never_wrong_too():
    model, images, labels = problem()
    found = RaySAttack(queries=20).search(model, images, (labels + 1) % 4)
    assert found.queries.eq(1).all()
    assert found.fooled.all()
    assert torch.equal(found.inputs, images)
    never = RaySAttack(queries=20).search(half([0.0] * 25, -1.0), images, torch.zeros_like(labels))
    assert not never.fooled.any()
    assert torch.equal(never.inputs, images)


def test_a_target_is_looked_for():
    model, images, labels = problem()
    goal = (labels + 1) % 4
    found = RaySAttack(queries=600, targeted=True).search(model, images, goal)
    assert torch.equal(found.fooled, model(found.inputs).argmax(dim=1) == goal)
    assert found.fooled.any()


def test_other_bounds_have_other_rays():
    deciding = Deciding(half([0.0, 0.0], -1.0))
    RaySAttack(queries=2, bounds=(-2.0, 3.0)).search(deciding, torch.zeros(1, 2), torch.tensor([0]))
    assert deciding.asked[1].tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-9), (torch.bfloat16, 1e-3)])
def test_a_tolerance_that_the_type_cannot_tell_ends_a_bisection_all_the_same(dtype, tolerance):
    weight = normal(8).tolist()
    model = half(weight, -0.05 * sum(map(abs, weight)) - sum(weight) / 2).to(dtype)
    found = RaySAttack(queries=1000, tolerance=tolerance).search(
        model, torch.full((1, 8), 0.5, dtype=dtype), torch.tensor([0])
    )
    assert (found.inputs - 0.5).abs().max().item() == pytest.approx(0.05, abs=0.02)
