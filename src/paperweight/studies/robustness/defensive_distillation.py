"""Defensive distillation stops FGSM, and does not stop the Carlini-Wagner attack (Sarkar et al. 2024).

The claim has two halves. The first is accuracy under FGSM, which moves each pixel by 0.1. Distilled logits are many
times larger, so that gradients vanish; but anyone who attacks may divide the logits by 20 or 100 before FGSM, and keep
what fools the network. So the headline is the accuracy that this leaves; what FGSM as it stands leaves beyond it is a
hidden gradient, told beside it. The second half is in the metrics of Carlini-Wagner: the accuracy that its search for
the nearest misclassified image leaves within a distance in norm 2, where a plain network keeps a part of its images,
and the mean distance. It begins at a c that is too small for every arm, for the same reason.

Distilled students and their teachers are trained at one temperature, each with the steps of every other arm, and
deployed at temperature 1. Controls: a student distilled at temperature 1 tells what soft labels do, a network that is
trained on labels at temperature 20 and deployed at 1 tells what scaled logits do alone, and smoothed labels are the
simplest softening. An accuracy that is not above that of plain training would refute the first half, and one that is
as high with the labels at temperature 20 would show that the temperature gives it, and no teacher; an
accuracy under Carlini-Wagner much above that of plain training would refute the second. What it cannot show: anything
about large images or networks.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import evaluate_classifier, tune
from paperweight.nets import MLP
from paperweight.robustness.defensive_distillation import FGSM, CarliniWagnerL2, distillation_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification

_EPS = 0.1
_WITHIN = 0.6
_RATES = (5e-3, 1.5e-2, 5e-2, 1.5e-1, 5e-1, 1.5)
_BATCH = 64


class _Plan(NamedTuple):
    """At which temperature a network is trained on labels, how much these are smoothed, and whether it is a teacher."""

    temperature: float = 1.0
    label_smoothing: float = 0.0
    teaches: bool = False


STUDY = Study(
    paper="defensive_distillation",
    question=(
        "Does a network that is distilled at a high temperature withstand FGSM by more than masked gradients, and "
        "Carlini-Wagner?"
    ),
    claim=(
        "Defensive distillation raises the accuracy under FGSM, with unmasked gradients as well, but not that "
        "under the Carlini-Wagner attack."
    ),
    arms={
        "plain": Arm("trained on labels", _Plan()),
        "distilled": Arm(
            "student of a teacher, both trained at temperature 20 and deployed at 1", _Plan(20.0, teaches=True)
        ),
        "distilled_100": Arm("as distilled, at temperature 100", _Plan(100.0, teaches=True)),
        "distilled_1": Arm("control: student of a teacher, both trained at temperature 1", _Plan(teaches=True)),
        "hot_labels": Arm(
            "control: trained on labels at temperature 20 and deployed at 1, without a teacher", _Plan(20.0)
        ),
        "label_smoothing": Arm(
            "control: trained on labels of which a tenth is spread over all classes", _Plan(label_smoothing=0.1)
        ),
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
        "Small images, one small network, FGSM of one size, Carlini-Wagner with 8 values of c and at most 200 steps "
        "each, at the desk budget on 256 of the test images: nothing follows for large images or networks, or for "
        "stronger attacks."
    ),
    seeds=24,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; attack the test images of the network that is best on validation images."""
    task = classification(
        setting, smoke=(100, 50, 30), desk=(800, 400, 597), gpu=(20_000, 5_000, 2_000), normalised=False
    )
    steps = setting.pick(smoke=40, desk=250, gpu=8_000)
    plan = arm.make
    on_labels = partial(_loss_on_labels, temperature=plan.temperature, label_smoothing=plan.label_smoothing)
    on_teacher = partial(distillation_loss, temperature=plan.temperature)

    def fit(model: nn.Module, rate: float, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Trained:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, labels=targets, loss=loss)

    def train(rate: float) -> Trained:
        model = task.network(partial(MLP, hidden=(128,)))
        if not plan.teaches:
            return fit(model, rate, task.train.labels, on_labels)
        teacher = fit(copy.deepcopy(model), rate, task.train.labels, on_labels).model
        with torch.no_grad():
            soft = teacher.eval()(task.train.images)
        return fit(model, rate, soft, on_teacher)

    tuned = tune(_RATES, train, lambda tried: tried.validated.accuracy, better="higher")
    best = tuned.best
    model, images, labels = best.model.eval(), task.data.test.images, task.data.test.labels
    fgsm = FGSM(_EPS)
    fooled = fgsm(model, images, labels)
    under_fgsm = evaluate_classifier(model, fooled, labels)
    withstood = under_fgsm.correct
    for divisor in (20.0, 100.0):
        attacked = fgsm(nn.Sequential(model, _Divided(divisor)), images, labels)
        withstood = withstood & evaluate_classifier(model, attacked, labels).correct
    carlini_wagner = CarliniWagnerL2(c=1e-3, steps=setting.pick(smoke=20, desk=200, gpu=1_000), binary_search_steps=7)
    searched = slice(setting.pick(smoke=30, desk=256, gpu=2_000))
    nearest = carlini_wagner(model, images[searched], labels[searched])
    distances = (nearest - images[searched]).flatten(1).norm(dim=1)
    missed = evaluate_classifier(model, nearest, labels[searched]).correct
    fallen = best.tested.correct[searched] & ~missed

    def left_within(radius: float) -> float:
        return (missed | (distances > radius)).double().mean().item()

    return task.outcome(
        tuned,
        tested=replace(under_fgsm, correct=withstood),
        metrics={
            "fgsm": under_fgsm.accuracy,
            "fgsm_unmasked": withstood.double().mean().item(),
            "carlini_wagner": left_within(_WITHIN),
            "distance": (distances * fallen).sum().item() / max(int(fallen.sum()), 1),
            "accuracy": best.tested.accuracy,
        },
        made={
            "loss": on_teacher if plan.teaches else on_labels,
            "fgsm": fgsm,
            "carlini_wagner": carlini_wagner,
            "optimizer": best.optimizer,
        },
        arguments={
            "steps": steps,
            "batch_size": _BATCH,
            "images_under_carlini_wagner": len(nearest),
            "carlini_wagner_fails": missed.double().mean().item(),
            "pixels_without_gradient": (fooled == images)[best.tested.correct].double().mean().item(),
        },
        curves={
            "test accuracy under FGSM, by size of change": [
                (eps, evaluate_classifier(model, FGSM(eps)(model, images, labels), labels).accuracy)
                for eps in (0.0, 0.05, 0.1, 0.2, 0.3)
            ],
            "test accuracy under Carlini-Wagner, by distance": [
                (radius, left_within(radius)) for radius in (0.0, 0.3, 0.6, 1.0, 2.0)
            ],
        },
        images={"given": images[:16], "under FGSM": fooled[:16], "under Carlini-Wagner": nearest[:16]},
    )


def _loss_on_labels(logits: Tensor, labels: Tensor, temperature: float, label_smoothing: float) -> Tensor:
    return F.cross_entropy(logits / temperature, labels, label_smoothing=label_smoothing)


@final
class _Divided(nn.Module):
    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.divisor
