"""Synthesis by a classifier: the ascent by hand and on a linear model, seeds by their moments, holes."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.robustness.robust_synthesis import ClassAscent, class_seeds, inpainted, super_resolved
from paperweight.testing import AttackSubject, FunctionSubject
from paperweight.testing.classifiers import linear_classifier, toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES, LABELS = toy_images(6), torch.arange(6) % 3
HOLES = torch.zeros(6, 1, 4, 4, dtype=torch.bool)
HOLES[:, :, 1:3, 1:4] = True
MODEL = toy_classifier()
ASCENT = {"radius": (-0.1, math.nan, math.inf, True), "steps": (0, 1.5, True), "step": (0.0, math.nan, math.inf, True)}
PICTURES = (IMAGES.long(), IMAGES[0], IMAGES + 1, torch.full_like(IMAGES, math.nan))
NUMBERS = (LABELS.float(), LABELS[:3], LABELS[:, None])

CONTRACT = {
    "ClassAscent": AttackSubject(
        make=partial(ClassAscent, radius=0.5, steps=30, step=0.1),
        norm=2.0,
        radius=0.5,
        targeted=True,
        bad={**ASCENT, "bounds": ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0))},
        null=partial(ClassAscent, radius=0.0),
        baseline=lambda: lambda model, inputs, labels: inputs,
    ),
    "class_seeds": FunctionSubject(
        make=class_seeds,
        arguments={"images": IMAGES, "labels": LABELS, "wanted": LABELS, "factor": 2, "generator": seeded()},
        bad={
            "images": PICTURES,
            "labels": NUMBERS,
            "wanted": (LABELS.float(), LABELS[:, None]),
            "factor": (0, 3, 1.5, True),
        },
    ),
    "inpainted": FunctionSubject(
        make=inpainted,
        arguments={"model": MODEL, "images": IMAGES, "holes": HOLES, "labels": LABELS, "steps": 3},
        bad={
            "images": PICTURES,
            "holes": (HOLES.float(), HOLES[:3], HOLES[:, 0], torch.ones_like(HOLES)),
            "labels": NUMBERS,
            "lam": (-0.1, math.nan, True),
            **ASCENT,
        },
        null=partial(inpainted, radius=0.0),
        baseline=lambda model, images, holes, labels, steps: filled_by_hand(images, holes),
    ),
    "super_resolved": FunctionSubject(
        make=super_resolved,
        arguments={"model": MODEL, "small": IMAGES[..., :2, :2], "labels": LABELS, "factor": 2, "steps": 3},
        bad={"small": PICTURES, "labels": NUMBERS, "factor": (0, 1.5, True), **ASCENT},
        null=partial(super_resolved, radius=0.0),
        baseline=lambda model, small, labels, factor, steps: F.interpolate(small, scale_factor=factor, mode="nearest"),
    ),
}


def filled_by_hand(images, holes):
    filled = images.clone()
    for number in range(len(images)):
        for channel in range(images.shape[1]):
            known = (~holes[number, 0]).to(images.dtype)
            filled[number, channel][holes[number, 0]] = (images[number, channel] * known).sum() / known.sum()
    return filled


def by_hand(loss, start, radius, steps, step):
    """Take the steps image by image, each projected onto the ball; bounds must be out of reach."""
    points = start.clone()
    for _ in range(steps):
        place = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(place), place)
        for number in range(len(points)):
            moved = points[number] - step * gradient[number] / gradient[number].norm() - start[number]
            points[number] = start[number] + moved * min(1.0, radius / moved.norm().item())
    return points


def test_the_ascent_is_that_of_a_loop_and_in_eval_mode():
    model, images = toy_classifier().train(), 0.45 + 0.1 * IMAGES
    found = ClassAscent(0.3, 5, 0.1)(model, images, LABELS)
    assert model.training
    model.eval()
    expected = by_hand(lambda x: F.cross_entropy(model(x), LABELS, reduction="sum"), images, 0.3, 5, 0.1)
    torch.testing.assert_close(found, expected)


def test_on_a_linear_model_the_class_gains_with_each_step_until_the_ball_is_reached():
    model = linear_classifier()
    labels, images = LABELS % 2, 0.4 + 0.2 * IMAGES
    shares = [
        model(ClassAscent(0.25, steps, 0.05)(model, images, labels)).softmax(dim=1).gather(1, labels[:, None])
        for steps in (1, 2, 3, 4, 5, 8, 9)
    ]
    assert all((later > sooner).all() for sooner, later in pairwise(shares[:5]))
    torch.testing.assert_close(shares[5], shares[6])


def test_known_pixels_are_held_and_the_hole_is_filled_towards_the_class():
    hard = inpainted(MODEL, IMAGES, HOLES, LABELS, lam=math.inf, radius=0.6, steps=8)
    start = filled_by_hand(IMAGES, HOLES)
    changed = (hard != start).expand_as(HOLES)
    assert not changed[~HOLES].any()
    assert changed[HOLES].all()
    assert (hard - start).flatten(1).norm(dim=1).max() <= 0.6 + 1e-5
    assert F.cross_entropy(MODEL(hard), LABELS) < F.cross_entropy(MODEL(start), LABELS)
    drifts = []
    for lam in (0.0, 10.0, 1000.0):
        found = inpainted(MODEL, IMAGES, HOLES, LABELS, lam=lam, radius=0.6, steps=8)
        drifts.append(((found - start).abs() * ~HOLES).max().item())
    assert drifts[0] > drifts[1] > 0
    assert drifts[2] < drifts[0]
    hidden = torch.where(HOLES, 1 - IMAGES, IMAGES)
    assert torch.equal(inpainted(MODEL, hidden, HOLES, LABELS, lam=math.inf, radius=0.6, steps=8), hard)


def test_the_loss_of_inpainting_is_that_of_a_loop():
    images = 0.45 + 0.1 * IMAGES
    start = filled_by_hand(images, HOLES)

    def loss(x):
        total = F.cross_entropy(MODEL(x), LABELS, reduction="sum")
        for number in range(6):
            total = total + 10 * ((x[number] - start[number])[~HOLES[number]] ** 2).sum() / 16
        return total

    found = inpainted(MODEL, images, HOLES, LABELS, radius=0.3, steps=5, step=0.1)
    torch.testing.assert_close(found, by_hand(loss, start, 0.3, 5, 0.1))


def test_enlarging_repeats_pixels_and_stays_within_the_ball():
    small = IMAGES[..., :2, :2]
    found = super_resolved(MODEL, small, LABELS, factor=2, radius=0.4, steps=5, step=0.2)
    start = F.interpolate(small, scale_factor=2, mode="nearest")
    torch.testing.assert_close(found, ClassAscent(0.4, 5, 0.2)(MODEL, start, LABELS))
    assert 0 <= found.min() <= found.max() <= 1


def test_seeds_have_the_moments_of_the_small_images_of_their_class():
    generator = seeded(3)
    mixing = 0.03 * torch.randn(2, 4, 4, generator=generator)
    labels = torch.arange(4_000) % 2
    rows = (
        0.5
        + 0.1 * labels[:, None]
        + torch.einsum("nd,nde->ne", torch.randn(4_000, 4, generator=generator), mixing[labels])
    )
    images = F.interpolate(rows.view(-1, 1, 2, 2), scale_factor=2, mode="nearest")
    fine = 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)  # what small images do not show
    wanted = torch.cat([torch.zeros(8_000, dtype=torch.int64), torch.ones(4_000, dtype=torch.int64)])
    seeds = class_seeds((images + fine).clamp(0, 1), labels, wanted, factor=2, generator=generator)
    assert torch.equal(seeds[:, :, ::2, ::2], seeds[:, :, 1::2, 1::2])
    for label in (0, 1):
        drawn, fitted = seeds[wanted == label][:, 0, ::2, ::2].flatten(1), rows[labels == label]
        assert (drawn.mean(dim=0) - fitted.mean(dim=0)).abs().max() < 0.01
        assert (drawn.T.cov() - fitted.T.cov()).abs().max() < 6e-4
    wide = class_seeds(IMAGES.round(), LABELS, wanted[:50], factor=2, generator=generator)
    assert (wide.min().item(), wide.max().item()) == (0, 1)


def test_seeds_of_classes_that_are_not_there_are_refused_and_few_images_suffice():
    with pytest.raises(ValueError, match="at least 2 of each class that is wanted, got 0 of 5"):
        class_seeds(IMAGES, LABELS, torch.tensor([0, 5]))
    assert class_seeds(IMAGES, LABELS, LABELS[:0]).shape == (0, 1, 4, 4)
    assert class_seeds(IMAGES.double(), LABELS, LABELS, factor=1, generator=seeded()).dtype == torch.float64
    assert ClassAscent(1.0)(nn.Flatten(), IMAGES[:0], LABELS[:0]).shape == (0, 1, 4, 4)
