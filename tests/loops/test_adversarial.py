import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import ExponentialMovingAverage, fit_adversarial


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latent(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator).double()


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    jitter = torch.randn(real.shape, generator=generator)
    return F.softplus(-critic(real + 0.1 * jitter)).mean() + F.softplus(critic(fake)).mean()


def model_loss(critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    return F.softplus(critic(real) - critic(fake)).mean()


def pair() -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(2, 3).double(), nn.Linear(3, 1).double()


def sgd(module: nn.Module, lr: float = 0.3) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=0.5)


def test_equals_a_hand_written_loop_bit_for_bit():
    data = torch.randn(8, 3, generator=seeded(1)).double()
    model, critic = pair()
    other_model, other_critic = pair()
    other_model.load_state_dict(model.state_dict())
    other_critic.load_state_dict(critic.state_dict())
    ema = ExponentialMovingAverage(model, decay=0.5)
    seen: list[tuple[int, float]] = []
    losses, critic_losses = fit_adversarial(
        model.eval(),
        critic.eval(),
        sgd(model),
        sgd(critic),
        data,
        model_loss=model_loss,
        critic_loss=critic_loss,
        latent=latent,
        steps=3,
        batch_size=4,
        generator=seeded(),
        critic_steps=2,
        ema=ema,
        on_step=lambda step, loss: seen.append((step, loss.item())),
    )
    assert model.training
    assert critic.training

    generator = seeded()
    expected, critic_expected = [], []
    optimizers = sgd(other_model), sgd(other_critic)
    average = other_model.weight.detach().clone()
    for _ in range(3):
        order = torch.randperm(8, generator=generator)
        for chosen in (order[:4], order[4:]):
            real = data[chosen]
            fake = other_model(latent(4, generator)).detach()
            optimizers[1].zero_grad()
            loss = critic_loss(other_critic, real, fake, generator)
            loss.backward()
            optimizers[1].step()
            critic_expected.append(loss.item())
        optimizers[0].zero_grad()
        loss = model_loss(other_critic, real, other_model(latent(4, generator)), generator)
        loss.backward()
        optimizers[0].step()
        expected.append(loss.item())
        average = 0.5 * average + 0.5 * other_model.weight.detach()
    assert losses.tolist() == expected
    assert critic_losses.flatten().tolist() == critic_expected
    assert seen == list(enumerate(expected))
    assert torch.equal(model.weight, other_model.weight)
    assert torch.equal(critic.weight, other_critic.weight)
    torch.testing.assert_close(ema.average.weight, average)


def test_each_network_is_moved_by_its_own_loss_alone_and_frozen_parts_stay_frozen():
    model, critic = pair()
    critic.bias.requires_grad_(False)
    fit_adversarial(
        model,
        critic,
        sgd(model, lr=0.0),
        sgd(critic, lr=0.0),
        torch.ones(4, 3).double(),
        model_loss=lambda critic, real, fake, generator: 7 * critic(fake).mean(),
        critic_loss=lambda critic, real, fake, generator: (critic(fake) - critic(real)).mean(),
        latent=lambda n, generator: torch.zeros(n, 2).double(),
        steps=1,
        batch_size=4,
        generator=seeded(),
    )
    torch.testing.assert_close(model.bias.grad, 7 * critic.weight.detach()[0])
    torch.testing.assert_close(critic.weight.grad[0], model.bias.detach() - 1)
    assert critic.bias.grad is None
    assert [p.requires_grad for p in critic.parameters()] == [True, False]


def test_a_loss_that_raises_leaves_the_critic_trainable():
    model, critic = pair()

    def broken(critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(model, critic, model_loss=broken)
    assert all(p.requires_grad for p in critic.parameters())


def fit(model: nn.Module, critic: nn.Module, **changes):
    arguments = {
        "model_loss": model_loss,
        "critic_loss": critic_loss,
        "latent": latent,
        "steps": 2,
        "batch_size": 4,
        "generator": seeded(),
    } | changes
    return fit_adversarial(model, critic, sgd(model), sgd(critic), torch.ones(8, 3).double(), **arguments)


def test_leaves_the_global_random_state_alone_and_ends_a_run_that_diverged():
    networks = pair()
    state = torch.get_rng_state()
    losses, critic_losses = fit(
        *networks,
        steps=200,
        model_loss=lambda critic, real, fake, generator: math.nan * critic(fake).mean(),
    )
    assert len(losses) == len(critic_losses) == 50
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["steps", "batch_size", "critic_steps"])
def test_refuses_numbers_below_1(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        fit(*pair(), **{name: 0})
