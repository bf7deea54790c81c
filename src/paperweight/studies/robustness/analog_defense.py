"""A secret random projection of binarised features withstands attacks without training on any (Cappelli et al. 2021).

A small perceptron learns easy glyphs of 10 pixels; arms differ in the two layers at its end. An image counts as
withstood only if none of five attacks fools the network: gradient ascent of the margin by the gradients that the
network has of itself, by those of an attacker who guesses the projection, and by those of one who knows it and puts a
smooth function in place of signs, of three slopes; changes that were made on a plain network; and Square. What ascent
by the network's own, synthetic gradients leaves is what the defense is published for, and shown beside it.

What it can show: whether such a network is more robust than a plain one, or only without a gradient. An accuracy under
all attacks not above the plain network's would refute the claim here, with the secret as an attacker's only problem.
The attacker who knows the projection breaks the paper's premise; ``square`` and ``transfer``, which need no secret, are
within it.
"""

from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.attacks import MomentumTransfer, ProjectedGradient, SquareAttack, margin_loss, transferred
from paperweight.loops import evaluate_classifier, tune, warmed_cosine
from paperweight.robustness.analog_defense import AnalogHead
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained
from paperweight.studies.robustness._adversarial_training import small_images

_RADIUS = 0.03
_SLOPES = (3.0, 10.0, 30.0)
_RATES = (0.0007, 0.002, 0.006, 0.02, 0.06)


class _Plan(NamedTuple):
    """Whether features are projected; whether they are binarised; whether all gradients in training are true ones."""

    projected: bool = True
    binary: bool = True
    exposed: bool = False


STUDY = Study(
    paper="analog_defense",
    question="Does a secret random projection of binarised features make a network robust, or only hide its gradient?",
    claim="With binarised features behind a secret projection a network is more accurate under all attacks.",
    arms={
        "plain": Arm("two linear layers of the same widths", _Plan(projected=False)),
        "analog": Arm("binarised and projected, layers below learn by direct feedback", _Plan()),
        "projected": Arm("part: projected, not binarised, a random matrix for the backward pass", _Plan(binary=False)),
        "true_gradient": Arm("control: as projected, with the true gradient", _Plan(binary=False, exposed=True)),
    },
    metrics={
        "robust": Metric.higher("test accuracy under all attacks", 0.02),
        "own_gradient": Metric.higher("under gradient ascent by the network's own gradients", 0.02),
        "guessed": Metric.higher("under gradient ascent through a guess of the projection", 0.02),
        "known": Metric.higher("under gradient ascent of who knows the projection, of three slopes", 0.02),
        "square": Metric.higher("under Square", 0.02),
        "transfer": Metric.higher("under changes made on a plain network", 0.02),
        "accuracy": Metric.higher("test accuracy without attack", 0.01),
    },
    headline="robust",
    tuned="the learning rate, 5 tries an arm and seed, a factor of 3 apart, from one grid: by validation accuracy",
    limits=(
        "Small images, one hidden layer below the defense, a simulated projection of 256 to 512 numbers where the "
        "paper's has thousands: nothing follows for large networks, nor for how hard it is to find out the projection."
    ),
    seeds=8,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train at each rate; attack the best on validation images in five ways, and count what withstands them all."""
    plan = arm.make
    task = small_images(setting, smoke=(100, 50, 20), desk=(2_000, 1_000, 600), gpu=(20_000, 4_000, 2_000))
    steps, ascent, queries = setting.pick(smoke=(6, 2, 5), desk=(400, 30, 150), gpu=(5_000, 50, 1_000))
    inner, outer = setting.pick(smoke=(16, 24), desk=(256, 512), gpu=(1_024, 8_000))
    test = task.data.test

    def network(projected: bool) -> nn.Sequential:
        body = [nn.Flatten(), nn.Linear(prod(task.shape), 64), nn.ReLU()]
        head = AnalogHead(64, task.classes, inner, outer, plan.binary, generator=setting.generator("method"))
        if projected:
            return nn.Sequential(*body, head.exposed() if plan.exposed else head)
        return nn.Sequential(*body, head.first, nn.ReLU(), nn.Linear(inner, outer), nn.ReLU(), head.last)

    def train(rate: float, projected: bool = plan.projected) -> Trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init"))
            model = network(projected).to(setting.device)
        optimizer = Adam(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=64, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.accuracy, better="higher")
    model = tuned.best.model.eval().requires_grad_(False)
    head = model.get_submodule("3") if isinstance(model, nn.Sequential) else model
    known = dict.fromkeys(_SLOPES, model)
    guessed = model
    if isinstance(head, AnalogHead) and isinstance(model, nn.Sequential):
        body = list(model)[:3]
        known = {slope: nn.Sequential(*body, head.exposed(slope)) for slope in _SLOPES}
        guessed = nn.Sequential(*body, head.exposed(generator=setting.generator("evaluation")))
    climb = ProjectedGradient(radius=_RADIUS, steps=ascent, loss=margin_loss, starts=2, keep_going=True)
    surrogate = train(0.006, projected=False).model
    attacks = {
        "own_gradient": partial(climb, model),
        "guessed": partial(climb, guessed),
        **{f"known {slope}": partial(climb, each) for slope, each in known.items()},
        "square": partial(SquareAttack(radius=_RADIUS, queries=queries), model),
        "transfer": partial(transferred([surrogate], MomentumTransfer(radius=_RADIUS, loss=margin_loss)), model),
    }

    def left(name: str) -> Tensor:
        changed = attacks[name](test.images, test.labels, generator=setting.generator("evaluation"))
        return evaluate_classifier(model, changed, test.labels).correct

    found = {name: left(name) for name in attacks}
    found["known"] = torch.stack([found.pop(f"known {slope}") for slope in _SLOPES]).all(dim=0)
    found["accuracy"] = tuned.best.tested.correct
    found["robust"] = torch.stack(list(found.values())).all(dim=0)
    return task.outcome(
        tuned,
        metrics={name: right.double().mean().item() for name, right in found.items()},
        made={"attack": climb},
        arguments={"inner": inner, "outer": outer},
        curves={"validation accuracy, by log10 lr": tuned.curve()},
        tested=replace(tuned.best.tested, correct=found["robust"]),
    )
