"""Purifying images by a diffusion model withstands more than adversarial training (Nie et al. 2022).

A small perceptron that was trained as usual sees digits purified by a small diffusion model of the training images; the
baseline is the same perceptron trained on attacked images. Both, and the controls, are attacked in the same way: ascent
of the margin along the gradient of the whole defended model, through every step of the chain, averaged over several
draws of its noise. The headline is the accuracy that is left.

What it can show: whether purification withstands more where an attacker knows all of it, at eight pixels a side, where
noise that drowns a perturbation drowns much of a digit, too. An accuracy not above that of adversarial training would
refute the claim here. As high a one by a single call of the diffusion model, which takes the mean of what the image may
have been, would show that the chain is not needed for it. Attacks that do not know the defense (made on the classifier
alone) or see no gradient (Square) tell what a weaker evaluation would have found; changes in norm 2, which adversarial
training has not seen, are what the paper says it handles badly.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.attacks import ProjectedGradient, margin_loss
from paperweight.generators import ModelSpec
from paperweight.generators.process import add_noise, normal
from paperweight.loops import evaluate_classifier, tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.diffpure import DiffPure, DiscreteScore, signal_share
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, classification
from paperweight.studies.robustness._adversarial_training import fit_attacked, left_by_squares
from paperweight.studies.robustness._digit_diffusion import adaptively_left, trained_diffusion

_RADIUS, _RADIUS_2 = 0.1, 0.6
_BATCH = 64
_PLAIN_RATE = 0.003
_RATES = (0.01, 0.03, 0.1)
_TIMES = (0.03, 0.1, 0.3)
_Defend = Callable[["_World", float], nn.Module]


class _World(NamedTuple):
    """The images, a classifier trained as usual, and the score of the diffusion model."""

    task: Classification
    plain: nn.Module
    score: DiscreteScore


class _Plan(NamedTuple):
    """What is tuned, its grid, and what makes the defended classifier of a value."""

    tuned: str
    grid: Sequence[float]
    defend: _Defend


@final
class _OneStep(nn.Module):
    """Classifies the mean of what the image with noise may have been, by a single call of the score."""

    def __init__(self, model: nn.Module, score: nn.Module, t_star: float, *, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.score, self.t_star, self.generator = model, score, t_star, generator

    def forward(self, images: Tensor) -> Tensor:
        x, share = 2 * images - 1, signal_share(self.t_star)
        z = add_noise(x, normal(x, self.generator), share)
        mean = (z + (1 - share) * self.score(z, z.new_full((len(z),), self.t_star))) / share**0.5
        return self.model((mean + 1) / 2)


def _trained(world: _World, rate: float, attacked: bool = True) -> nn.Module:
    """Train a classifier on images that are attacked, or as they are."""
    task = world.task
    model, steps = task.network(partial(MLP, hidden=(64, 64))), task.setting.pick(smoke=4, desk=500, gpu=10_000)
    optimizer = Adam(model.parameters(), lr=rate)
    schedule = warmed_cosine(optimizer, steps)
    if not attacked:
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule).model
    ascent = task.setting.pick(smoke=1, desk=5, gpu=10)
    attack = ProjectedGradient(_RADIUS, steps=ascent, step=2.5 * _RADIUS / ascent, keep_going=True)
    return fit_attacked(task, model, optimizer, attack=attack, steps=steps, batch_size=_BATCH, schedule=schedule).model


def _purified(world: _World, t_star: float) -> nn.Module:
    setting = world.task.setting
    steps = setting.pick(smoke=2, desk=8, gpu=100)
    return DiffPure(world.plain, world.score, t_star, steps, generator=setting.generator("method"))


def _one_step(world: _World, t_star: float) -> nn.Module:
    return _OneStep(world.plain, world.score, t_star, generator=world.task.setting.generator("method"))


STUDY = Study(
    paper="diffpure",
    question="Does purifying images by diffusion withstand more than adversarial training, if the attacker knows it?",
    claim="More purified images are told rightly, under attacks through the whole chain, than adversarially trained.",
    arms={
        "adversarial": Arm("the classifier is trained on attacked images", _Plan("lr", _RATES, _trained)),
        "diffpure": Arm("diffused to t*, led back by the reverse equation", _Plan("t_star", _TIMES, _purified)),
        "one_step": Arm("control: diffused, then one call of the same score", _Plan("t_star", _TIMES, _one_step)),
        "undefended": Arm("control: no defense", _Plan("lr", _RATES, partial(_trained, attacked=False))),
    },
    metrics={
        "robust": Metric.higher("test accuracy under attack through the whole defense", 0.02),
        "accuracy": Metric.higher("test accuracy without attack", 0.01),
        "norm_2": Metric.higher("test accuracy under the same attack in norm 2", 0.02),
        "transfer": Metric.higher("test accuracy under an attack on the classifier without defense", 0.02),
        "square": Metric.higher("test accuracy under Square", 0.03),
    },
    headline="robust",
    tuned=(
        "the learning rate where a classifier is trained by the arm, else t*, 3 tries an arm and seed, each a factor "
        "of 3 apart, by validation accuracy under attack; the classifier that is purified for was trained at 0.003"
    ),
    limits=(
        "Images of eight pixels a side, a diffusion model of few training images, one small perceptron, steps of a "
        "coarse chain: nothing follows for large images, where neighbouring pixels tell of each other, nor for the "
        "paper's diffusion models. The attack averages few draws of the noise."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Defend with each value of the grid; attack the one that withstands most on validation images."""
    task = classification(
        setting, smoke=(100, 20, 20), desk=(1_000, 150, 300), gpu=(20_000, 500, 2_000), max_side=16, normalised=False
    )
    spec = ModelSpec(
        shape=task.shape,
        arguments={"width": setting.pick(smoke=16, desk=128, gpu=512), "blocks": 2},
        schedule="linear",
        steps=1_000,
    )
    diffusion = trained_diffusion(task, spec, steps=setting.pick(smoke=4, desk=1_500, gpu=50_000))
    world = _World(task, nn.Identity(), DiscreteScore(diffusion))
    plain = task.network(partial(MLP, hidden=(64, 64)))
    plain.load_state_dict(
        setting.cached("plain classifier", lambda: _trained(world, _PLAIN_RATE, attacked=False).state_dict())
    )
    world = world._replace(plain=plain.eval())
    steps, samples = setting.pick(smoke=(1, 2), desk=(10, 4), gpu=(40, 20))

    def validated(model: nn.Module) -> float:
        part = task.data.validation
        return adaptively_left(setting, model, part, _RADIUS, steps=(steps + 1) // 2, samples=2).accuracy

    tuned = tune(arm.make.grid, partial(arm.make.defend, world), validated, better="higher")
    best, test = tuned.best.eval(), task.data.test
    attacked = partial(adaptively_left, setting, best, test, steps=steps, samples=samples)
    found = attacked(_RADIUS)
    alone = ProjectedGradient(_RADIUS, steps=steps, loss=margin_loss, keep_going=True)
    moved = alone(world.plain, test.images, test.labels, generator=setting.generator("evaluation"))
    few, queries = setting.pick(smoke=(10, 5), desk=(100, 100), gpu=(1_000, 1_000))
    return Outcome(
        metrics={
            "robust": found.accuracy,
            "accuracy": task.test(best).accuracy,
            "norm_2": attacked(_RADIUS_2, norm=2.0).accuracy,
            "transfer": evaluate_classifier(best, moved, test.labels).accuracy,
            "square": left_by_squares(setting, best, test, _RADIUS, images=few, queries=queries),
        },
        made={"defended": best},
        tuned={arm.make.tuned: tuned},
        arguments={
            "radius": _RADIUS,
            "radius_in_norm_2": _RADIUS_2,
            "steps_of_the_attack": steps,
            "draws_averaged": samples,
            "accuracy_without_defense": task.test(world.plain).accuracy,
            "training_images": len(task.train),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images={"given": test.images[:16], **_shown(best, test.images[:16])},
        correct=found.correct,
    )


@torch.no_grad()
def _shown(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return {"purified": model.purify(images).clamp(0, 1)} if isinstance(model, DiffPure) else {}
