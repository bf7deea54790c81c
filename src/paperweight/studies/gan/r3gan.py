"""A relativistic loss with penalties on data and samples covers all modes and converges (Huang et al. 2024).

All arms have the same networks at the start, one update of the critic a step, and the same number of steps; the
generator that is judged has the moving average of the weights, as in the paper. The baseline is what the paper starts
from: the original losses without saturation and with a penalty on data, R1. The default data are 25 narrow Gaussians at
random places in four dimensions. The headline is the share of samples that would have to move for every mode to get its
due: those on no mode, and those that a mode has too many; of as many test data it is 0.04, by chance. The paper's own
measure on many digits, the divergence from equal frequency of how often the modes are hit, is told but does not decide:
it sees only samples that belong to a mode, and is small for a blur over all of them. Where no sample hits a mode it has
no value, and is given its largest: the log of the number of modes, as if all samples hit one.

What it can show: whether pairing, or a penalty on samples too, brings small networks nearer to all modes in a short
training, once every arm has its own learning rate. What it cannot: the residual networks of the paper, its images, or
convergence in the long run. A share not below the baseline's would refute the claim. The original losses with both
penalties ask whether the loss matters beside them; the relativistic loss with one penalty, or with none, whether both
are needed.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from paperweight.gan.r3gan import relativistic_critic_loss, relativistic_generator_loss, zero_centred_penalty
from paperweight.loops import ExponentialMovingAverage, tune
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.gan._generation import Game, Trained
from paperweight.studies.gan._world import mixture

_RATES = (5e-4, 2e-3, 8e-3, 3e-2)
_DECAY = 0.99
_PENALTY = partial(zero_centred_penalty, gamma=0.1)
_ORIGINAL = Game(optimizer=partial(torch.optim.Adam, betas=(0.0, 0.99), fused=True))
_RELATIVISTIC = replace(
    _ORIGINAL, model_loss=relativistic_generator_loss, critic_loss=relativistic_critic_loss, paired=True
)

STUDY = Study(
    paper="r3gan",
    question="Do pairs of data and samples, and penalties on both, make a generator cover the data more evenly?",
    claim="The relativistic loss with R1 and R2 gives each mode its due more nearly than the original losses with R1.",
    arms={
        "original_r1": Arm(
            "the original losses without saturation, penalty on data", replace(_ORIGINAL, on_data=_PENALTY)
        ),
        "r3gan": Arm(
            "the relativistic losses, penalties on data and samples",
            replace(_RELATIVISTIC, on_data=_PENALTY, on_samples=_PENALTY),
        ),
        "relativistic_r1": Arm(
            "variant: the relativistic losses, penalty on data alone", replace(_RELATIVISTIC, on_data=_PENALTY)
        ),
        "relativistic": Arm("variant: the relativistic losses without a penalty", _RELATIVISTIC),
        "original_r1_r2": Arm(
            "control: the original losses, penalties on data and samples",
            replace(_ORIGINAL, on_data=_PENALTY, on_samples=_PENALTY),
        ),
    },
    metrics={
        "misplaced": Metric(label="samples to be moved", unit="fraction", better="lower", minimal_effect=0.03),
        "reverse_kl": Metric(label="divergence from equal modes", unit="nats", better="lower", minimal_effect=0.05),
        "covered": Metric(label="modes covered", unit="fraction", better="higher", minimal_effect=0.04),
        "on_modes": Metric(label="samples on a mode", unit="fraction", better="higher", minimal_effect=0.05),
        "distance": Metric(label="sliced Wasserstein distance", unit="", better="lower", minimal_effect=0.01),
    },
    headline="misplaced",
    tuned=(
        "the learning rate of both networks: 4 tries an arm and seed, a factor of about 4 apart, by the sliced "
        "Wasserstein distance to validation data, a part of the training data that nothing is trained on"
    ),
    limits=(
        "Points in four dimensions, or small images, small fully connected networks and 800 steps, after which no arm "
        "has settled: nothing follows for deep networks or long training. The residual backbone is not weighed. The "
        "weight of the penalties is the same for all arms and not tuned; learning rate, beta2 and weight are constant."
    ),
    seeds=16,
)


def run(arm: Arm[Game], setting: Setting) -> Outcome:
    """Train with each rate; judge the samples of the averaged generator that comes closest to validation data."""
    given = mixture(setting, modes=25, dimensions=4, scale=0.1, batch_size=256)
    steps = setting.pick(smoke=30, desk=800, gpu=30_000)

    def attempt(rate: float) -> Trained:
        ema = ExponentialMovingAverage(given.task.networks()[0], _DECAY)
        trained = given.task.fit(arm.make, rate, updates=2 * steps, on_step=lambda model, _: ema.update(model))
        return trained._replace(model=ema.average)

    tuned = tune(_RATES, attempt, lambda trained: given.distance(trained.model), better="lower")
    judged, samples = given.judge_model(tuned.best.model)
    return given.task.outcome(
        tuned,
        tuned.best.losses,
        samples,
        metrics={
            **judged,
            "misplaced": misplaced(given.mode_of(samples), given.modes),
            "reverse_kl": min(judged["reverse_kl"], math.log(given.modes)),
        },
        made=tuned.best.made,
        arguments={"decay_of_averaged_weights": _DECAY},
    )


def misplaced(modes: Tensor, count: int) -> float:
    """Give the share of samples that would have to move for each mode to have equally many.

    Args:
        modes: The mode of each sample, (N,); -1 for none.
        count: Number of modes.

    Example:
        >>> misplaced(torch.tensor([0, 0, 1, 1]), 2), misplaced(torch.tensor([0, 0, 0, -1]), 2)
        (0.0, 0.5)
    """
    share = torch.bincount(modes[modes >= 0], minlength=count).double() / len(modes)
    return 1 - share.clamp(max=1 / count).sum().item()
