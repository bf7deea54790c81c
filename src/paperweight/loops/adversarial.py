"""Training of a generator against a critic, as all generative adversarial networks have it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from paperweight.loops.core import OnStep, Schedule, index_batches, minimise
from paperweight.loops.generative import ExponentialMovingAverage

__all__ = ["AdversarialLoss", "fit_adversarial"]

AdversarialLoss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""Maps the critic, a batch of data, equally many samples, and a source of randomness to a scalar."""


def fit_adversarial(
    model: nn.Module,
    critic: nn.Module,
    model_optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    data: Tensor,
    *,
    model_loss: AdversarialLoss,
    critic_loss: AdversarialLoss,
    latent: Callable[[int, torch.Generator], Tensor],
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    critic_steps: int = 1,
    ema: ExponentialMovingAverage | None = None,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Train a generator and its critic in place, in turn; leave both in train mode.

    A step is ``critic_steps`` updates of the critic, each on a fresh batch of data and fresh samples, and then one of
    the generator, on fresh samples and the last of these batches. The critic sees samples that carry no gradient; in
    the generator's update the critic's parameters take none. Batches are those of `index_batches`, divergence is
    handled as in `minimise`. Only ``generator`` is drawn from, except by networks that are random themselves.

    Args:
        model: The generator: maps latent variables to samples.
        critic: Tells data from samples: a discriminator, or a critic without a bound.
        model_optimizer: Holds the parameters of the generator.
        critic_optimizer: Holds the parameters of the critic.
        data: Samples of the distribution to learn, (N, ...), on the device of both networks.
        model_loss: What the generator minimises.
        critic_loss: What the critic minimises.
        latent: Draws so many latent variables.
        steps: Number of the generator's updates, at least 1.
        batch_size: Samples a batch, at least 1.
        generator: Source of the shuffles, of the latent variables and of what the losses draw.
        critic_steps: Updates of the critic for each of the generator, at least 1.
        ema: Follows the generator; updated after every step, before ``on_step``.
        schedule: Stepped after every step.
        on_step: Called after every step, with the step's number from 0 and the generator's loss.

    Returns:
        The losses of the generator, (steps,), and of the critic, (steps, critic_steps), each before its update;
        shorter after a divergence.

    Raises:
        ValueError: If there are no data, or ``steps``, ``batch_size`` or ``critic_steps`` is below 1.

    Example:
        >>> model, critic = nn.Linear(2, 1), nn.Linear(1, 1)
        >>> losses = fit_adversarial(
        ...     model, critic,
        ...     torch.optim.SGD(model.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.01),
        ...     torch.ones(8, 1),
        ...     model_loss=lambda critic, real, fake, generator: -critic(fake).mean(),
        ...     critic_loss=lambda critic, real, fake, generator: (critic(fake) - critic(real)).mean(),
        ...     latent=lambda n, generator: torch.randn(n, 2, generator=generator),
        ...     steps=3, batch_size=4, generator=torch.Generator().manual_seed(0), critic_steps=2)
        >>> [part.shape for part in losses]
        [torch.Size([3]), torch.Size([3, 2])]
    """
    if critic_steps < 1:
        raise ValueError(f"critic_steps must be at least 1, got {critic_steps}")
    model.train()
    critic.train()
    critic_losses: list[Tensor] = []
    indices = index_batches(len(data), batch_size, generator, data.device)

    def batches() -> Iterator[list[Tensor]]:
        while True:
            yield [data.index_select(0, next(indices)) for _ in range(critic_steps)]

    def update_critic(real: Tensor) -> Tensor:
        with torch.no_grad():
            fake = model(latent(len(real), generator))
        critic_optimizer.zero_grad()
        loss = critic_loss(critic, real, fake, generator)
        loss.backward()
        critic_optimizer.step()
        return loss.detach()

    def batch_loss(batch: list[Tensor]) -> Tensor:
        critic_losses.append(torch.stack([update_critic(real) for real in batch]))
        trained = [parameter for parameter in critic.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            return model_loss(critic, batch[-1], model(latent(len(batch[-1]), generator)), generator)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def after_step(step: int, value: Tensor) -> None:
        if ema is not None:
            ema.update(model)
        if on_step is not None:
            on_step(step, value)

    losses = minimise(batch_loss, model_optimizer, batches(), steps=steps, schedule=schedule, on_step=after_step)
    return losses, torch.stack(critic_losses)
