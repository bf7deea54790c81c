"""The Square attack: schedule and patterns by hand, norms, the count of queries, the worst case on linear models."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.attacks.problems import Counting, problem, quick_checks, seeded, unchanged
from torch import nn

from paperweight.attacks import ProjectedGradient, SquareAttack, bump, margin_loss, window_share
from paperweight.testing import AttackSubject, run_check

BAD = {
    "radius": (-0.1, math.nan, math.inf),
    "norm": (1.0, 3.0, math.nan),
    "queries": (0, 1, 10.0, True),
    "share": (0.0, 1.1, math.nan),
    "bounds": ((1.0, 0.0), (0.0, math.inf)),
}


def subject(norm, radius, slack, **given):
    make = partial(SquareAttack, radius=radius, norm=norm, queries=150, **given)
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
    "infinity": subject(math.inf, 0.1, 1e-3, keep_going=True),
    "targeted": subject(math.inf, 0.1, 1e-3, keep_going=True, targeted=True),
    # Windows of norm 2 have 3 x 3 pixels at least: in images of 4 x 4 they come near the best direction only.
    "2": subject(2.0, 0.3, 0.35, keep_going=True),
    "fooled left out": subject(math.inf, 0.1, 1e-3),
}
CHECKS = {name: quick_checks(declared, queries=50) for name, declared in SUBJECTS.items()}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in CHECKS.items() for check in checks])
def test_contract(name, check):
    result = run_check(check, CHECKS[name][check])
    short = (name, check) == ("fooled left out", "check_optimum_on_linear_model")
    assert result.passed != short, str(result)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        SquareAttack(**{argument: value})


def test_the_schedule_halves_nine_times_at_the_queries_of_the_source():
    shares = [window_share(query, 10_000, 0.8) for query in range(10_000)]
    changes = [query for query in range(1, 10_000) if shares[query] != shares[query - 1]]
    assert changes == [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert [shares[query] for query in (0, 11, 8001)] == [0.8, 0.4, 0.8 / 512]
    assert window_share(100, 5000, 0.8) == window_share(200, 10_000, 0.8)


def test_patterns_by_hand():
    # Of 3 rows the first is a hill of 1 x 3, the others a valley of 2 x 3 whose middle is in its second row.
    ring, middle = 1 / 4, 1 + 1 / 4
    expected = torch.tensor([[ring, middle, ring], [-ring, -ring, -ring], [-ring, -middle, -ring]])
    expected[0] /= expected[0].norm()
    expected[1:] /= expected[1:].norm()
    torch.testing.assert_close(bump(3), expected / expected.norm())
    for side in (1, 2, 5, 8, 11):
        assert bump(side).shape == (side, side)
        assert bump(side).norm().item() == pytest.approx(1)


def last(model, images, labels, **given):
    return SquareAttack(keep_going=True, **given).search(model, images, labels, generator=seeded())


def test_the_first_change_of_norm_infinity_is_stripes():
    images, labels = torch.full((3, 2, 6, 5), 0.5), torch.zeros(3, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    change = last(model, images, labels, radius=0.25, queries=2).inputs - images
    assert torch.equal(change.abs(), torch.full_like(change, 0.25))
    assert torch.equal(change, change[:, :, :1].expand_as(change))
    assert change[0, 0, 0].unique().numel() == 2


def test_the_first_change_of_norm_2_is_tiles_of_the_pattern_with_the_whole_radius():
    images, labels = torch.full((2, 1, 12, 17), 0.5), torch.zeros(2, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(204, 3))
    change = last(model, images, labels, radius=0.4, norm=2.0, queries=2).inputs - images
    assert change.flatten(1).norm(dim=1).tolist() == pytest.approx([0.4, 0.4])
    tile = change[0, 0, :2, :2] / change[0, 0, :2, :2].norm()
    torch.testing.assert_close(tile * tile[0, 0].sign(), bump(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 9, 6), (2, 5, 12)])
def test_changes_keep_to_the_ball_and_use_it(norm, shape):
    source = seeded(1)
    images, labels = 0.3 + 0.4 * torch.rand(6, *shape, generator=source), torch.zeros(6, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    _ = model[1].weight.data.copy_(torch.randn(3, math.prod(shape), generator=source))
    change = last(model, images, labels, radius=0.2, norm=norm, queries=120).inputs - images
    sizes = torch.linalg.vector_norm(change.flatten(1), norm, dim=1)
    assert sizes.max().item() <= 0.2 * (1 + 1e-5)
    assert sizes.min().item() > 0.19


def test_a_query_of_norm_infinity_changes_one_square():
    images, labels = torch.full((1, 2, 8, 9), 0.5), torch.zeros(1, dtype=torch.int64)
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x[0].clone())
            score = x.flatten(1).sum(dim=1) * 0 + len(seen)
            return torch.stack([-score, score], dim=1)

    last(Watched(), images, labels, radius=0.2, queries=60, share=0.1)
    for before, after in pairwise(seen[1:]):
        changed = (before != after).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero().squeeze(1), changed.any(dim=0).nonzero().squeeze(1)
        assert len(rows) > 0
        assert int(rows[-1] - rows[0]) < 3
        assert int(columns[-1] - columns[0]) < 3


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_the_loss_of_the_model_never_falls_and_queries_are_counted(norm):
    model, images, labels = problem(20)
    radius = 0.12 if norm == math.inf else 0.5
    counting = Counting(model)
    attack = SquareAttack(radius=radius, norm=norm, queries=60)
    found = attack.search(counting, images, labels, generator=seeded())
    assert torch.equal(found.fooled, model(found.inputs).argmax(dim=1) != labels)
    assert 0 < found.fooled.sum().item() < 20
    assert bool((found.queries[~found.fooled] == 60).all())
    assert bool((found.queries[found.fooled] < 60).all())
    # Those that are done leave the batch once an eighth of it is done.
    assert found.queries.sum().item() <= counting.seen < 1.2 * found.queries.sum().item()
    assert torch.equal(found.inputs, attack(model, images, labels, generator=seeded()))
    losses = [
        margin_loss(model(last(model, images, labels, radius=radius, norm=norm, queries=n).inputs), labels).mean()
        for n in (2, 10, 100, 400)
    ]
    assert losses == sorted(losses)


def test_inputs_that_are_wrong_from_the_start_take_one_query():
    model, images, labels = problem()
    found = SquareAttack(radius=0.1, queries=50).search(model, images, (labels + 1) % 4, generator=seeded())
    assert torch.equal(found.inputs, images)
    assert found.queries.tolist() == [1] * len(images)


def test_it_comes_near_what_gradients_find():
    model, images, labels = problem(40)
    by_gradients = ProjectedGradient(radius=0.05, starts=0, loss=margin_loss)(model, images, labels)
    by_scores = SquareAttack(radius=0.05, queries=1000)(model, images, labels, generator=seeded())
    errors = [(model(changed).argmax(dim=1) != labels).sum().item() for changed in (by_gradients, by_scores)]
    assert 5 < errors[1] <= errors[0] <= errors[1] + 4


@pytest.mark.parametrize(("norm", "shape"), [(2.0, (2, 1, 2, 9)), (math.inf, (2, 9)), (2.0, (2, 9))])
def test_inputs_that_are_no_images_are_refused(norm, shape):
    with pytest.raises(ValueError, match="inputs must be images"):
        SquareAttack(norm=norm)(nn.Flatten(), torch.zeros(shape), torch.zeros(2, dtype=torch.int64))


def test_no_images_one_image_and_images_of_one_pixel():
    model, images, labels = problem()
    for norm in (2.0, math.inf):
        for count in (0, 1):
            attack = SquareAttack(radius=0.3, norm=norm, queries=20)
            assert attack(model, images[:count], labels[:count], generator=seeded()).shape == (count, 1, 5, 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    assert SquareAttack(queries=9)(model, torch.rand(2, 1, 1, 1), torch.tensor([0, 1])).shape == (2, 1, 1, 1)
