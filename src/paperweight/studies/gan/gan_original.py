"""A generator that maximises log D learns better than one that minimises log(1 - D) (Goodfellow et al. 2014).

Every arm with a network has the same generator at the start, every adversarial arm the same discriminator, and all
have the same number of updates, those of both networks counted. The headline is that of the paper: the mean
log-likelihood of test data under a Parzen window around the samples, its width chosen on validation data. Of the
default data, 9 narrow Gaussians in the plane, it is also known which are covered; their true log-likelihood is 0.96,
and that of a constant density over their square -2.2. The size of the generator's gradient is its mean norm in the
first 100 updates, at the second largest of the arm's learning rates, which is the same with both losses. The two losses
are compared under gradient descent with momentum, as in the paper, where a small gradient is a small step.

What it can show: whether the gradient is larger early on, and whether that helps a generator that is trained for a
short time. What it cannot: anything about images of natural size. A likelihood not above that of the minimax loss would
refute the claim here. The controls train by both losses with Adam: it divides the size of a gradient out, so that only
the weights of the samples of a batch differ between the losses; these two arms are to be compared with each other. What
would embarrass the adversary: a generator without one, trained by the energy distance of its samples to data; and no
network at all, training points with noise of tuned width, whose likelihood is about the highest that can be had.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.gan.gan_original import (
    gan_discriminator_loss,
    gan_generator_loss,
    parzen_bandwidth,
    parzen_log_likelihood,
)
from paperweight.loops import index_batches, minimise, tune
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.gan._generation import Game, Generation
from paperweight.studies.gan._world import COVERED, DISTANCE, world

_EARLY = 100
_RATES = (0.01, 0.03, 0.1, 0.3)
_ADAM_RATES = (8e-4, 2e-3, 5e-3, 1.25e-2)
_NONSATURATING = Game(model_loss=partial(gan_generator_loss, form="nonsaturating"), critic_loss=gan_discriminator_loss)
_MINIMAX = replace(_NONSATURATING, model_loss=partial(gan_generator_loss, form="minimax"))
_MOMENTUM = partial(torch.optim.SGD, momentum=0.5)
_WINDOWS = tuple(0.01 * 100 ** (index / 9) for index in range(10))


class _Drawn(NamedTuple):
    """Samples, and how what draws them was trained."""

    samples: Tensor
    made: dict[str, object]
    losses: Tensor
    gradients: list[float]


class _Try(NamedTuple):
    """What one learning rate, or width of the noise, gives, and the Parzen window that validation data like best."""

    drawn: _Drawn
    window: float


def _play(game: Game, task: Generation, rate: float, updates: int) -> _Drawn:
    """Train a generator against a discriminator."""
    norms: list[Tensor] = []
    model, _, losses, made = task.fit(game, rate, updates=updates, on_step=partial(_note, norms))
    return _Drawn(_samples(task, model), made, losses, torch.stack(norms).tolist())


def _match(task: Generation, rate: float, updates: int) -> _Drawn:
    """Train a generator by the energy distance of its samples to data."""
    norms: list[Tensor] = []
    model, _ = task.networks()
    draw, train = task.setting.generator("batches"), task.train
    optimizer = _NONSATURATING.optimizer(model.parameters(), lr=rate)
    losses = minimise(
        lambda index: _energy_distance(model(task.latent(len(index), draw)), train[index]),
        optimizer,
        index_batches(len(train), task.batch_size, draw, train.device),
        steps=updates,
        on_step=lambda step, _: _note(norms, model, step + 1),
    )
    made = {"model_loss": _energy_distance, "model_optimizer": optimizer}
    return _Drawn(_samples(task, model), made, losses, torch.stack(norms).tolist())


def _note(norms: list[Tensor], model: nn.Module, taken: int) -> None:
    """Note the norm of the gradient of a generator that has taken few steps."""
    if taken <= _EARLY:
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def _resample(task: Generation, width: float, _: int) -> _Drawn:
    """Draw training points, each with Gaussian noise: samples of a kernel density estimate."""
    draw, train = task.setting.generator("method"), task.train
    chosen = train[torch.randint(len(train), (len(task.test),), generator=draw).to(train.device)]
    samples = chosen + width * torch.randn(chosen.shape, generator=draw).to(train.device)
    return _Drawn(samples, {}, torch.zeros(0), [0.0])


def _samples(task: Generation, model: nn.Module) -> Tensor:
    return task.sample(model, len(task.test), task.setting.generator("evaluation"))


def _energy_distance(samples: Tensor, data: Tensor) -> Tensor:
    """Compute 2 E|x - y| - E|x - x'| - E|y - y'| of two batches of equal size."""
    x, y = samples.flatten(1), data.flatten(1)
    pairs = len(x) * (len(x) - 1)
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).sum() / pairs - torch.cdist(y, y).sum() / pairs


class _Plan(NamedTuple):
    """How samples are had, and the learning rates, or widths of the noise, that are tried."""

    draw: Callable[[Generation, float, int], _Drawn]
    strengths: tuple[float, float, float, float]
    of: str = "lr"


STUDY = Study(
    paper="gan_original",
    question="Does a generator learn better by the loss -log D than by log(1 - D), and better than without adversary?",
    claim="Under -log D the generator's gradient is larger early in training, and its samples make test data likelier.",
    arms={
        "minimax": Arm(
            "the generator minimises log(1 - D), by gradient descent with momentum",
            _Plan(partial(_play, replace(_MINIMAX, optimizer=_MOMENTUM)), _RATES),
        ),
        "nonsaturating": Arm(
            "the generator minimises -log D, by gradient descent with momentum",
            _Plan(partial(_play, replace(_NONSATURATING, optimizer=_MOMENTUM)), _RATES),
        ),
        "minimax_adam": Arm(
            "control: log(1 - D) with Adam, to compare with the next", _Plan(partial(_play, _MINIMAX), _ADAM_RATES)
        ),
        "nonsaturating_adam": Arm("control: -log D with Adam", _Plan(partial(_play, _NONSATURATING), _ADAM_RATES)),
        "moment_matching": Arm(
            "control: no discriminator, the energy distance of a batch of samples to a batch of data, as many updates "
            "as both networks have above",
            _Plan(_match, (3e-3, 1e-2, 3e-2, 9e-2)),
        ),
        "kernel_density": Arm(
            "control: no network, training points with Gaussian noise of tuned width",
            _Plan(_resample, (0.0003, 0.001, 0.003, 0.01), of="width"),
        ),
    },
    metrics={
        "log_likelihood": Metric.higher("Parzen log-likelihood of test data", 0.5, "nats"),
        "covered": COVERED,
        "distance": DISTANCE,
        "gradient": Metric.higher("norm of the generator's gradient, first 100 steps", 0.05),
    },
    headline="log_likelihood",
    tuned=(
        "the learning rate of both networks, of the control without network the width of the noise: 4 tries an arm and "
        "seed by the Parzen log-likelihood of validation data, a part of the training data that nothing is "
        "trained on; the width of the Parzen window on the same data, of 10"
    ),
    limits=(
        "Points in the plane, or small images, and small fully connected networks: nothing follows for the paper's "
        "images and networks, or for training until nothing changes any more. The momentum is 0.5, not tuned, and "
        "the discriminator has one update a step. A Parzen window says little about samples of many dimensions. The "
        "noise of the control without network ends at a width of 0: where the lowest is chosen, it adds nothing to the "
        "training points themselves."
    ),
    seeds=16,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each learning rate; judge the samples of the one that validation data like best."""
    given = world(setting, most=500, batch_size=128)
    task, plan = given.task, arm.make
    updates = setting.pick(smoke=60, desk=2_000, gpu=60_000)

    def attempt(strength: float) -> _Try:
        drawn = plan.draw(task, strength, updates)
        return _Try(drawn, parzen_bandwidth(drawn.samples, task.validation, _WINDOWS))

    def likelihood(tried: _Try, data: Tensor) -> float:
        return parzen_log_likelihood(tried.drawn.samples, data, tried.window).mean().item()

    tuned = tune(plan.strengths, attempt, lambda tried: likelihood(tried, task.validation), better="higher")
    best = tuned.best.drawn
    judged = given.judge(best.samples, setting.generator("evaluation"))
    third = plan.strengths[2]
    early = (tuned.tries[third] if third in tuned.tries else attempt(third)).drawn.gradients
    return task.outcome(
        tuned,
        best.losses,
        best.samples,
        metrics={
            "log_likelihood": likelihood(tuned.best, task.test),
            "covered": judged["covered"],
            "distance": judged["distance"],
            "gradient": sum(early) / len(early),
        },
        made={**best.made, "likelihood": partial(parzen_log_likelihood, sigma=tuned.best.window)},
        of=plan.of,
        arguments={"on_modes": judged["on_modes"], "reverse_kl": judged["reverse_kl"]},
        curves={"norm of the generator's gradient, by step": [(float(step), norm) for step, norm in enumerate(early)]},
    )
