"""Two learning rates bring samples closer to the data than one (Heusel et al. 2017).

A small generator and critic, fully connected, play the game without saturation, with Adam and beta1 0.5, as in the
paper's DCGAN. The method gives the critic three times the generator's rate, the ratio of the paper's WGAN-GP (3e-4 and
1e-4), and one step for each of the generator's. All arms make as many updates in all, of the critic and the generator
together, on batches of one size; what is tuned is the geometric mean of both rates, and where to stop, since the
distance goes up and down in training. Samples are judged by the Fréchet distance to test images, of the features of a
classifier trained on the training images, and of plain pixels.

What it can show: whether the ratio matters once the rate is tuned, on these images and networks. What it cannot: large
networks, long training, or the theorem, which has decreasing rates. A distance not below that of one tuned rate would
refute the claim. Were the opposite ratio as good, or five steps of the critic a step at one rate, there would be
nothing to the faster critic.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.gan.ttur import FrechetDistance
from paperweight.loops import best_of, evaluating, fit_adversarial, fit_classifier, loss_curve
from paperweight.nets import LeNet
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.gan._world import latent, networks

STUDY = Study(
    paper="ttur",
    question="Do samples come closer to the data where the critic learns three times as fast as the generator?",
    claim="At equal numbers of updates, a rate of its own for the critic gives a smaller Fréchet distance.",
    arms={
        "one_rate": "one tuned rate for both, one step of the critic a step",
        "ttur": "the critic's rate three times the generator's, one step of the critic a step",
        "five_critic_steps": "control: one rate, five steps of the critic a step, and as many updates in all",
        "slow_critic": "control: the generator's rate three times the critic's, one step of the critic a step",
        "very_fast_critic": "variant: the critic's rate ten times the generator's, one step of the critic a step",
    },
    metrics={
        "distance": Metric(
            label="Fréchet distance (LeNet trained on the training images)", unit="", better="lower", minimal_effect=2.0
        ),
        "pixel_distance": Metric(label="Fréchet distance (pixels)", unit="", better="lower", minimal_effect=0.5),
    },
    headline="distance",
    tuned=(
        "the geometric mean of both learning rates, 4 tries an arm and seed, by the headline's Fréchet distance to "
        "validation images; the generator is taken at the best of 6 points on the way in the same way"
    ),
    limits=(
        "Small images, small fully connected networks, short training at constant rates, one loss. The distance is "
        "of few images and features of a small classifier, so it compares arms here and with nothing elsewhere."
    ),
)

_RATIOS = {"one_rate": 1.0, "ttur": 3.0, "five_critic_steps": 1.0, "slow_critic": 1 / 3, "very_fast_critic": 10.0}
_RATES = (5e-4, 1.5e-3, 5e-3, 1.5e-2)
_BETAS = (0.5, 0.999)
_BATCH = 64
_POINTS = 6


class _Point(NamedTuple):
    """What a generator has come to after some steps."""

    step: int
    samples: Tensor
    validation: float


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate; judge by test images what comes closest to validation images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=900, gpu=40_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=50, desk=400, gpu=5_000),
        max_side=setting.pick(smoke=16, desk=16, gpu=32),
    )
    images, validation, test = (2 * part.images - 1 for part in (data.train, data.validation, data.test))
    extractor = _extractor(setting, data.shape, len(data.classes), images, data.train.labels)
    updates = setting.pick(smoke=60, desk=1_200, gpu=120_000)
    critic_steps = 5 if arm == "five_critic_steps" else 1
    steps = updates // (1 + critic_steps)
    count = setting.pick(smoke=50, desk=1_000, gpu=10_000)
    ratio = _RATIOS[arm]

    def measure(samples: Tensor, reference: Tensor) -> float:
        distance = FrechetDistance(extractor, "LeNet trained on the training images")
        distance.update(samples, reference)
        return distance.compute()

    def train(rate: float) -> tuple[list[_Point], Tensor]:
        model, critic = networks(setting, torch.Size(data.shape))
        course: list[_Point] = []

        def look(taken: int) -> None:
            with evaluating(model), torch.no_grad():
                samples = model(latent(setting.device)(count, setting.generator("evaluation")))
            course.append(_Point(taken, samples, measure(samples, validation)))

        def look_on_the_way(step: int, _: Tensor) -> None:
            taken = step + 1
            if taken * _POINTS // steps > step * _POINTS // steps and taken < steps:
                look(taken)

        losses, _ = fit_adversarial(
            model,
            critic,
            torch.optim.Adam(model.parameters(), lr=rate / math.sqrt(ratio), betas=_BETAS, fused=True),
            torch.optim.Adam(critic.parameters(), lr=rate * math.sqrt(ratio), betas=_BETAS, fused=True),
            images,
            model_loss=_model_loss,
            critic_loss=_critic_loss,
            latent=latent(setting.device),
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            critic_steps=critic_steps,
            on_step=look_on_the_way,
        )
        look(len(losses))
        return course, losses

    def chosen(course: list[_Point]) -> _Point:
        return best_of(course, lambda point: point.validation, better="lower")

    tries = {rate: train(rate) for rate in _RATES}
    rate = best_of(tries, lambda rate: chosen(tries[rate][0]).validation, better="lower")
    course, losses = tries[rate]
    point = chosen(course)
    pixels = FrechetDistance(extractor_name="pixels")
    pixels.update(point.samples.flatten(1), test.flatten(1))
    return Outcome(
        metrics={"distance": measure(point.samples, test), "pixel_distance": pixels.compute()},
        arguments={
            "rate": rate,
            "generator_rate": rate / math.sqrt(ratio),
            "critic_rate": rate * math.sqrt(ratio),
            "tries": len(_RATES),
            "points": _POINTS,
            "stopped_after": point.step,
            "steps": steps,
            "critic_steps": critic_steps,
            "updates": steps * (1 + critic_steps),
            "betas": _BETAS,
            "batch_size": _BATCH,
            "samples": count,
            "training_images": len(images),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, data.shape)),
            "distance_of_training_images": measure(images, test),
        },
        curves={
            "generator's loss, by step": loss_curve(losses),
            "Fréchet distance to validation images, by step": [
                (point.step, point.validation) for point in course if math.isfinite(point.validation)
            ],
            "Fréchet distance to validation images, by log10 rate": [
                (math.log10(rate), chosen(course).validation) for rate, (course, _) in tries.items()
            ],
        },
        images={"samples": (point.samples[:64].clamp(-1, 1) + 1) / 2},
    )


def _model_loss(critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    return F.softplus(-critic(fake)).mean()


def _critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    return F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()


def _extractor(
    setting: Setting, shape: tuple[int, int, int], classes: int, images: Tensor, labels: Tensor
) -> Callable[[Tensor], Tensor]:
    """Train a classifier on the training images, once a seed; return what gives its features before the last layer."""

    def trained() -> dict[str, Tensor]:
        classifier = setting.initialised(lambda: LeNet(shape, classes))
        fit_classifier(
            classifier,
            torch.optim.Adam(classifier.parameters(), lr=1e-3),
            images,
            labels,
            steps=setting.pick(smoke=50, desk=600, gpu=5_000),
            batch_size=_BATCH,
            generator=setting.generator("evaluation"),
        )
        return classifier.state_dict()

    classifier = setting.initialised(lambda: LeNet(shape, classes))
    classifier.load_state_dict(setting.cached("classifier of the training images", trained))
    return classifier.body.eval()
