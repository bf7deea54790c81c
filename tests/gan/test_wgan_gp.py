"""WGAN-GP against closed forms of linear and quadratic critics, finite differences and a loop over samples."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from paperweight.gan.wgan_gp import gradient_penalty, wgan_critic_loss, wgan_generator_loss
from paperweight.testing import FunctionSubject, LossSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def network(inputs: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1)).double()


class Linear(nn.Module):
    """D(x) = <w, x>."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2, with the gradient a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.flatten(1).square().sum(1, keepdim=True) / 2


NO_ARGUMENTS = "it takes scores alone; that no scores are refused is tested below"

CONTRACT = {
    "gradient_penalty": FunctionSubject(
        make=lambda **given: gradient_penalty(**{"generator": seeded(), **given}).detach(),
        arguments={"critic": network(), "real": normal(3, 1, 2, 2), "fake": normal(3, 1, 2, 2, seed=1)},
        bad={
            "lam": (-1.0, math.nan, math.inf),
            "fake": (normal(2, 1, 2, 2), normal(3, 4)),
            "critic": (nn.Identity(), lambda x: x.sum()),
        },
        null=lambda **given: gradient_penalty(**given, lam=0.0, generator=seeded()).detach(),
        baseline=lambda **given: torch.tensor(0.0, dtype=torch.float64),
    ),
    "wgan_critic_loss": LossSubject(
        make=partial(partial, wgan_critic_loss),
        inputs=(normal(5, 1, dtype=torch.float32), normal(5, 1, seed=1, dtype=torch.float32)),
        slow=lambda real, fake: sum(fake.flatten()) / 5 - sum(real.flatten()) / 5,
        differentiable=(0, 1),
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
    "wgan_generator_loss": LossSubject(
        make=partial(partial, wgan_generator_loss),
        inputs=(normal(4, 1, seed=1, dtype=torch.float32),),
        slow=lambda fake: -sum(fake.flatten()) / 4,
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
}


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("one_sided", [False, True])
def test_of_a_linear_critic_value_and_gradient_are_closed_forms(norm, one_sided):
    weight = normal(6)
    weight *= norm / weight.norm()
    critic = Linear(weight.clone())
    real, fake = normal(4, 1, 2, 3, seed=1), normal(4, 1, 2, 3, seed=2)
    penalty = gradient_penalty(critic, real, fake, 7.0, one_sided, generator=seeded())
    excess = max(0.0, norm - 1) if one_sided else norm - 1
    assert penalty.item() == pytest.approx(7 * excess**2, abs=1e-12)
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad, 2 * 7 * excess * weight / norm, rtol=1e-10, atol=1e-10)


def test_of_a_quadratic_critic_points_lie_on_the_lines_between():
    real, fake = normal(50, 3), normal(50, 3, seed=1)
    critic = Quadratic(1.5)
    penalty = gradient_penalty(critic, real, fake, lam=1.0, generator=seeded(4))
    share = torch.rand(50, 1, generator=seeded(4), dtype=torch.float64)
    between = share * real + (1 - share) * fake
    assert penalty.item() == pytest.approx((1.5 * between.norm(dim=1) - 1).square().mean().item(), rel=1e-12)
    penalty.backward()
    norms = between.norm(dim=1)
    assert critic.a.grad.item() == pytest.approx((2 * (1.5 * norms - 1) * norms).mean().item(), rel=1e-12)


def test_places_are_even_on_the_line_and_one_for_all_entries_of_a_sample():
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum(1)

    gradient_penalty(critic, torch.ones(4_000, 3), torch.zeros(4_000, 3), generator=seeded())
    (places,) = seen
    assert (places == places[:, :1]).all()
    counts = torch.histc(places[:, 0], bins=4, min=0, max=1)
    assert ((counts - 1_000).abs() < 120).all()


def test_equals_a_loop_over_samples_with_finite_differences():
    critic, real, fake = network(), normal(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1)
    share = torch.rand(3, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    total = 0.0
    for one in share * real + (1 - share) * fake:
        slope = []
        for index in range(4):
            step = torch.zeros(4, dtype=torch.float64)
            step[index] = 1e-6
            up, down = (critic((one.flatten() + sign * step)[None]).item() for sign in (1, -1))
            slope.append((up - down) / 2e-6)
        total += (math.hypot(*slope) - 1) ** 2
    penalty = gradient_penalty(critic, real, fake, generator=seeded())
    assert penalty.item() == pytest.approx(10 * total / 3, rel=1e-6)


def test_gradients_flow_to_the_critic_and_nowhere_else_also_without_gradient_mode():
    critic = network()
    real, fake = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    with torch.no_grad():
        penalty = gradient_penalty(critic, real, fake, generator=seeded())
    penalty.backward()
    assert real.grad is None
    assert fake.grad is None
    assert critic[1].weight.grad.abs().sum() > 0


def test_a_flat_critic_has_a_finite_gradient():
    critic = Linear(torch.zeros(3, dtype=torch.float64))
    penalty = gradient_penalty(critic, normal(2, 3), normal(2, 3, seed=1), lam=2.0, generator=seeded())
    penalty.backward()
    assert penalty.item() == 2.0
    assert critic.weight.grad.isfinite().all()


def test_the_critic_that_both_losses_make_gives_the_distance_of_two_points():
    """Between points at 0 and 2 it is 2 for a critic of slope 1; the penalty lets the slope exceed 1 by 2 / (2 lam)."""
    critic = Linear(torch.tensor([0.3], dtype=torch.float64))
    real, fake = torch.full((8, 1), 2.0, dtype=torch.float64), torch.zeros(8, 1, dtype=torch.float64)
    optimizer, draw = torch.optim.SGD(critic.parameters(), lr=0.04), seeded()
    for _ in range(200):
        optimizer.zero_grad()
        loss = wgan_critic_loss(critic(real), critic(fake)) + gradient_penalty(critic, real, fake, generator=draw)
        loss.backward()
        optimizer.step()
    distance = -wgan_critic_loss(critic(real), critic(fake)).item()
    assert distance == pytest.approx(2 * (1 + 2 / (2 * 10)), rel=1e-6)
    assert wgan_generator_loss(critic(fake)).item() == 0


@pytest.mark.parametrize("empty", [torch.zeros(0), torch.zeros(0, 1)])
def test_no_scores_are_refused(empty):
    with pytest.raises(ValueError, match="real_scores must hold at least one score"):
        wgan_critic_loss(empty, torch.ones(1))
    with pytest.raises(ValueError, match="fake_scores must hold at least one score"):
        wgan_generator_loss(empty)
