"""Momentum by hand, resized images, the mean of logits, and what carries over to a model that is never seen."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.attacks.problems import Counting, normal, problem, seeded, unchanged
from torch import nn

from paperweight.attacks import MeanLogits, MomentumTransfer, ProjectedGradient, diverse, margin_loss, transferred
from paperweight.nets import MLP
from paperweight.testing import AttackSubject, run_check
from paperweight.testing.attack import attack_checks

BAD = {
    "radius": (-0.1, math.nan, math.inf),
    "norm": (1.0, 3.0, math.nan),
    "steps": (0, 2.0, True),
    "step": (0.0, math.nan, math.inf),
    "decay": (-0.1, math.nan, math.inf),
    "diversity": (-0.1, 1.1, math.nan),
    "smallest": (0.0, 1.1, math.nan),
    "bounds": ((1.0, 0.0), (0.0, math.inf)),
}


def subject(norm, radius, **given):
    make = partial(MomentumTransfer, radius=radius, norm=norm, **given)
    return AttackSubject(
        make=make,
        norm=norm,
        radius=radius,
        random="diversity" in given,
        targeted=given.get("targeted", False),
        bad=BAD,
        null=partial(make, radius=0.0),
        baseline=unchanged,
    )


SUBJECTS = {
    "infinity": subject(math.inf, 0.1),
    "2": subject(2.0, 0.3, step=0.06),
    "targeted": subject(math.inf, 0.1, targeted=True),
    "diverse": subject(math.inf, 0.1, diversity=0.5, steps=20, step=0.02),
}


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name, declared in SUBJECTS.items() for check in attack_checks(declared)]
)
def test_contract(name, check):
    result = run_check(check, attack_checks(SUBJECTS[name])[check])
    assert result.passed, str(result)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        MomentumTransfer(**{argument: value})


def test_it_is_the_momentum_of_equation_6_by_hand():
    model, images, labels = problem()
    changed, total = images.clone(), torch.zeros_like(images)
    for _ in range(5):
        given = changed.clone().requires_grad_()
        F.cross_entropy(model(given), labels, reduction="sum").backward()
        total = 0.7 * total + given.grad / given.grad.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
        changed = torch.min(torch.max(changed + 0.04 * total.sign(), images - 0.2), images + 0.2).clamp(0, 1)
    found = MomentumTransfer(radius=0.2, steps=5, decay=0.7)(model, images, labels)
    torch.testing.assert_close(found, changed, atol=1e-6, rtol=0)


def test_without_momentum_it_is_plain_ascent():
    model, images, labels = problem()
    plain = MomentumTransfer(radius=0.02, steps=1, decay=0.0)(model, images, labels)
    given = images.clone().requires_grad_()
    F.cross_entropy(model(given), labels, reduction="sum").backward()
    torch.testing.assert_close(plain, (images + 0.02 * given.grad.sign()).clamp(0, 1))


def test_diverse_images_are_shrunk_and_placed_within_black():
    images = torch.ones(2, 3, 20, 10)
    sizes = set()
    for seed in range(50):
        found = diverse(images, 0.5, seeded(seed))
        assert found.shape == images.shape
        rows, columns = found[0, 0].amax(dim=1), found[0, 0].amax(dim=0)
        assert found.sum().item() == 6 * rows.sum().item() * columns.sum().item()
        assert bool((rows.nonzero().squeeze(1).diff() == 1).all())
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert min(sizes)[0] >= 10
    assert max(sizes)[0] <= 20
    assert len(sizes) > 5
    assert diverse(images, 1.0, seeded()) is images


def test_mean_logits_are_the_mean():
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    inputs = normal(4, 3)
    torch.testing.assert_close(MeanLogits([first, second])(inputs), (first(inputs) + second(inputs)) / 2)
    with pytest.raises(ValueError, match="models must hold at least one, got none"):
        MeanLogits([])


def test_a_transferred_attack_looks_at_its_surrogates_only_and_leaves_their_modes():
    model, images, labels = problem()
    own, victim = Counting(model).train(), Counting(model)
    attack = transferred([own], ProjectedGradient(radius=0.2, starts=0, keep_going=True))
    found = attack(victim, images, labels)
    assert victim.seen == 0 < own.seen
    assert own.training
    assert torch.equal(found, ProjectedGradient(radius=0.2, starts=0, keep_going=True)(model, images, labels))
    with pytest.raises(ValueError, match="at least one"):
        transferred([], MomentumTransfer())


def test_attacks_on_surrogates_carry_over_and_more_surrogates_carry_further():
    source = seeded()
    images = torch.rand(600, 1, 5, 5, generator=source)
    labels = ((images - 0.5).flatten(1) @ torch.randn(25, 4, generator=source)).argmax(dim=1)

    def trained(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MLP((1, 5, 5), 4, hidden=(64,))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(images[:500]), labels[:500]).backward()
            optimizer.step()
        return model.eval()

    victim, *own = [trained(seed) for seed in range(4)]
    inputs, known = images[500:], victim(images[500:]).argmax(dim=1)

    def margin(attack):
        return margin_loss(victim(attack(victim, inputs, known)), known).mean().item()

    fooled_left_out = margin(transferred(own[:1], ProjectedGradient(radius=0.1, starts=0)))
    one = margin(transferred(own[:1], MomentumTransfer(radius=0.1)))
    several = margin(transferred(own, MomentumTransfer(radius=0.1)))
    assert margin(unchanged()) < fooled_left_out < one < several


def test_diverse_inputs_must_be_images():
    with pytest.raises(ValueError, match="diverse inputs must be images"):
        MomentumTransfer(diversity=0.5)(nn.Linear(3, 2), torch.zeros(1, 3), torch.tensor([0]))
