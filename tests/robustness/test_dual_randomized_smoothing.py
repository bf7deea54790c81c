"""Dual randomized smoothing against numerical minimisation, exact binomial sums and classifiers with a closed form."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm
from torch import nn

from paperweight.robustness._smoothing import lower_bound
from paperweight.robustness.dual_randomized_smoothing import (
    DualRandomizedSmoothing,
    RandomizedSmoothing,
    checkerboard,
    dual_radius,
    sub_image,
)
from paperweight.testing import DefenseSubject, FunctionSubject

SIGMA = 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dual_of_one(model, **given):
    return DualRandomizedSmoothing(model, model, **given)


def certify(smoothed, images):
    # With few draws the bound is loose, and so the votes at its radius are clear.
    return smoothed.certify(images, n0=100, n=300, alpha=0.001)


def expected_output(smoothed):
    """The expectation of the probabilities in place of the votes: what an attacker differentiates."""

    def output(images):
        copies = images.repeat(64, 1, 1, 1)
        noisy = copies + smoothed.sigma * torch.randn(copies.shape, generator=seeded(3))
        shares = [branch(noisy).softmax(dim=1) for branch in smoothed.branches]
        return torch.stack(shares).unflatten(1, (64, -1)).mean(dim=(0, 1))

    return output


def both_halves(model, generator):
    """What the two branches give without noise, filled pixel by pixel."""

    def filled(image, parity):
        full = image.clone()
        for r in range(image.shape[1]):
            for c in range(image.shape[2]):
                if (r + c) % 2 != parity:
                    rows, columns = range(r - r % 2, r - r % 2 + 2), range(c - c % 2, c - c % 2 + 2)
                    kept = [image[:, i, j] for i in rows for j in columns if (i + j) % 2 == parity]
                    full[:, r, c] = torch.stack(kept).amax(0)
        return full

    def outputs(images):
        left, right = (torch.stack([filled(image, parity) for image in images]) for parity in (0, 1))
        return (model(left) + model(right)) / 2

    return outputs


BAD = {"sigma": (-0.1, math.nan, math.inf), "draws": (0, -1)}
CONTRACT = {
    "RandomizedSmoothing": DefenseSubject(
        make=partial(RandomizedSmoothing, sigma=SIGMA, draws=128),
        bad=BAD,
        null=partial(RandomizedSmoothing, sigma=0.0),
        baseline=lambda model, generator: model,
        random=True,
        attacked=expected_output,
        tolerance=0.05,
        certify=certify,
    ),
    "DualRandomizedSmoothing": DefenseSubject(
        make=partial(dual_of_one, sigma=SIGMA, draws=128),
        bad=BAD,
        null=partial(dual_of_one, sigma=0.0),
        baseline=both_halves,
        random=True,
        attacked=expected_output,
        tolerance=0.05,
        certify=certify,
    ),
    "checkerboard": FunctionSubject(
        make=checkerboard, arguments={"height": 3, "width": 4}, bad={"height": (0, -1), "width": (0, -1)}
    ),
    "dual_radius": FunctionSubject(
        make=dual_radius,
        arguments={
            "p_left": torch.tensor([0.9, 0.3]),
            "p_right": torch.tensor([0.6, 0.8]),
            "sigma_left": 0.5,
            "sigma_right": 0.25,
        },
        bad={
            "p_left": (torch.tensor(1.0), torch.tensor(-0.1), torch.tensor(math.nan)),
            "p_right": (torch.tensor(1.0), torch.tensor(-0.1), torch.tensor(math.nan)),
            "sigma_left": (0.0, -1.0, math.inf, math.nan),
            "sigma_right": (0.0, -1.0, math.inf, math.nan),
        },
    ),
    "sub_image": FunctionSubject(
        make=sub_image,
        arguments={"images": torch.rand(2, 3, 4, 4, generator=seeded()), "mask": checkerboard(4, 4)},
        bad={
            "images": (torch.zeros(4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)),
            "mask": (checkerboard(4, 3), checkerboard(4, 4).int()),
        },
    ),
}


@pytest.mark.parametrize("p", [(0.9, 0.9), (0.99, 0.6), (0.95, 0.2), (0.999999, 1e-4), (0.45, 0.56)])
@pytest.mark.parametrize("sigmas", [(0.5, 0.5), (0.25, 1.0), (2.0, 0.1)])
def test_radius_is_the_smallest_perturbation_found_numerically(p, sigmas):
    # On the boundary Phi(a_l - d_l / s_l) + Phi(a_r - d_r / s_r) = 1, given d_l, solved for d_r by the inverse.
    a_left, a_right = norm.ppf(p)

    def norm_on_boundary(d_left):
        d_right = sigmas[1] * (a_right - norm.ppf(1 - norm.cdf(a_left - d_left / sigmas[0])))
        return math.hypot(d_left, max(d_right, 0.0))

    largest = sigmas[0] * (a_left + a_right)
    found = minimize_scalar(norm_on_boundary, bounds=(0, largest), method="bounded", options={"xatol": 1e-10})
    radius = dual_radius(*torch.tensor(p, dtype=torch.float64), *sigmas)
    assert radius.item() == pytest.approx(found.fun, rel=1e-5)


def test_radius_by_hand():
    p = torch.tensor([norm.cdf(2.0), norm.cdf(1.0), norm.cdf(-1.0), 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([norm.cdf(1.0), norm.cdf(1.0), norm.cdf(0.9), 0.5, 1 - 1e-9], dtype=torch.float64)
    expected = torch.tensor([3 / math.sqrt(2), math.sqrt(2), 0, 0, 0], dtype=torch.float64) * 0.25
    torch.testing.assert_close(dual_radius(p, q, 0.25, 0.25), expected, rtol=1e-9, atol=0)
    # 3 / sqrt(1 / 0.3^2 + 1 / 0.4^2) = 3 * 0.24; swapped branches certify the same.
    assert dual_radius(p, q, 0.3, 0.4)[0].item() == pytest.approx(0.72, rel=1e-9)
    assert torch.equal(dual_radius(q, p, 0.4, 0.3), dual_radius(p, q, 0.3, 0.4))


def test_root_of_squared_branch_radii_is_not_sound():
    # Half-spaces: branches with a = 2 and 0.5. A perturbation just beyond R, within the root, changes the class.
    a_left, a_right, root = 2.0, 0.5, math.hypot(2.0, 0.5)
    radius = dual_radius(torch.tensor(norm.cdf(a_left)), torch.tensor(norm.cdf(a_right)), 1.0, 1.0).item()
    each = 1.001 * radius / math.sqrt(2)
    assert norm.cdf(a_left - each) + norm.cdf(a_right - each) < 1
    assert 1.001 * radius < root


@pytest.mark.parametrize("trials", [1, 7, 1_000])
@pytest.mark.parametrize("alpha", [0.05, 0.0005])
def test_bound_is_where_the_binomial_tail_is_alpha(trials, alpha):
    successes = sorted({0, 1, trials // 2, trials - 1, trials})
    bounds = lower_bound(torch.tensor(successes), trials, alpha)
    for k, bound in zip(successes, bounds.tolist(), strict=True):
        tail = math.fsum(binom.pmf(np.arange(k, trials + 1), trials, bound))
        assert tail == pytest.approx(alpha, rel=1e-8) if k else bound == 0
    assert bounds[-1].item() == pytest.approx(alpha ** (1 / trials), rel=1e-12)


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9, 0.995])
def test_bound_holds_as_often_as_it_says(p):
    # The exact probability that the bound lies above p is at most alpha, and not by far less.
    trials, alpha = 2_000, 0.05
    fails = lower_bound(torch.arange(trials + 1), trials, alpha) > p
    failure = binom.pmf(np.arange(trials + 1), trials, p)[fails.numpy()].sum()
    assert 0.2 * alpha < failure <= alpha


def half_space(weight: torch.Tensor, bias: float) -> nn.Module:
    """Class 1 where <weight, x> + bias is above 0; the weight is 0 on pixels that a branch does not see."""
    linear = nn.Linear(weight.numel(), 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(weight.numel()), weight.flatten()]))
        linear.bias.copy_(torch.tensor([0.0, bias]))
    return nn.Sequential(nn.Flatten(), linear)


def closed_form_problem():
    mask = checkerboard(4, 4)
    weight = torch.randn(4, 4, generator=seeded(1))
    images = torch.rand(6, 1, 4, 4, generator=seeded(2))
    margins = {}
    for side, seen in (("left", mask), ("right", ~mask), ("whole", torch.ones_like(mask))):
        used = weight * seen
        margins[side] = used, ((images[:, 0] * used).sum((1, 2)) + 0.4) / used.norm()
    return images, margins


def test_votes_and_radii_of_half_spaces_are_the_closed_form():
    # P(<w, x + sigma e> + b > 0) = Phi(margin / sigma): the plain radius is the distance to the plane.
    images, margins = closed_form_problem()
    draws = 20_000
    models = {side: half_space(weight, 0.4) for side, (weight, _) in margins.items()}
    distances = {side: distance.detach() for side, (_, distance) in margins.items()}
    plain = RandomizedSmoothing(models["whole"], sigma=SIGMA, draws=draws, generator=seeded())
    dual = DualRandomizedSmoothing(models["left"], models["right"], sigma=SIGMA, draws=draws, generator=seeded())

    shares = {side: torch.tensor(norm.cdf(distance / SIGMA)) for side, distance in distances.items()}
    error = 4 * 0.5 / math.sqrt(draws)
    torch.testing.assert_close(plain(images)[:, 1].double(), shares["whole"], rtol=0, atol=error)
    torch.testing.assert_close(dual(images)[:, 1].double(), (shares["left"] + shares["right"]) / 2, rtol=0, atol=error)

    exact = {"plain": distances["whole"].abs(), "dual": ((distances["left"] + distances["right"]) / math.sqrt(2)).abs()}
    signs = {"plain": distances["whole"] > 0, "dual": distances["left"] + distances["right"] > 0}
    for name, smoothed in (("plain", plain), ("dual", dual)):
        labels, radii = smoothed.certify(images, n0=500, n=draws, alpha=0.001)
        certified = radii > 0
        assert certified.sum() >= 4
        assert torch.equal(labels == -1, ~certified)
        assert torch.equal(labels[certified] == 1, signs[name][certified])
        # A lower bound, that lies close to the truth with so many draws.
        assert (radii <= exact[name]).all()
        torch.testing.assert_close(radii[certified], exact[name][certified].double(), rtol=0.15, atol=0.03)


def test_a_dual_certificate_of_twin_pixels_is_the_plain_one_of_their_mean_with_more_noise():
    # In a row of twins, a missing pixel is filled with its twin, and both branches see the same two values.
    def outside_of_disc(images):
        values = images.unflatten(3, (2, 2)).mean(4).flatten(1)
        return torch.stack([torch.ones(len(values)), values.square().sum(1)], dim=1)

    image = torch.tensor([[[[0.9, 0.9, 0.9, 0.9]]]])
    dual = DualRandomizedSmoothing(outside_of_disc, outside_of_disc, sigma=0.3, generator=seeded())
    plain = RandomizedSmoothing(outside_of_disc, sigma=0.3 * math.sqrt(2), generator=seeded(1))
    (label, radius), (expected_label, expected_radius) = (
        part.certify(image, n0=50, n=20_000) for part in (dual, plain)
    )
    assert label.item() == expected_label.item() == 1
    assert radius.item() == pytest.approx(expected_radius.item(), rel=0.03)


class Votes(nn.Module):
    """Votes for class 1 on a given share of calls' images, whatever they are; records how many it is asked."""

    def __init__(self, *batches: float):
        super().__init__()
        self.batches, self.asked = list(batches), 0

    def forward(self, images):
        share = self.batches[min(self.asked // 100, len(self.batches) - 1)]
        self.asked += len(images)
        votes = torch.arange(len(images)) < round(share * len(images))
        return nn.functional.one_hot(votes.long(), 3).float()


def test_class_is_chosen_by_the_first_draws_and_bounded_by_the_others():
    image = torch.zeros(1, 1, 2, 2)
    model = Votes(1.0, 0.2)
    labels, radii = RandomizedSmoothing(model, generator=seeded()).certify(image, n0=100, n=100)
    assert (labels.tolist(), radii.tolist(), model.asked) == ([-1], [0.0], 200)
    labels, radii = RandomizedSmoothing(Votes(0.6, 1.0), sigma=2.0, generator=seeded()).certify(image, n0=100, n=100)
    assert labels.tolist() == [1]
    assert radii.item() == pytest.approx(2.0 * norm.ppf(0.001 ** (1 / 100)), rel=1e-9)


def test_both_branches_bound_the_class_of_most_votes_together_each_with_half_of_alpha():
    # Left: 90 of 100 for class 1, right: 70 for class 0; together class 1.
    image = torch.zeros(1, 1, 2, 2)
    dual = DualRandomizedSmoothing(Votes(0.9), Votes(0.3), sigma=1.0, generator=seeded())
    labels, radii = dual.certify(image, n0=100, n=100, alpha=0.2)
    bounds = [lower_bound(torch.tensor(k), 100, 0.1) for k in (90, 30)]
    assert labels.tolist() == [1]
    torch.testing.assert_close(radii[0], dual_radius(*bounds, 1.0, 1.0), rtol=1e-12, atol=0)
    dual = DualRandomizedSmoothing(Votes(0.9), Votes(0.0), sigma=1.0, generator=seeded())
    assert [value.item() for value in dual.certify(image, n0=100, n=100)] == [-1, 0.0]


def test_branches_see_disjoint_pixels_that_cover_the_image_and_have_noise_of_their_own():
    seen = []

    def model(images):
        seen.append(images.clone())
        return images.flatten(1)

    image = 10 * torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4)
    DualRandomizedSmoothing(model, model, sigma=0.01, draws=3, generator=seeded())(image)
    left, right = seen
    assert left.shape == right.shape == (3, 1, 4, 4)
    mask = checkerboard(4, 4)
    noise = [(part - image)[..., kept] / 0.01 for part, kept in ((left, mask), (right, ~mask))]
    assert all(part.abs().max() < 5 and part.std() > 0.5 for part in noise)
    assert torch.cat(noise).unique().numel() == 48
    for part, kept in ((left, mask), (right, ~mask)):
        changed = image + 1000.0 * ~kept
        torch.testing.assert_close(sub_image(changed, kept), sub_image(image, kept), rtol=0, atol=0)
        assert (sub_image(image, kept) - part).abs().max() < 0.1


def test_odd_sides_and_masks_that_empty_a_cell():
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    assert sub_image(image, ~checkerboard(3, 3)).tolist() == [[[[4, 2, 6], [4, 4, 6], [8, 8, 0]]]]
    half = torch.zeros(3, 3, dtype=torch.bool)
    half[:, 0] = True
    assert sub_image(-image, half).tolist() == [[[[-1, -1, 0], [-4, -1, 0], [-7, -7, 0]]]]
    assert (checkerboard(3, 5).int() + (~checkerboard(3, 5)).int()).eq(1).all()


def test_many_images_and_draws_are_counted_once_each():
    images = torch.zeros(1_300, 1, 1, 2)
    images[::3, ..., 1] = 50.0
    smoothed = RandomizedSmoothing(nn.Flatten(), sigma=0.1, draws=3, generator=seeded())
    assert smoothed(images).sum(1).allclose(torch.ones(1_300))
    assert smoothed(images)[::3].eq(torch.tensor([0.0, 1.0])).all()
    few = RandomizedSmoothing(nn.Flatten(), sigma=1.0, draws=2_345, generator=seeded())(torch.zeros(2, 1, 1, 2))
    torch.testing.assert_close(few, torch.full((2, 2), 0.5), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"alpha": 0.0}, r"alpha must be above 0 and below 1, got 0\.0"),
        ({"alpha": 1.0}, r"alpha must be above 0 and below 1, got 1\.0"),
    ],
)
def test_bad_requests_for_a_certificate_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RandomizedSmoothing(nn.Flatten(), generator=seeded()).certify(torch.zeros(1, 1, 1, 2), **given)


def test_nothing_is_certified_without_noise():
    with pytest.raises(ValueError, match="sigma must be above 0 to certify, got 0"):
        RandomizedSmoothing(nn.Flatten(), sigma=0.0, generator=seeded()).certify(torch.zeros(1, 1, 1, 2))
