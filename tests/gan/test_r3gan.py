"""R3GAN against closed forms of linear and quadratic critics, loops over pairs, and its parameters counted by hand."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from paperweight.gan.r3gan import (
    R3Critic,
    R3Generator,
    relativistic_critic_loss,
    relativistic_generator_loss,
    zero_centred_penalty,
)
from paperweight.nets import count_parameters
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scores(seed: int) -> Tensor:
    return normal(5, 1, seed=seed, dtype=torch.float32)


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2 + <b, x>, with the gradient a x + b."""

    def __init__(self, a: float, b: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.a * flat.square().sum(1, keepdim=True) / 2 + flat @ self.b[:, None]


def block(channels: int, expansion: int = 2, group_width: int = 16) -> int:
    """Count the parameters of a block by hand."""
    inner = channels * expansion
    return channels * inner + inner * group_width * 9 + inner + inner * channels


NO_ARGUMENTS = "it takes scores alone; that other shapes are refused is tested below"
SIZES = {"channels": (0, 1.5), "expansion": (0, 2.0), "group_width": (0, 5)}
SHAPES = ((1, 6, 6), (1, 8, 4), (1, 2, 2), (0, 8, 8), (8, 8))

CONTRACT = {
    "R3Generator": LayerSubject(
        make=lambda **given: R3Generator(**{"shape": (2, 8, 8), "latent": 6, "channels": 8, **given}),
        inputs=(normal(3, 6, dtype=torch.float32),),
        shape=(3, 2, 8, 8),
        parameter_count=4 * block(8) + (6 + 1) * 8 * 16 + (8 + 1) * 2,
        bad={**SIZES, "shape": SHAPES, "latent": (0, 1.5)},
    ),
    "R3Critic": LayerSubject(
        make=lambda **given: R3Critic(**{"shape": (2, 8, 8), "channels": 8, **given}),
        inputs=(normal(3, 2, 8, 8, dtype=torch.float32),),
        shape=(3, 1),
        parameter_count=4 * block(8) + (2 + 1) * 8 + 8 * 16 + 8 + 1,
        bad={**SIZES, "shape": SHAPES},
    ),
    "relativistic_critic_loss": LossSubject(
        make=partial(partial, relativistic_critic_loss),
        inputs=(scores(0), scores(1)),
        slow=lambda real, fake: sum(math.log1p(math.exp(-(r - f))) for r, f in zip(real, fake, strict=True)) / 5,
        differentiable=(0, 1),
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
    "relativistic_generator_loss": LossSubject(
        make=partial(partial, relativistic_generator_loss),
        inputs=(scores(0), scores(1)),
        slow=lambda real, fake: sum(math.log1p(math.exp(-(f - r))) for r, f in zip(real, fake, strict=True)) / 5,
        differentiable=(0, 1),
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
    "zero_centred_penalty": FunctionSubject(
        make=lambda **given: zero_centred_penalty(**given).detach(),
        arguments={"critic": Quadratic(0.7, normal(4)), "inputs": normal(3, 4)},
        bad={
            "gamma": (-1.0, math.nan, math.inf),
            "inputs": (normal(0, 4), normal(4)),
            "critic": (nn.Identity(), lambda x: x.sum()),
        },
        null=lambda **given: zero_centred_penalty(**given, gamma=0.0).detach(),
        baseline=lambda **given: torch.tensor(0.0, dtype=torch.float64),
    ),
}


def test_the_losses_see_differences_alone_and_exchange_roles():
    real, fake = normal(6, 1), normal(6, 1, seed=1)
    for loss in (relativistic_critic_loss, relativistic_generator_loss):
        torch.testing.assert_close(loss(real + 5, fake + 5), loss(real, fake))
    assert relativistic_critic_loss(real, fake) == relativistic_generator_loss(fake, real)
    assert relativistic_critic_loss(real, real).item() == pytest.approx(math.log(2))


def test_pairs_are_those_of_the_batch_and_slopes_those_of_the_difference():
    real, fake = (normal(4, 1, seed=seed).requires_grad_() for seed in (0, 1))
    relativistic_critic_loss(real, fake).backward()
    share = (fake - real).sigmoid().detach() / 4
    torch.testing.assert_close(real.grad, -share)
    torch.testing.assert_close(fake.grad, share)


@pytest.mark.parametrize("others", [torch.zeros(4, 1), torch.zeros(5), torch.zeros(0, 1)])
def test_scores_of_other_shapes_are_refused(others):
    with pytest.raises(ValueError, match="fake_scores must have the shape of real_scores"):
        relativistic_critic_loss(scores(0), others)
    with pytest.raises(ValueError, match="at least one score"):
        relativistic_generator_loss(torch.zeros(0), torch.zeros(0))


def test_of_a_linear_critic_the_penalty_is_its_squared_norm():
    weight = normal(6)
    critic = Quadratic(0.0, weight)
    penalty = zero_centred_penalty(critic, normal(4, 1, 2, 3, seed=1), gamma=3.0)
    assert penalty.item() == pytest.approx(1.5 * weight.square().sum().item())
    penalty.backward()
    torch.testing.assert_close(critic.b.grad, 3 * weight)


def test_of_a_quadratic_critic_it_is_the_mean_over_inputs_in_closed_form():
    critic, inputs = Quadratic(0.7, normal(4)), normal(9, 4, seed=2)
    penalty = zero_centred_penalty(critic, inputs, gamma=2.0)
    slopes = 0.7 * inputs + normal(4)
    assert penalty.item() == pytest.approx(slopes.square().sum(1).mean().item())
    penalty.backward()
    assert critic.a.grad.item() == pytest.approx((2 * slopes * inputs).sum(1).mean().item())


def test_gradients_flow_to_the_critic_alone_also_without_gradient_mode():
    critic, inputs = Quadratic(0.7, normal(4)), normal(3, 4).requires_grad_()
    with torch.no_grad():
        penalty = zero_centred_penalty(critic, inputs)
    penalty.backward()
    assert inputs.grad is None
    assert critic.a.grad.item() != 0


def made(**given) -> tuple[R3Generator, R3Critic]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            R3Generator((1, 8, 8), latent=4, channels=16, **given),
            R3Critic((1, 8, 8), channels=16, **given),
        )


def test_each_block_begins_as_the_identity_and_the_rest_is_scaled():
    for network in made():
        assert len(network.blocks) == 4
        x = normal(2, 16, 4, 4, dtype=torch.float32)
        for block in network.blocks:
            assert torch.equal(block(x), x)
        spread = torch.cat([block.mix.weight.flatten() for block in network.blocks]).std().item()
        assert spread == pytest.approx(math.sqrt(2 / 1.04) * 4**-0.25 / math.sqrt(16 * 9), rel=0.03)


def test_at_the_start_the_networks_are_linear_in_closed_form():
    generator, critic = made()
    z = normal(3, 4, dtype=torch.float32)
    small = generator.first(z).view(3, 16, 4, 4)
    large = nn.functional.interpolate(small, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(generator(z), torch.einsum("nchw,oc->nohw", large, generator.last.weight[..., 0, 0])
                               + generator.last.bias.view(1, 1, 1, 1))  # fmt: skip
    x = normal(3, 1, 8, 8, dtype=torch.float32)
    features = nn.functional.avg_pool2d(critic.first(x), 2)
    pooled = (features * critic.pool.weight[:, 0]).sum((2, 3))
    torch.testing.assert_close(critic(x), critic.last(pooled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_any_power_of_two_is_a_side(side):
    generator, critic = R3Generator((3, side, side), 5, 16), R3Critic((3, side, side), 16)
    assert critic(generator(torch.zeros(2, 5))).shape == (2, 1)
    assert count_parameters(critic) == 2 * (int(math.log2(side)) - 1) * block(16) + 4 * 16 + 16 * 16 + 17


def test_scores_have_second_derivatives_through_the_blocks():
    _, critic = made()
    with torch.no_grad():
        for part in critic.blocks:
            part.reduce.weight.normal_(generator=torch.Generator().manual_seed(0))
    zero_centred_penalty(critic, normal(2, 1, 8, 8, dtype=torch.float32)).backward()
    assert all(part.reduce.weight.grad.abs().sum() > 0 for part in critic.blocks)
