"""A Wasserstein GAN with a gradient penalty trains where clipped weights or the original losses fail (Gulrajani 2017).

All arms have the same networks at the start and the same number of updates, those of both networks counted. Those of
Wasserstein have five updates of the critic a step, as in the paper; so has the control that says whether the penalty,
and not the distance, is what helps: the original losses with the same penalty. The headline is the sliced Wasserstein
distance of samples to test data; of the default data, 9 narrow Gaussians in the plane, it is also known which are
covered. How steep the critic is at the end, at points between data and samples, is told.

What it can show: whether penalty and losses matter for small networks and short training, once every arm has its own
learning rate. What it cannot: deep networks, where the paper has its gains. A distance not below that of the original
losses, or of clipped weights, would refute the claim. The clipped critic has the paper's optimizer, RMSprop, and its
bound; weights so small need their own rates.
"""

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from paperweight.gan.wgan_gp import gradient_penalty, wgan_critic_loss, wgan_generator_loss
from paperweight.loops import best_of, fit_adversarial, loss_curve
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.gan._world import judged, latent, networks, world

STUDY = Study(
    paper="wgan_gp",
    question="Does a Wasserstein critic held to slope 1 by a penalty give better samples than the original losses?",
    claim="A Wasserstein GAN with gradient penalty gives samples nearer to the data than the original losses do.",
    arms={
        "original": "the original losses without saturation, one update of the critic a step",
        "wgan_gp": "Wasserstein losses with gradient penalty, lam = 10, five updates of the critic a step",
        "wgan_clipped": "Wasserstein losses, the critic's weights clipped to 0.01, five updates of the critic a step",
        "one_critic_step": "variant: as wgan_gp with one update of the critic a step",
        "original_5": "control: the original losses with five updates of the critic a step",
        "original_gp": "control: as original_5, with the same gradient penalty",
    },
    metrics={
        "distance": Metric(label="sliced Wasserstein distance", unit="", better="lower", minimal_effect=0.01),
        "covered": Metric(label="modes covered", unit="fraction", better="higher", minimal_effect=0.02),
        "on_modes": Metric(label="samples on a mode", unit="fraction", better="higher", minimal_effect=0.05),
    },
    headline="distance",
    tuned=(
        "the learning rate of both networks: 3 tries an arm and seed, a factor of about 3 apart, by the sliced "
        "Wasserstein distance to validation data, a part of the training data that nothing is trained on"
    ),
    limits=(
        "Points in the plane, or small images, small fully connected networks and some hundred steps of the generator: "
        "nothing follows for deep networks or long training. The penalty's weight, the bound of the weights and Adam's "
        "betas are the papers', not tuned."
    ),
)

_RATES = {"wgan_clipped": (1e-4, 3e-4, 1e-3)}
_DEFAULT_RATES = (1e-3, 3e-3, 1e-2)
_BATCH = 64
_CLIP = 0.01
_LAM = 10.0


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each rate; judge the samples of the generator that comes closest to validation data."""
    given = world(setting, side=setting.pick(smoke=3, desk=3, gpu=5))
    held_out = min(len(given.train) // 10, len(given.test))
    validation, train = given.train[:held_out], given.train[held_out:]
    updates = setting.pick(smoke=60, desk=1_500, gpu=60_000)
    width = setting.pick(smoke=16, desk=64, gpu=256)
    critic_steps = 1 if arm in ("original", "one_critic_step") else 5
    steps = updates // (1 + critic_steps)

    def fit(rate: float) -> tuple[nn.Module, nn.Module, Tensor]:
        model, critic = networks(setting, train.shape[1:], width)
        critic_optimizer = _optimizer(arm, critic, rate)
        if arm == "wgan_clipped":
            critic_optimizer.register_step_post_hook(_clip)
        losses, _ = fit_adversarial(
            model,
            critic,
            _optimizer(arm, model, rate),
            critic_optimizer,
            train,
            model_loss=partial(_model_loss, arm),
            critic_loss=partial(_critic_loss, arm),
            latent=latent(setting.device),
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            critic_steps=critic_steps,
        )
        return model, critic, losses

    rates = _RATES.get(arm, _DEFAULT_RATES)
    tries = {rate: fit(rate) for rate in rates}
    nearby = replace(given, test=validation)
    distances = {rate: judged(model, nearby, setting)[0]["distance"] for rate, (model, *_) in tries.items()}
    rate = best_of(distances, distances.__getitem__, better="lower")
    model, critic, losses = tries[rate]
    metrics, picture = judged(model, given, setting)
    with torch.no_grad():
        samples = model(latent(setting.device)(held_out, setting.generator("evaluation")))
    return Outcome(
        metrics={name: metrics[name] for name in STUDY.metrics},
        arguments={
            "learning_rate": rate,
            "tries": len(rates),
            "root_mean_square_distance_of_slopes_from_1": gradient_penalty(
                critic, validation, samples, lam=1.0, generator=setting.generator("evaluation")
            )
            .sqrt()
            .item(),
            "reverse_kl": metrics["reverse_kl"],
            "updates": updates,
            "steps": steps,
            "critic_steps": critic_steps,
            "batch_size": _BATCH,
            "hidden_width": width,
            "training_samples": len(train),
            "test_samples": len(given.test),
        },
        curves={
            "generator's loss, by step": loss_curve(losses),
            "distance to validation data, by log10 learning rate": [
                (math.log10(rate), distance) for rate, distance in distances.items() if math.isfinite(distance)
            ],
        },
        images={"samples": picture},
    )


def _optimizer(arm: str, network: nn.Module, rate: float) -> Optimizer:
    """Return the optimizer of the arm's paper."""
    if arm == "wgan_clipped":
        return torch.optim.RMSprop(network.parameters(), lr=rate)
    betas = (0.0, 0.9) if arm in ("wgan_gp", "one_critic_step", "original_gp") else (0.5, 0.999)
    return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)


@torch.no_grad()
def _clip(optimizer: Optimizer, *_: object) -> None:
    """Clip the weights that an optimizer has updated."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.clamp_(-_CLIP, _CLIP)


def _model_loss(arm: str, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    if arm.startswith("original"):
        return F.softplus(-critic(fake)).mean()
    return wgan_generator_loss(critic(fake))


def _critic_loss(arm: str, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    if arm.startswith("original"):
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
    else:
        loss = wgan_critic_loss(critic(real), critic(fake))
    if arm in ("wgan_gp", "one_critic_step", "original_gp"):
        loss = loss + gradient_penalty(critic, real, fake, _LAM, generator=generator)
    return loss
