"""Groups of features by time: masks by hand, the loss by a loop, gradients by time, images that DDIM gives back."""

import copy
import math
import pickle
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from paperweight.generators import NoiseSchedule, linear_schedule
from paperweight.representation.diti import (
    DiTi,
    masked_features,
    noise_loss,
    noise_weights,
    shift_scale,
    stage_masks,
    time_groups,
)
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Denoiser(nn.Module):
    """A linear layer, with dropout that shows its mode, and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 3), nn.Dropout(0.9)

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        return self.drop(self.linear(noisy)) + times[:, None].to(noisy) / 10


class Corrector(nn.Module):
    """A linear layer of noisy images and features."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(3 + features, 3)

    def forward(self, noisy: Tensor, times: Tensor, features: Tensor) -> Tensor:
        return self.linear(torch.cat([noisy, features], dim=1)) * (1 + times[:, None].to(noisy))


class Nothing(nn.Module):
    """No noise, and no correction."""

    def forward(self, noisy: Tensor, times: Tensor, features: Tensor | None = None) -> Tensor:
        return torch.zeros_like(noisy)


class Constant(nn.Module):
    """The same noise whatever is given."""

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        return torch.full_like(noisy, 0.3)


class Sums(nn.Module):
    """A correction by the sum of the features."""

    def forward(self, noisy: Tensor, times: Tensor, features: Tensor) -> Tensor:
        return features.sum(dim=1, keepdim=True).expand_as(noisy)


class PDAE(nn.Module):
    """A frozen denoiser and a correction by all features at all times, written out."""

    def __init__(self, denoiser: nn.Module, encoder: nn.Module, corrector: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.denoiser, self.encoder, self.corrector = denoiser.eval().requires_grad_(False), encoder, corrector
        self.abar = schedule.abar

    def train(self, mode: bool = True) -> "PDAE":
        self.encoder.train(mode)
        self.corrector.train(mode)
        return self

    def forward(self, images: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        before = torch.tensor([1.0, *self.abar.tolist()], dtype=torch.float64)[times]
        alpha, spread = self.abar[times] / before, (1 - self.abar[times]).sqrt()
        scale = (-alpha.sqrt() * (1 - before) / spread).to(noisy)[:, None]
        return self.denoiser(noisy, times) + scale * self.corrector(noisy, times, self.encoder(images))


SCHEDULE = linear_schedule(8, 0.05, 0.3)
PLACES = torch.tensor([0, 3, 4, 7])


def make(dims: Any = (1, 3), bounds: Any = None, schedule: NoiseSchedule = SCHEDULE) -> DiTi:
    return DiTi(Denoiser(), nn.Linear(3, 4), Corrector(), schedule, dims, bounds)


ABAR = torch.tensor([0.9, 0.5, 0.1])

CONTRACT = {
    "DiTi": LayerSubject(
        make=make,
        inputs=(normal(4, 3), normal(4, 3, seed=1), PLACES),
        shape=(4, 3),
        parameter_count=12 + 16 + 24,
        bad={
            "dims": ((), (0, 4), (1, -1), (1.5, 2), (True, 3), (1,) * 9),
            "bounds": ((8,), (0, 8), (4, 4), (8, 4), (4, 7), (4, 9), (4.0, 8), (True, 8)),
            "schedule": (linear_schedule(20).subsample(5),),
        },
        null=lambda: make(None),
        baseline=lambda: PDAE(Denoiser(), nn.Linear(3, 4), Corrector(), SCHEDULE),
    ),
    "stage_masks": FunctionSubject(
        make=stage_masks, arguments={"dims": (2, 1)}, bad={"dims": ((), (0,), (-1,), (1.0,), (True,), (math.nan,))}
    ),
    "time_groups": FunctionSubject(
        make=time_groups,
        arguments={"steps": 10, "groups": 3},
        bad={
            "steps": (0, -1, 2.0, True, math.nan),
            "groups": (0, 11, -1, 2.0, True),
            "bounds": ((), (3, 10), (3, 3, 10), (0, 3, 10), (3, 6, 9), (3, 6, 11), (3.0, 6, 10)),
        },
    ),
    "masked_features": FunctionSubject(
        make=masked_features,
        arguments={"features": normal(3, 3), "masks": stage_masks((2, 1)), "groups": torch.tensor([0, 1, 0])},
        bad={
            "features": (normal(3), normal(3, 2), normal(2, 3)),
            "masks": (normal(3), normal(0, 3), stage_masks((2, 2))),
            "groups": (torch.tensor([0, 2, 0]), torch.tensor([0, -1, 0]), torch.zeros(3), torch.tensor([0])),
        },
    ),
    "shift_scale": FunctionSubject(
        make=shift_scale,
        arguments={"abar": ABAR},
        bad={"abar": (ABAR.flip(0), torch.ones(1), torch.zeros(1), torch.empty(0), ABAR[None], ABAR * math.nan)},
    ),
    "noise_weights": FunctionSubject(
        make=noise_weights,
        arguments={"abar": ABAR},
        bad={
            "abar": (ABAR.flip(0), torch.ones(1), torch.zeros(1), torch.empty(0), ABAR[None]),
            "gamma": (-0.1, math.nan, math.inf, True),
        },
    ),
    "noise_loss": FunctionSubject(
        make=noise_loss,
        arguments={"predicted": normal(3, 2), "noise": normal(3, 2, seed=1), "weights": torch.ones(3)},
        bad={
            "predicted": (normal(3), normal(2, 2), normal(0, 2)),
            "noise": (normal(3), normal(1, 2)),
            "weights": (torch.ones(2), torch.ones(3, 1)),
        },
    ),
}


def test_masks_are_nested_and_groups_rise_with_time():
    masks = stage_masks((2, 1, 3))
    assert masks.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert torch.equal(stage_masks((5,)), torch.ones(1, 5))
    assert torch.equal(time_groups(7, 1), torch.zeros(7, dtype=torch.int64))
    for steps, groups in ((1000, 64), (10, 3), (5, 5)):
        found = time_groups(steps, groups)
        assert found.tolist() == [math.floor(t / (steps / groups)) for t in range(steps)]
        counts = found.bincount(minlength=groups)
        assert counts.min() >= steps // groups
        assert counts.max() - counts.min() <= 1
    assert time_groups(7, 3, bounds=(1, 5, 7)).tolist() == [0, 1, 1, 1, 1, 2, 2]


def test_only_the_group_of_a_time_gets_its_gradient_if_earlier_ones_are_detached():
    masks, groups = stage_masks((1, 2, 1)), torch.tensor([0, 1, 2])
    features = normal(3, 4).requires_grad_(True)
    plain, detached = (masked_features(features, masks, groups, each) for each in (False, True))
    assert torch.equal(plain, detached)
    assert torch.equal(plain, features * masks)
    (of_plain,) = torch.autograd.grad(plain.sum(), features)
    (of_detached,) = torch.autograd.grad(detached.sum(), features)
    assert of_plain.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert of_detached.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]


def test_scale_and_weights_by_hand():
    betas = [0.1, 0.2, 0.4]
    abar, scales, weights = 1.0, [], []
    for beta in betas:
        before, abar = abar, abar * (1 - beta)
        scales.append(-math.sqrt(1 - beta) * (1 - before) / math.sqrt(1 - abar))
        weights.append((abar / (1 - abar)) ** 0.1 * (1 - abar))
    shares = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    assert shift_scale(shares).tolist() == pytest.approx(scales, rel=1e-12)
    assert scales[0] == 0
    assert noise_weights(shares).tolist() == pytest.approx(weights, rel=1e-12)
    assert noise_weights(shares, gamma=0.0).tolist() == pytest.approx((1 - shares).tolist(), rel=1e-12)


def test_a_correction_by_this_scale_is_a_step_of_classifier_guidance():
    # A correction g moves the mean of q(x_{t-1} | x_t) by beta (1 - abar_{t-1}) / (1 - abar_t) times g, its variance.
    abar = SCHEDULE.abar
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    alpha = abar / before
    moved = -(1 - alpha) / (alpha.sqrt() * (1 - abar).sqrt()) * shift_scale(abar)
    torch.testing.assert_close(moved, (1 - alpha) * (1 - before) / (1 - abar))


@pytest.mark.parametrize(("mode", "times"), [("base", 1), ("stop_grad", 1), ("dual", 2)])
def test_the_loss_by_a_loop(mode, times):
    model, images = make().double(), normal(6, 3, seed=3).double()
    given = model.loss(images, mode, generator=torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    where = torch.randint(8, (6,), generator=draws)
    noise = torch.randn(6, 3, generator=draws, dtype=torch.float64)
    features, total = model.encoder(images), 0.0
    denoiser, corrector = cast(Any, model.denoiser), cast(Any, model.corrector)
    assert 0 < sum(where >= 4) < 6
    for i, t in enumerate(where.tolist()):
        abar, before = SCHEDULE.abar[t].item(), SCHEDULE.previous(t)
        noisy = math.sqrt(abar) * images[i] + math.sqrt(1 - abar) * noise[i]
        kept = features[i] * torch.tensor([1, 0, 0, 0] if t < 4 else [1, 1, 1, 1])
        scale = -math.sqrt(abar / before) * (1 - before) / math.sqrt(1 - abar)
        denoised = denoiser.linear(noisy) + t / 10
        shift = corrector.linear(torch.cat([noisy, kept])) * (1 + t)
        weight = (abar / (1 - abar)) ** 0.1 * (1 - abar)
        total += weight * (denoised + scale * shift - noise[i]).square().mean().item()
    assert given.item() == pytest.approx(times * total / 6, rel=1e-9)


def test_without_a_correction_the_loss_is_that_of_the_denoiser_weighted():
    denoiser = Denoiser().eval()
    model, images = DiTi(denoiser, nn.Linear(3, 4), Nothing(), SCHEDULE, (2, 2)), normal(5, 3)
    given = model.loss(images, generator=torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    where, noise = torch.randint(8, (5,), generator=draws), torch.randn(5, 3, generator=draws)
    abar = SCHEDULE.abar[where].float()[:, None]
    errors = (denoiser(abar.sqrt() * images + (1 - abar).sqrt() * noise, where) - noise).square().mean(dim=1)
    torch.testing.assert_close(given, (noise_weights(SCHEDULE.abar)[where].float() * errors).mean())


def test_gradients_of_both_modes_add_up_and_late_groups_learn_from_late_times_alone():
    images = normal(16, 3)

    def gradients(mode: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = make()
        model.loss(images, mode, generator=torch.Generator().manual_seed(2)).backward()
        assert all(each.grad is None for each in model.denoiser.parameters())
        assert all(each.grad is not None for each in [*model.encoder.parameters(), *model.corrector.parameters()])
        return [each.grad for each in model.parameters() if each.grad is not None]

    base, stopped, both = gradients("base"), gradients("stop_grad"), gradients("dual")
    for one, other, total in zip(base, stopped, both, strict=True):
        torch.testing.assert_close(one + other, total)
    # Rows of the encoder are features: the second group's gradient is the same, the first loses that of late times.
    torch.testing.assert_close(base[0][1:], stopped[0][1:])
    assert (base[0][0] - stopped[0][0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="mode must be 'base'"):
        make().loss(images, cast(Any, "both"), generator=torch.Generator())
    with pytest.raises(ValueError, match="without a 0"):
        make().loss(images[:0], generator=torch.Generator())
    with pytest.raises(ValueError, match="masks must be"):
        make((1, 2))(images, images, torch.zeros(16, dtype=torch.long))
    for bad in (torch.full((16,), 8), torch.full((16,), -1), torch.zeros(16), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(ValueError, match="times must be"):
            make()(images, images, bad)


def test_the_denoiser_stays_as_it_was_and_the_callers_is_left_alone():
    denoiser = Denoiser()
    model = DiTi(denoiser, nn.Linear(3, 4), Corrector(), SCHEDULE, (1, 3)).train()
    assert denoiser.training
    assert all(each.requires_grad for each in denoiser.parameters())
    assert not any(each.training for each in model.denoiser.modules())
    assert model.corrector.training
    before = copy.deepcopy(model.denoiser.state_dict())
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model.loss(normal(4, 3), generator=torch.Generator().manual_seed(0)).backward()
    optimizer.step()
    assert all(map(torch.equal, before.values(), model.denoiser.state_dict().values()))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(
            twin.loss(normal(1, 3), generator=torch.Generator().manual_seed(1)),
            model.loss(normal(1, 3), generator=torch.Generator().manual_seed(1)),
        )


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_an_image_with_its_own_features_comes_back_where_noise_predicted_is_always_the_same(steps):
    first, second = normal(3, 2).double(), normal(3, 2, seed=1).double()
    model = DiTi(Constant(), nn.Linear(2, 4), Nothing(), SCHEDULE, (2, 2)).double()
    torch.testing.assert_close(model.counterfactual(first, second, (0, 1), steps), first)


def test_features_that_are_taken_are_those_of_the_second_images():
    first, second = normal(3, 4).double(), normal(3, 4, seed=1).double()

    def sampled(z: Tensor, features: Tensor, ways: list[int]) -> Tensor:
        """Go through times of a denoiser that predicts no noise but the correction."""
        for t in ways:
            kept = features.clone()
            if t < 4:
                kept[:, 1:] = 0
            eps = float(shift_scale(SCHEDULE.abar)[t]) * kept.sum(dim=1, keepdim=True)
            here, before = SCHEDULE.abar[t].item(), SCHEDULE.previous(t)
            at, to = (before, here) if ways == sorted(ways) else (here, before)
            z = math.sqrt(to) * (z - math.sqrt(1 - at) * eps) / math.sqrt(at) + math.sqrt(1 - to) * eps
        return z

    model = DiTi(Nothing(), nn.Identity(), Sums(), SCHEDULE, (1, 3)).double().train()
    up = list(range(8))
    for groups, taken in (((), []), ((0,), [0]), ((1,), [1, 2, 3]), ((0, 1), [0, 1, 2, 3])):
        mixed = first.clone()
        mixed[:, taken] = second[:, taken]
        expected = sampled(sampled(first, first, up), mixed, up[::-1])
        torch.testing.assert_close(model.counterfactual(first, second, groups, 8), expected)
    assert model.training
    whole = DiTi(Nothing(), nn.Identity(), Sums(), SCHEDULE).double()
    assert torch.equal(whole.counterfactual(first, first, (0,), 4), whole.counterfactual(first, second, (), 4))
    assert not torch.equal(whole.counterfactual(first, second, (0,), 4), whole.counterfactual(first, second, (), 4))
    for bad in ((2,), (-1,), (True,), (0.0,)):
        with pytest.raises(ValueError, match="groups must be"):
            model.counterfactual(first, second, bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="second must have"):
        model.counterfactual(first, second[:2], (0,))
    with pytest.raises(ValueError, match="steps must be"):
        model.counterfactual(first, second, (0,), 9)
    with pytest.raises(ValueError, match="bounds must be None"):
        make(None, (8,))
