"""Training by differentiable bounds makes networks with residual connections provably robust (Mirman et al. 2019).

A small network with convolutions and a residual block learns images of digits; an attacker may change every pixel by a
tenth. The headline is the share of test images that are right and proved to stay so, by boxes or, on the same network
without the layers that change nothing but the bounds, by boxes or by shared errors from the pixels on: every arm is
proved by all of these. What attacks leave right stands beside it, an upper bound of what could be proved.

Plain training is the baseline, of which next to nothing can be proved. Adversarial training asks whether attacks in
training do as well; boxes without shared errors whether the hybrid zonotope is worth its cost; the bounds alone whether
the mix with plain training is. A share proved that is not above that of plain training would refute the claim, one not
above that of boxes that the paper's domain is needed.
"""

import copy
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient, margin_loss
from paperweight.data import LabelledImages
from paperweight.loops import index_batches, tune
from paperweight.robustness.diffai import Ball, Concretize, CorrelateMax, DiffAI, Mix, Point, verify
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification

_RADIUS = 0.1
_RATES = (3e-3, 9e-3, 2.7e-2, 8.1e-2)
_CORRELATED = 8


@final
class _Residual(nn.Module):
    """A convolution, a residual block, a convolution of stride 2, and a linear layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU())
        self.before: nn.Module = nn.Identity()
        self.after: nn.Module = nn.Identity()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(16 * ((height + 1) // 2) * ((width + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.stem(x))
        return self.head(self.down(self.after(torch.relu(x + self.block(x)))))


@final
class _Adversarial:
    """The cross-entropy on attacked images."""

    def __init__(self, attack: ProjectedGradient, generator: torch.Generator) -> None:
        self.attack, self.generator = attack, generator

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        attacked = self.attack(model, inputs, labels, generator=self.generator)
        return Point().loss(model, attacked, labels, progress)


class _Plan(NamedTuple):
    """What a network is trained for, from a generator, and whether its largest reaches become shared errors."""

    goal: Callable[[torch.Generator], Any]
    hybrid: bool = False


def _mixed(generator: torch.Generator) -> Mix:
    return Mix(Point(), Ball(_RADIUS, ramp=0.5), weight=0.5, ramp=0.5)


STUDY = Study(
    paper="diffai",
    question="Of how many images can it be proved that a network trained by differentiable bounds stays right?",
    claim="Training by bounds of a hybrid zonotope, mixed with plain training, makes a network provably robust.",
    arms={
        "plain": Arm("trained on the images", _Plan(lambda _: Point())),
        "diffai": Arm(
            "half plain loss, half that of the worst margins by a hybrid zonotope", _Plan(_mixed, hybrid=True)
        ),
        "boxes": Arm("control: the same by boxes, without shared errors", _Plan(_mixed)),
        "bounds_alone": Arm("control: the worst margins by boxes alone", _Plan(lambda _: Ball(_RADIUS, ramp=0.5))),
        "adversarial": Arm(
            "control: trained on images after five steps of an attack",
            _Plan(
                lambda generator: _Adversarial(
                    ProjectedGradient(_RADIUS, steps=5, step=_RADIUS / 2, keep_going=True), generator
                )
            ),
        ),
    },
    metrics={
        "proved": Metric.higher("share of test images proved to stay right within 0.1", 0.02),
        "attacked": Metric.higher("test accuracy under attack within 0.1", 0.02),
        "accuracy": Metric.higher("test accuracy", 0.01),
    },
    headline="proved",
    tuned=(
        "the learning rate, 4 tries an arm and seed, by the mean of accuracy and of the share proved by boxes on "
        "validation images"
    ),
    limits=(
        "Images of 8 x 8 pixels, one residual block, eight shared errors in training: nothing follows for deep "
        "networks, for which the paper has its layers. Weight and ramps are not tuned. Of what is not proved some may "
        "be robust; the attack tells how much at most. Weighed before on these seeds with the three lower rates, of "
        "which the method chose the highest in three seeds: +0.775, of an interval from 0.728 to 0.815."
    ),
    seeds=6,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; prove and attack the network that is best on validation images."""
    task = classification(
        setting, smoke=(100, 30, 20), desk=(900, 300, 400), gpu=(20_000, 2_000, 2_000), normalised=False
    )
    steps, batch = setting.pick(smoke=10, desk=300, gpu=4_000), 64
    plan, test = arm.make, task.data.test

    def train(rate: float) -> Trained:
        model = task.network(_Residual)
        if plan.hybrid and isinstance(model, _Residual):
            model.before, model.after = CorrelateMax(_CORRELATED), Concretize()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        training = DiffAI(model, optimizer, plan.goal(setting.generator("method")), steps)
        batches = index_batches(len(task.train), batch, setting.generator("batches"))
        losses: list[Tensor] = []
        for chosen in islice(batches, steps):
            losses.append(training.step(task.train.images[chosen], task.train.labels[chosen]))
        return Trained(
            data=task.data,
            model=model.eval(),
            optimizer=optimizer,
            losses=torch.stack(losses),
            arguments={"steps": steps, "batch_size": batch},
        )

    def score(tried: Trained) -> float:
        return (tried.validated.accuracy + _proved(tried.model, task.data.validation).double().mean().item()) / 2

    tuned = tune(_RATES, train, score, better="higher")
    model = tuned.best.model
    bare = copy.deepcopy(model)
    for name, part in list(bare.named_children()):
        if isinstance(part, (Concretize, CorrelateMax)):
            setattr(bare, name, nn.Identity())
    proved = _proved(model, test) | _proved(bare, test) | _proved(bare, test, shared=True)
    attack = ProjectedGradient(_RADIUS, steps=setting.pick(smoke=3, desk=40, gpu=100), starts=2, loss=margin_loss)
    attacked = attack(model, test.images, test.labels, generator=setting.generator("evaluation"))
    with torch.no_grad():
        held = model(attacked).argmax(dim=1) == test.labels
    return task.outcome(
        tuned,
        metrics={
            "proved": proved.double().mean().item(),
            "attacked": held.double().mean().item(),
            "accuracy": tuned.best.tested.accuracy,
        },
        made={"attack": attack},
        arguments={"radius": _RADIUS, "shared_errors_in_training": _CORRELATED if plan.hybrid else 0},
        curves={
            "share of test images proved by boxes, by radius": [
                (radius, _proved(model, test, radius=radius).double().mean().item())
                for radius in (0.02, 0.05, 0.1, 0.15, 0.2)
            ]
        },
        images={"test images": test.images[:8], "attacked": attacked[:8]},
    )


def _proved(model: nn.Module, part: LabelledImages, shared: bool = False, radius: float = _RADIUS) -> Tensor:
    return verify(model, part.images, part.labels, radius, shared=shared)
