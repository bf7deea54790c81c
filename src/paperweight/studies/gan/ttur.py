"""Two learning rates bring samples closer to the data than one (Heusel et al. 2017).

A small generator and critic, fully connected, play the game without saturation, with Adam and beta1 0.5, as in the
paper's DCGAN. The method gives the critic three times the generator's rate, the ratio of the paper's WGAN-GP (3e-4 and
1e-4), and one step for each of the generator's. All arms make as many updates in all, of the critic and the generator
together, on batches of one size; what is tuned is the geometric mean of both rates, and where to stop, since the
distance goes up and down in training. What is judged is the generator of the averaged weights.

The default data are 9 wide Gaussians at random places in the plane, which such networks learn in so short a time. The
distance is the paper's, of random Fourier features, the same for all arms. The headline is its logarithm, since the
distances of two seeds differ by factors; the smallest effect worth reporting, 0.25, is a factor of 1.28, less than that
by which the distance of two sets of real samples, told too, varies among seeds.

What it can show: whether the ratio matters once the rate is tuned, on these data and networks. A distance not below
that of one tuned rate would refute the claim. Were the opposite ratio as good, or five steps of the critic a step at
one rate, there would be nothing to the faster critic.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from paperweight.gan.ttur import FrechetDistance
from paperweight.loops import best_of, tune
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.gan._generation import Game, Trained
from paperweight.studies.gan._world import DISTANCE, fourier_features, mixture, sliced_wasserstein

_RATES = (7e-4, 1.5e-3, 3e-3, 6e-3)
_POINTS = 6
_DECAY = 0.99
_FEATURES = 64

STUDY = Study(
    paper="ttur",
    question="Do samples come closer to the data where the critic learns three times as fast as the generator?",
    claim="At equal numbers of updates, a rate of its own for the critic gives a smaller Fréchet distance.",
    arms={
        "one_rate": Arm("one tuned rate for both, one step of the critic a step", Game()),
        "ttur": Arm("the critic's rate three times the generator's, one step of the critic a step", Game(ratio=3.0)),
        "five_critic_steps": Arm("control: one rate, five critic steps a step, as many updates", Game(critic_steps=5)),
        "slow_critic": Arm("control: the generator's rate three times the critic's, else as ttur", Game(ratio=1 / 3)),
        "very_fast_critic": Arm("variant: the critic's rate ten times the generator's, else as ttur", Game(ratio=10.0)),
    },
    metrics={
        "log_distance": Metric.lower("log of the Fréchet distance (random Fourier features)", 0.25, "nats"),
        "sliced": DISTANCE,
    },
    headline="log_distance",
    tuned=(
        "the geometric mean of both learning rates, 4 tries an arm and seed, a factor of 2 apart, by the distance to "
        "validation data; the generator is taken at the best of 6 points on the way in the same way"
    ),
    limits=(
        "Points in the plane, or small images, small fully connected networks, one loss, short training at constant "
        "rates, where the theorem has decreasing ones: after it the distance of method and baseline is one to nine "
        "times that of two sets of real samples, that of the slow critic 6 to 177 times. It is of random features, so "
        "it compares arms here and with nothing elsewhere."
    ),
    seeds=16,
)


class _Point(NamedTuple):
    """What a generator has come to after some steps."""

    step: int
    samples: Tensor
    validation: float


def run(arm: Arm[Game], setting: Setting) -> Outcome:
    """Train once with each rate; judge by test data what comes closest to validation data."""
    task = mixture(setting, modes=9, dimensions=2, scale=0.5, batch_size=256).task
    updates = setting.pick(smoke=60, desk=2_400, gpu=120_000)
    features = fourier_features(task.train, _FEATURES, setting.generator("method"))

    def measured(samples: Tensor, reference: Tensor) -> FrechetDistance:
        distance = FrechetDistance(features, "random Fourier")
        distance.update(samples, reference)
        return distance

    def attempt(rate: float) -> tuple[Trained, list[_Point], _Point]:
        course: list[_Point] = []

        def look(model: nn.Module, taken: int) -> None:
            samples = task.sample(model, len(task.test), setting.generator("evaluation"))
            course.append(_Point(taken, samples, measured(samples, task.validation).compute()))

        trained = task.fit(arm.make, rate, updates=updates, on_step=look, points=_POINTS, decay=_DECAY)
        return trained, course, best_of(course, lambda point: point.validation, better="lower")

    tuned = tune(_RATES, attempt, lambda tried: tried[2].validation, better="lower")
    trained, course, point = tuned.best
    by_step: list[tuple[float, float]] = [(at.step, at.validation) for at in course if math.isfinite(at.validation)]
    distance = measured(point.samples, task.test)
    return task.outcome(
        tuned,
        trained.losses,
        point.samples,
        metrics={
            "log_distance": math.log(distance.compute()),
            "sliced": sliced_wasserstein(point.samples, task.test, setting.generator("evaluation")),
        },
        made={**trained.made, "distance": distance},
        of="rate",
        arguments={
            "points": _POINTS,
            "stopped_after": point.step,
            "decay_of_averaged_weights": _DECAY,
            "features": _FEATURES,
            "log_distance_of_real_samples": math.log(measured(task.validation, task.test).compute()),
        },
        curves={"Fréchet distance to validation data, by step": by_step},
    )
