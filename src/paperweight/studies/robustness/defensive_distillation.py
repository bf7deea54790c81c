"""Defensive distillation stops FGSM, and does not stop the Carlini-Wagner attack (Sarkar et al. 2024).

The claim has two halves. The first is accuracy under FGSM, which moves each pixel by 0.1. Distilled logits are many
times larger, so that gradients vanish; but anyone who attacks may divide the logits by 20 or 100 before FGSM, and keep
what fools the network. So the headline is the accuracy that this leaves; what FGSM as it stands leaves beyond it is a
hidden gradient. The second half is the accuracy that Carlini-Wagner's search for the nearest misclassified image leaves
within a distance, where a plain network keeps a part of its images. It begins at a c too small for every arm.

Students and their teachers train for as many steps each as every other arm. The controls tell what soft labels, scaled
logits and the simplest softening do alone. An accuracy not above plain training's would refute the first half, and one
as high with the labels at temperature 20 would show that the temperature gives it, and no teacher; one under Carlini-
Wagner much above plain training's would refute the second.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import tune
from paperweight.nets import MLP
from paperweight.robustness.defensive_distillation import FGSM, CarliniWagnerL2, distillation_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification
from paperweight.studies.robustness._under_attack import under_attack


class _Plan(NamedTuple):
    """At which temperature a network is trained on labels, how much these are smoothed, and whether it is a teacher."""

    temperature: float = 1.0
    label_smoothing: float = 0.0
    teaches: bool = False


STUDY = Study(
    paper="defensive_distillation",
    question="Does a distilled network withstand FGSM, by more than masked gradients, and the Carlini-Wagner attack?",
    claim="Distillation raises the accuracy under FGSM, with unmasked gradients as well, but not under Carlini-Wagner.",
    arms={
        "plain": Arm("trained on labels", _Plan()),
        "distilled": Arm("student of a teacher, both at temperature 20, deployed at 1", _Plan(20.0, teaches=True)),
        "distilled_100": Arm("as distilled, at temperature 100", _Plan(100.0, teaches=True)),
        "distilled_1": Arm("control: student of a teacher, both trained at temperature 1", _Plan(teaches=True)),
        "hot_labels": Arm("control: trained on labels at temperature 20, deployed at 1, no teacher", _Plan(20.0)),
        "label_smoothing": Arm("control: labels, a tenth of each spread over all classes", _Plan(label_smoothing=0.1)),
    },
    metrics={
        "fgsm": Metric.higher("test accuracy under FGSM as it stands, gradients masked", 0.02),
        "fgsm_unmasked": Metric.higher("test accuracy under FGSM, gradients unmasked: logits / 1, 20 and 100", 0.02),
        "carlini_wagner": Metric.higher("test accuracy under Carlini-Wagner within 0.6", 0.02),
        "distance": Metric.higher("mean distance that Carlini-Wagner needs", 0.05, "norm 2"),
        "accuracy": Metric.higher("test accuracy without attack", 0.01),
    },
    headline="fgsm_unmasked",
    tuned=(
        "the learning rate, of student and teacher alike: 6 tries an arm and seed from one grid, a factor of about 3 "
        "apart, by validation accuracy without attack"
    ),
    limits=(
        "Small images, one small network, FGSM of one size, Carlini-Wagner with 8 values of c, at most 200 steps each, "
        "on 256 test images at the desk budget: nothing follows for large images or networks, or for stronger attacks."
    ),
    seeds=24,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; attack the test images of the network that is best on validation images."""
    task = classification(
        setting, smoke=(100, 50, 30), desk=(800, 400, 597), gpu=(20_000, 5_000, 2_000), normalised=False
    )
    steps, plan = setting.pick(smoke=40, desk=250, gpu=8_000), arm.make
    on_labels = partial(_loss_on_labels, temperature=plan.temperature, label_smoothing=plan.label_smoothing)
    on_teacher = partial(distillation_loss, temperature=plan.temperature)

    def fit(model: nn.Module, rate: float, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Trained:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=64, labels=targets, loss=loss)

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(128,)))
        if not plan.teaches:
            return fit(model, rate, task.train.labels, on_labels)
        teacher = fit(copy.deepcopy(model), rate, task.train.labels, on_labels).model
        with torch.no_grad():
            soft = teacher.eval()(task.train.images)
        return fit(model, rate, soft, on_teacher)

    rates = (5e-3, 1.5e-2, 5e-2, 1.5e-1, 5e-1, 1.5)
    tuned = tune(rates, train, lambda tried: tried.validated.accuracy, better="higher")
    searched, search = setting.pick(smoke=(30, 20), desk=(256, 200), gpu=(2_000, 1_000))
    fgsm, carlini_wagner = FGSM(0.1), CarliniWagnerL2(c=1e-3, steps=search, binary_search_steps=7)
    found = under_attack(tuned.best, fgsm, carlini_wagner, searched=searched)
    return task.outcome(
        tuned,
        tested=found.tested,
        metrics=found.metrics,
        made={"loss": on_teacher if plan.teaches else on_labels, "fgsm": fgsm, "carlini_wagner": carlini_wagner},
        arguments=found.arguments,
        curves=found.curves,
        images=found.images,
    )


def _loss_on_labels(logits: Tensor, labels: Tensor, temperature: float, label_smoothing: float) -> Tensor:
    return F.cross_entropy(logits / temperature, labels, label_smoothing=label_smoothing)
