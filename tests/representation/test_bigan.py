"""BiGAN: the game against its closed forms on linear networks, losses by a loop, training by plain autograd."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from paperweight.representation.bigan import (
    BiGAN,
    BiGANTraining,
    JointCritic,
    PairScores,
    bigan_critic_loss,
    bigan_model_loss,
)
from paperweight.testing import LayerSubject, LossSubject, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(0.5 * normal(outputs, inputs, seed=seed))
        layer.bias.copy_(0.1 * normal(outputs, seed=seed + 1))
    return layer


def network() -> BiGAN:
    critic = JointCritic(nn.Sequential(linear(6, 8, 3), nn.Tanh(), linear(8, 1, 5)))
    return BiGAN(linear(4, 2, 7), linear(2, 4, 9), critic)


def uniform(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, 2, generator=generator, device=generator.device) - 1


INPUTS = normal(32, 4) * 0.3 + 2


def made(model: BiGAN, data: tuple[Tensor, ...], *, generator: torch.Generator, lr: float = 0.05) -> BiGANTraining:
    players = [*model.encoder.parameters(), *model.decoder.parameters()]
    adam = partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.999))
    return BiGANTraining(model, adam(players), adam(model.critic.parameters()), uniform, generator=generator)


def distance(model: BiGAN, data: tuple[Tensor, ...]) -> Tensor:
    """Compute how far the mean of samples is from that of the data, which a generator that learns goes towards."""
    return (model.decoder(uniform(200, seeded(4)).to(data[0])).mean(dim=0) - data[0].mean(dim=0)).square().sum()


def slow(signs: tuple[int, int], *scores: Tensor) -> float:
    """Compute -E log sigmoid(sign * score), the mean of each, added up."""
    total = 0.0
    for sign, given in zip(signs, scores, strict=True):
        total += sum(math.log1p(math.exp(-sign * float(each))) for each in given) / len(given)
    return total


NO_ARGUMENTS = "it takes scores alone; that others are refused is tested below"
NETWORKS = "it takes networks alone, of any kind"
REFUSED = "what it refuses are optimizers, which is tested below"

CONTRACT = {
    "BiGAN": LayerSubject(
        make=network,
        inputs=(normal(5, 4), normal(5, 2)),
        shape=((5, 1), (5, 1)),
        parameter_count=10 + 12 + 56 + 9,
        expected_failures={"check_bad_values": NETWORKS},
    ),
    "JointCritic": LayerSubject(
        make=lambda: JointCritic(linear(9, 1, 1)),
        inputs=(normal(5, 1, 2, 3), normal(5, 3)),
        shape=(5, 1),
        parameter_count=10,
        expected_failures={"check_bad_values": NETWORKS},
    ),
    "BiGANTraining": TrainingProcedureSubject(
        make=made,
        evaluations=30 * 8,
        random=True,
        rounds=30,
        model=network,
        data=(INPUTS,),
        loss=distance,
        expected_failures={"check_bad_values": REFUSED},
    ),
    "bigan_critic_loss": LossSubject(
        make=partial(partial, bigan_critic_loss),
        inputs=(normal(5, 1), normal(5, 1, seed=1)),
        slow=partial(slow, (1, -1)),
        differentiable=(0, 1),
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
    "bigan_model_loss": LossSubject(
        make=partial(partial, bigan_model_loss),
        inputs=(normal(5, 1), normal(5, 1, seed=1)),
        slow=partial(slow, (-1, 1)),
        differentiable=(0, 1),
        expected_failures={"check_bad_values": NO_ARGUMENTS},
    ),
}


def inverse_pair(shift: float = 0.0) -> BiGAN:
    """Give linear G with its inverse E, or with one that is off by a shift, for z ~ N(0, 1) and x = G(z)."""
    turn = torch.tensor([[2.0, 1.0], [0.5, -1.0]]).double()
    encoder, decoder = (nn.Linear(2, 2, bias=True).double() for _ in range(2))
    with torch.no_grad():
        decoder.weight.copy_(turn)
        decoder.bias.copy_(torch.tensor([1.0, -2.0]))
        encoder.weight.copy_(turn.inverse())
        encoder.bias.copy_(-turn.inverse() @ torch.tensor([1.0, -2.0]).double() + shift)
    return BiGAN(encoder, decoder, JointCritic(nn.Identity()))


def test_of_inverse_networks_the_joint_laws_are_equal_and_the_best_critic_cannot_tell():
    model, latent = inverse_pair(), normal(2_000, 2).double()
    data = model.decoder(normal(2_000, 2, seed=1).double())
    pairs = model(data, latent)
    for of_data, of_samples in zip(*(torch.stack([part.mean(0), part.std(0)]) for part in pairs), strict=True):
        torch.testing.assert_close(of_data, of_samples, atol=0.15, rtol=0)
    covariances = [torch.cov(part.T) for part in pairs]
    torch.testing.assert_close(*covariances, atol=0.4, rtol=0)
    torch.testing.assert_close(model.reconstruct(data), data)
    # Of equal laws the best critic's score is log 1 = 0.
    none = torch.zeros(7, 1)
    assert bigan_critic_loss(none, none).item() == pytest.approx(2 * math.log(2))
    assert bigan_model_loss(none, none).item() == pytest.approx(2 * math.log(2))


def test_against_the_best_critic_the_loss_is_2_log_2_minus_twice_the_divergence():
    """Of Gaussian pairs, whose divergence is computed by quadrature over one axis."""
    shift = 1.5
    laws = [MultivariateNormal(torch.tensor([mean]).double(), torch.eye(1).double()) for mean in (shift, 0.0)]
    grid = torch.linspace(-12, 14, 20_001).double()[:, None]
    p, q = (law.log_prob(grid).exp() for law in laws)
    step = (grid[1] - grid[0]).item()
    middle = (p + q) / 2
    divergence = 0.5 * step * (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum().item()
    draws = [normal(200_000, 1, seed=seed).double() + mean for seed, mean in ((1, shift), (2, 0.0))]
    scores = [laws[0].log_prob(each) - laws[1].log_prob(each) for each in draws]
    assert bigan_critic_loss(*scores).item() == pytest.approx(2 * math.log(2) - 2 * divergence, abs=0.01)


def test_the_critic_sees_data_with_codes_and_samples_with_latent_variables():
    class Seen(nn.Module):
        def forward(self, inputs: Tensor, latent: Tensor) -> Tensor:
            return torch.cat([inputs, latent], dim=1)

    model = BiGAN(nn.Linear(2, 1), nn.Linear(1, 2), Seen())
    inputs, latent = normal(3, 2), normal(5, 1)
    real, fake = model(inputs, latent)
    assert torch.equal(real, torch.cat([inputs, model.encoder(inputs)], dim=1))
    assert torch.equal(fake, torch.cat([model.decoder(latent), latent], dim=1))
    assert torch.equal(model.reconstruct(inputs), model.decoder(model.encoder(inputs)))
    joined = JointCritic(nn.Identity())(inputs[:, None], latent[:3])
    assert torch.equal(joined, torch.cat([inputs, latent[:3]], dim=1))
    # Other codes for the same images change what the critic says.
    critic = network().critic
    images, codes = normal(6, 4), normal(6, 2)
    assert not torch.allclose(critic(images, codes), critic(images, codes.flip(0)))
    assert not torch.allclose(critic(images, codes), critic(images.flip(0), codes))


def test_a_step_is_that_of_plain_autograd_for_both_sides():
    torch.manual_seed(0)
    given, inputs = network(), INPUTS[:8]
    by_hand = copy.deepcopy(given)
    training = made(given, (), generator=seeded(3), lr=0.01)
    players = [*by_hand.encoder.parameters(), *by_hand.decoder.parameters()]
    sides = (
        (torch.optim.Adam(by_hand.critic.parameters(), lr=0.01, betas=(0.5, 0.999)), (1, -1)),
        (torch.optim.Adam(players, lr=0.01, betas=(0.5, 0.999)), (-1, 1)),
    )
    draw = seeded(3)
    for _ in range(3):
        found = training.step(inputs)
        latent = uniform(8, draw)
        before, losses = copy.deepcopy(by_hand), []
        for optimizer, signs in sides:
            twin = copy.deepcopy(before)
            scores = twin(inputs, latent)
            loss = sum(F.softplus(-sign * each).mean() for sign, each in zip(signs, scores, strict=True))
            loss.backward()
            slopes = {name: each.grad for name, each in twin.named_parameters()}
            held = {id(each) for group in optimizer.param_groups for each in group["params"]}
            for name, each in by_hand.named_parameters():
                if id(each) in held:
                    each.grad = slopes[name]
            losses.append(loss)
        for optimizer, _ in sides:
            optimizer.step()
        assert found.item() == pytest.approx(losses[0].item(), rel=1e-6)
        assert not found.requires_grad
    for expected, each in zip(by_hand.parameters(), given.parameters(), strict=True):
        torch.testing.assert_close(each, expected)


def test_frozen_parts_stay_and_what_does_not_take_part_is_let_be():
    model = network()
    model.decoder.requires_grad_(False)
    model.critic.spare = nn.Parameter(torch.ones(2))
    before = copy.deepcopy(model.state_dict())
    training = made(model, (), generator=seeded())
    model.eval()
    training.step(INPUTS[:1])
    assert model.training
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {name for name in before if not name.startswith(("decoder", "critic.spare"))}
    assert model.decoder.weight.grad is None


def test_batches_of_two_sizes_and_what_does_not_fit():
    model = network()
    assert isinstance(model(INPUTS, normal(3, 2)), PairScores)
    some, none = normal(3, 1), normal(0, 1)
    for loss in (bigan_critic_loss, bigan_model_loss):
        assert loss(some, normal(9, 1)).isfinite()
        with pytest.raises(ValueError, match=r"real_scores must be floating and hold at least one score, got .*0, 1"):
            loss(none, some)
        with pytest.raises(ValueError, match=r"fake_scores must be floating and hold at least one score, got .*int64"):
            loss(some, some.long())
    training = made(model, (), generator=seeded())
    with pytest.raises(ValueError, match=r"inputs must hold at least one input, got shape \(0, 4\)"):
        training.step(INPUTS[:0])
    players, critics = torch.optim.SGD(model.encoder.parameters()), torch.optim.SGD(model.critic.parameters())
    with pytest.raises(ValueError, match="optimizer must hold no parameter of the critic"):
        BiGANTraining(model, critics, critics, uniform, generator=seeded())
    with pytest.raises(ValueError, match="critic_optimizer must hold parameters of the critic alone"):
        BiGANTraining(model, players, players, uniform, generator=seeded())
