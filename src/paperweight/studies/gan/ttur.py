"""Two learning rates bring samples closer to the data than one (Heusel et al. 2017).

A small generator and critic, fully connected, play the game without saturation, with Adam and beta1 0.5, as in the
paper's DCGAN. The method gives the critic three times the generator's rate, the ratio of the paper's WGAN-GP (3e-4 and
1e-4), and one step for each of the generator's. All arms make as many updates in all, of the critic and the generator
together, on batches of one size; what is tuned is the geometric mean of both rates, and where to stop, since the
distance goes up and down in training. Samples are judged by the Fréchet distance to test images, of the features of a
classifier trained on the training images, and of plain pixels.

What it can show: whether the ratio matters once the rate is tuned, on these images and networks. A distance not below
that of one tuned rate would refute the claim. Were the opposite ratio as good, or five steps of the critic a step at
one rate, there would be nothing to the faster critic.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.gan.ttur import FrechetDistance
from paperweight.loops import best_of, tune
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.gan._generation import Game, Generation, Trained, trained_classifier

_RATES = (5e-4, 1.5e-3, 5e-3, 1.5e-2)
_POINTS = 6

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
        "distance": Metric.lower("Fréchet distance (LeNet trained on the training images)", 2.0),
        "pixel_distance": Metric.lower("Fréchet distance (pixels)", 0.5),
    },
    headline="distance",
    tuned=(
        "the geometric mean of both learning rates, 4 tries an arm and seed, by the headline's Fréchet distance to "
        "validation images; the generator is taken at the best of 6 points on the way in the same way"
    ),
    limits=(
        "Small images, small fully connected networks, short training at constant rates, where the theorem has "
        "decreasing ones, one loss. The distance is of few images and features of a small classifier, so it compares "
        "arms here and with nothing elsewhere."
    ),
)


class _Point(NamedTuple):
    """What a generator has come to after some steps."""

    step: int
    samples: Tensor
    validation: float


def run(arm: Arm[Game], setting: Setting) -> Outcome:
    """Train once with each rate; judge by test images what comes closest to validation images."""
    train, validation, test = setting.pick(smoke=(100, 50, 50), desk=(900, 400, 400), gpu=(40_000, 5_000, 5_000))
    side, updates, count = setting.pick(smoke=(16, 60, 50), desk=(16, 1_200, 1_000), gpu=(32, 120_000, 10_000))
    data = setting.images(default="digits", train=train, validation=validation, test=test, max_side=side)
    task = Generation(setting, 2 * data.train.images - 1, 2 * data.validation.images - 1, 2 * data.test.images - 1)
    shown = LabelledImages(task.train, data.train.labels)
    extractor = trained_classifier(setting, shown, len(data.classes), gpu_steps=5_000).body.eval()

    def measured(samples: Tensor, reference: Tensor) -> FrechetDistance:
        distance = FrechetDistance(extractor, "LeNet trained on the training images")
        distance.update(samples, reference)
        return distance

    def attempt(rate: float) -> tuple[Trained, list[_Point], _Point]:
        course: list[_Point] = []

        def look(model: nn.Module, taken: int) -> None:
            samples = task.sample(model, count, setting.generator("evaluation"))
            course.append(_Point(taken, samples, measured(samples, task.validation).compute()))

        trained = task.fit(arm.make, rate, updates=updates, on_step=look, points=_POINTS)
        return trained, course, best_of(course, lambda point: point.validation, better="lower")

    tuned = tune(_RATES, attempt, lambda tried: tried[2].validation, better="lower")
    trained, course, point = tuned.best
    by_step: list[tuple[float, float]] = [(at.step, at.validation) for at in course if math.isfinite(at.validation)]
    distance = measured(point.samples, task.test)
    pixels = FrechetDistance(extractor_name="pixels")
    pixels.update(point.samples.flatten(1), task.test.flatten(1))
    return task.outcome(
        tuned,
        trained.losses,
        point.samples,
        metrics={"distance": distance.compute(), "pixel_distance": pixels.compute()},
        made={**trained.made, "distance": distance},
        of="rate",
        arguments={
            "points": _POINTS,
            "stopped_after": point.step,
            "samples": count,
            "image_shape": " x ".join(map(str, data.shape)),
            "distance_of_training_images": measured(task.train, task.test).compute(),
        },
        curves={"Fréchet distance to validation images, by step": by_step},
    )
