"""A relativistic loss with penalties on data and samples covers all modes and converges (Huang et al. 2024).

All arms have the same networks at the start, one update of the critic a step, and the same number of steps. The
baseline is what the paper starts from: the original losses without saturation and with a penalty on data, R1. The
headline is the divergence from equal frequency of how often the modes are hit, the paper's measure on many digits; the
modes that nothing hits, and the sliced Wasserstein distance to test data, are told. Where no sample hits a mode the
divergence has no value, and is given its largest: the log of the number of modes, as if all samples hit one. The
default data are 9 narrow Gaussians in the plane.

What it can show: whether pairing, or a penalty on samples too, helps small networks in a short training, once every arm
has its own learning rate. What it cannot: the residual networks of the paper, its images, or convergence in the long
run. A divergence not below the baseline's would refute the claim. The original losses with both penalties ask whether
the loss matters beside them; the relativistic loss with one penalty, or with none, whether both are needed.
"""

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.gan.r3gan import relativistic_critic_loss, relativistic_generator_loss, zero_centred_penalty
from paperweight.loops import best_of, fit_adversarial, loss_curve
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.gan._world import judged, latent, networks, world

STUDY = Study(
    paper="r3gan",
    question="Do pairs of data and samples, and penalties on both, make a generator cover the data more evenly?",
    claim="The relativistic loss with R1 and R2 covers modes more evenly than the original losses with R1.",
    arms={
        "original_r1": "the original losses without saturation, penalty on data",
        "r3gan": "the relativistic losses, penalties on data and samples",
        "relativistic_r1": "variant: the relativistic losses, penalty on data alone",
        "relativistic": "variant: the relativistic losses without a penalty",
        "original_r1_r2": "control: the original losses, penalties on data and samples",
    },
    metrics={
        "reverse_kl": Metric(label="divergence from equal modes", unit="nats", better="lower", minimal_effect=0.05),
        "covered": Metric(label="modes covered", unit="fraction", better="higher", minimal_effect=0.02),
        "distance": Metric(label="sliced Wasserstein distance", unit="", better="lower", minimal_effect=0.01),
    },
    headline="reverse_kl",
    tuned=(
        "the learning rate of both networks: 3 tries an arm and seed, a factor of about 3 apart, by the sliced "
        "Wasserstein distance to validation data, a part of the training data that nothing is trained on"
    ),
    limits=(
        "Points in the plane, or small images, small fully connected networks and a short training: nothing follows "
        "for deep networks or long training. The residual backbone is not weighed. The weight of the penalties is the "
        "same for all arms and not tuned; learning rate, beta2 and weight are constant."
    ),
)

_RATES = (1e-3, 3e-3, 1e-2)
_BETAS = (0.0, 0.99)
_BATCH = 64
_GAMMA = 0.1


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each rate; judge the samples of the generator that comes closest to validation data."""
    given = world(setting, side=setting.pick(smoke=3, desk=3, gpu=5))
    held_out = min(len(given.train) // 10, len(given.test))
    validation, train = given.train[:held_out], given.train[held_out:]
    steps = setting.pick(smoke=30, desk=500, gpu=30_000)
    width = setting.pick(smoke=16, desk=64, gpu=256)

    def fit(rate: float) -> tuple[nn.Module, Tensor]:
        model, critic = networks(setting, train.shape[1:], width)
        losses, _ = fit_adversarial(
            model,
            critic,
            torch.optim.Adam(model.parameters(), lr=rate, betas=_BETAS, fused=True),
            torch.optim.Adam(critic.parameters(), lr=rate, betas=_BETAS, fused=True),
            train,
            model_loss=partial(_model_loss, arm),
            critic_loss=partial(_critic_loss, arm),
            latent=latent(setting.device),
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
        )
        return model, losses

    tries = {rate: fit(rate) for rate in _RATES}
    nearby = replace(given, test=validation)
    distances = {rate: judged(model, nearby, setting)[0]["distance"] for rate, (model, _) in tries.items()}
    rate = best_of(distances, distances.__getitem__, better="lower")
    model, losses = tries[rate]
    metrics, picture = judged(model, given, setting)
    return Outcome(
        metrics={
            "reverse_kl": min(metrics["reverse_kl"], math.log(given.modes)),
            "covered": metrics["covered"],
            "distance": metrics["distance"],
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "on_modes": metrics["on_modes"],
            "gamma": _GAMMA,
            "steps": steps,
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


def _model_loss(arm: str, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    if arm.startswith("original"):
        return F.softplus(-critic(fake)).mean()
    return relativistic_generator_loss(critic(real), critic(fake))


def _critic_loss(arm: str, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    if arm.startswith("original"):
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
    else:
        loss = relativistic_critic_loss(critic(real), critic(fake))
    if arm != "relativistic":
        loss = loss + zero_centred_penalty(critic, real, _GAMMA)
    if arm in ("r3gan", "original_r1_r2"):
        loss = loss + zero_centred_penalty(critic, fake, _GAMMA)
    return loss
