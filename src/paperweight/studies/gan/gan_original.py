"""A generator that maximises log D learns better than one that minimises log(1 - D) (Goodfellow et al. 2014).

Every arm with a network has the same generator at the start, every adversarial arm the same discriminator, and all
have the same number of updates, those of both networks counted. The headline is that of the paper: the mean
log-likelihood of test data under a Parzen window around the samples, its width chosen on validation data. Of the
default data, 9 narrow Gaussians in the plane, it is also known which are covered; their true log-likelihood is 0.96,
and that of a constant density over their square -2.2. The size of the generator's gradient is its mean norm in the
first 100 updates, at the middle one of the arm's learning rates, which is the same with both losses.

What it can show: whether the gradient is larger early on, and whether that helps a generator that Adam trains for a
short time. What it cannot: anything about images of natural size, or about plain gradient descent, where a small
gradient is a small step; Adam divides its size out, so that only the weights of the samples of a batch differ between
the losses. A likelihood not above that of the minimax loss would refute the claim here. What would embarrass the
adversary: a generator without one, trained by the energy distance of its samples to data; and no network at all,
training points with noise of tuned width, whose likelihood is about the highest that can be had.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.gan.gan_original import (
    gan_discriminator_loss,
    gan_generator_loss,
    parzen_bandwidth,
    parzen_log_likelihood,
)
from paperweight.loops import best_of, evaluating, fit_adversarial, index_batches, loss_curve, minimise
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.gan._world import judged_samples, latent, networks, world

STUDY = Study(
    paper="gan_original",
    question="Does a generator learn better by the loss -log D than by log(1 - D), and better than without adversary?",
    claim="Under -log D the generator's gradient is larger early in training, and its samples make test data likelier.",
    arms={
        "minimax": "the generator minimises log(1 - D), with one update of the discriminator a step",
        "nonsaturating": "the generator minimises -log D, with one update of the discriminator a step",
        "nonsaturating_5": "-log D with five updates of the discriminator a step, as many updates in all",
        "moment_matching": "control: no discriminator, the energy distance of a batch of samples to a batch of data, "
        "as many updates as both networks have above",
        "kernel_density": "control: no network, training points with Gaussian noise of tuned width",
    },
    metrics={
        "log_likelihood": Metric(
            label="Parzen log-likelihood of test data", unit="nats", better="higher", minimal_effect=0.05
        ),
        "covered": Metric(label="modes covered", unit="fraction", better="higher", minimal_effect=0.02),
        "distance": Metric(label="sliced Wasserstein distance", unit="", better="lower", minimal_effect=0.01),
        "gradient": Metric(
            label="norm of the generator's gradient, first 100 steps", unit="", better="higher", minimal_effect=0.05
        ),
    },
    headline="log_likelihood",
    tuned=(
        "the learning rate of both networks by Adam, of the control without network the width of the noise: 3 tries an "
        "arm and seed by the Parzen log-likelihood of validation data, a part of the training data that nothing is "
        "trained on; the width of the Parzen window on the same data, of 10"
    ),
    limits=(
        "Points in the plane, or small images, small fully connected networks and Adam in place of momentum: nothing "
        "follows for the paper's images and networks, for plain gradient descent, or for training until nothing "
        "changes any more. A Parzen window says little about samples of many dimensions."
    ),
)

_STRENGTHS = {
    "minimax": (2e-3, 5e-3, 1.25e-2),
    "nonsaturating": (2e-3, 5e-3, 1.25e-2),
    "nonsaturating_5": (3e-4, 1e-3, 3e-3),
    "moment_matching": (1e-2, 3e-2, 9e-2),
    "kernel_density": (0.003, 0.01, 0.03),
}
_BETAS = (0.5, 0.999)
_BATCH = 128
_EARLY = 100
_WINDOWS = tuple(0.01 * 100 ** (index / 9) for index in range(10))


class _Try(NamedTuple):
    """What one learning rate, or width of the noise, gives."""

    validation: float
    window: float
    samples: Tensor
    losses: Tensor
    gradients: list[float]


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each learning rate; judge the samples of the one that validation data like best."""
    given = world(setting, side=setting.pick(smoke=3, desk=3, gpu=5))
    held_out = min(len(given.train) // 10, 500)
    validation, train = given.train[:held_out], given.train[held_out:]
    updates = setting.pick(smoke=60, desk=1_200, gpu=60_000)
    width = setting.pick(smoke=16, desk=64, gpu=256)

    def attempt(strength: float) -> _Try:
        losses, gradients = torch.zeros(1), [0.0]
        if arm == "kernel_density":
            samples = _resampled(train, len(given.test), strength, setting.generator("method"))
        else:
            model, critic = networks(setting, train.shape[1:], width)
            losses, gradients = _fit(arm, model, critic, train, strength, updates, setting)
            with evaluating(model), torch.no_grad():
                samples = model(latent(setting.device)(len(given.test), setting.generator("evaluation")))
        window = parzen_bandwidth(samples, validation, _WINDOWS)
        likelihood = parzen_log_likelihood(samples, validation, window).mean().item()
        return _Try(likelihood, window, samples, losses, gradients)

    tries = {strength: attempt(strength) for strength in _STRENGTHS[arm]}
    strength = best_of(tries, lambda strength: tries[strength].validation, better="higher")
    best = tries[strength]
    metrics, picture = judged_samples(best.samples, given, setting.generator("evaluation"))
    early = tries[_STRENGTHS[arm][1]].gradients
    return Outcome(
        metrics={
            "log_likelihood": parzen_log_likelihood(best.samples, given.test, best.window).mean().item(),
            "covered": metrics["covered"],
            "distance": metrics["distance"],
            "gradient": sum(early) / len(early),
        },
        arguments={
            "learning_rate" if arm != "kernel_density" else "width_of_noise": strength,
            "tries": len(tries),
            "window": best.window,
            "updates": 0 if arm == "kernel_density" else updates,
            "generator_updates": 0 if arm == "kernel_density" else len(best.losses),
            "on_modes": metrics["on_modes"],
            "reverse_kl": metrics["reverse_kl"],
            "batch_size": _BATCH,
            "hidden_width": width,
            "training_samples": len(train),
            "validation_samples": len(validation),
            "test_samples": len(given.test),
        },
        curves={
            "generator's loss, by step": loss_curve(best.losses),
            "norm of the generator's gradient, by step": list(enumerate(early)),
            "validation log-likelihood, by log10 of what is tuned": [
                (math.log10(strength), attempted.validation) for strength, attempted in tries.items()
            ],
        },
        images={"samples": picture},
    )


def _fit(
    arm: str, model: nn.Module, critic: nn.Module, train: Tensor, rate: float, updates: int, setting: Setting
) -> tuple[Tensor, list[float]]:
    """Train the generator as the arm does; give its losses and the norms of its first gradients."""
    draw, noise = setting.generator("batches"), latent(setting.device)
    optimizer, critic_optimizer = (
        torch.optim.Adam(part.parameters(), lr=rate, betas=_BETAS, fused=True) for part in (model, critic)
    )
    norms: list[Tensor] = []

    def measure(step: int, _: Tensor) -> None:
        if step < _EARLY:
            norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))

    if arm == "moment_matching":
        losses = minimise(
            lambda index: _energy_distance(model(noise(len(index), draw)), train[index]),
            optimizer,
            index_batches(len(train), _BATCH, draw, train.device),
            steps=updates,
            on_step=measure,
        )
    else:
        critic_steps = 5 if arm == "nonsaturating_5" else 1
        losses, _ = fit_adversarial(
            model,
            critic,
            optimizer,
            critic_optimizer,
            train,
            model_loss=lambda critic, real, fake, generator: gan_generator_loss(
                critic(fake), "minimax" if arm == "minimax" else "nonsaturating"
            ),
            critic_loss=lambda critic, real, fake, generator: gan_discriminator_loss(critic(real), critic(fake)),
            latent=noise,
            steps=updates // (1 + critic_steps),
            batch_size=_BATCH,
            generator=draw,
            critic_steps=critic_steps,
            on_step=measure,
        )
    return losses, torch.stack(norms).tolist()


def _energy_distance(samples: Tensor, data: Tensor) -> Tensor:
    """Compute 2 E|x - y| - E|x - x'| - E|y - y'| of two batches of equal size."""
    x, y = samples.flatten(1), data.flatten(1)
    pairs = len(x) * (len(x) - 1)
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).sum() / pairs - torch.cdist(y, y).sum() / pairs


def _resampled(train: Tensor, count: int, width: float, generator: torch.Generator) -> Tensor:
    """Draw training points, each with Gaussian noise: samples of a kernel density estimate."""
    chosen = train[torch.randint(len(train), (count,), generator=generator).to(train.device)]
    return chosen + width * torch.randn(chosen.shape, generator=generator).to(train.device)
