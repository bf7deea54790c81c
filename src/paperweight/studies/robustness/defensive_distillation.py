"""Defensive distillation stops FGSM, and does not stop the Carlini-Wagner attack (Sarkar et al. 2024).

The claim has two halves. The headline is the first: accuracy under FGSM, which moves each pixel by 0.1. The second is
in the metrics of Carlini-Wagner: the accuracy that its search for the nearest misclassified image leaves within a
distance in norm 2, where a plain network keeps a part of its images, and the mean distance. It begins at a c that is
too small for every arm, since distilled logits are many times larger. Anyone who attacks may divide the logits by 20 or
100 before FGSM, and keep what fools the network: what distillation then loses of its gain was a hidden gradient.

Distilled students and their teachers are trained at one temperature, each with the steps of every other arm, and
deployed at temperature 1. Controls: a student distilled at temperature 1 tells what soft labels do, a network that is
trained on labels at temperature 20 and deployed at 1 tells what scaled logits do alone, and smoothed labels are the
simplest softening. An accuracy under FGSM that is not above that of plain training would refute the first half, and
one that is as high with the labels at temperature 20 would take the credit from distillation; an accuracy under
Carlini-Wagner much above that of plain training would refute the second. What it cannot show: anything about large
images or networks.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import best_of, evaluate_classifier, fit_classifier, loss_curve
from paperweight.nets import MLP
from paperweight.robustness.defensive_distillation import FGSM, CarliniWagnerL2, distillation_loss
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="defensive_distillation",
    question="Does a network that is distilled at a high temperature withstand FGSM, and Carlini-Wagner?",
    claim="Defensive distillation raises the accuracy under FGSM, and not that under the Carlini-Wagner attack.",
    arms={
        "plain": "trained on labels",
        "distilled": "student of a teacher, both trained at temperature 20 and deployed at 1",
        "distilled_100": "as distilled, at temperature 100",
        "distilled_1": "control: student of a teacher, both trained at temperature 1",
        "hot_labels": "control: trained on labels at temperature 20 and deployed at 1, without a teacher",
        "label_smoothing": "control: trained on labels of which a tenth is spread over all classes",
    },
    metrics={
        "fgsm": Metric(label="test accuracy under FGSM", unit="", better="higher", minimal_effect=0.02),
        "fgsm_unmasked": Metric(
            label="test accuracy under FGSM on logits / 1, 20 and 100", unit="", better="higher", minimal_effect=0.02
        ),
        "carlini_wagner": Metric(
            label="test accuracy under Carlini-Wagner within 0.6", unit="", better="higher", minimal_effect=0.02
        ),
        "distance": Metric(
            label="mean distance that Carlini-Wagner needs", unit="norm 2", better="higher", minimal_effect=0.05
        ),
        "accuracy": Metric(label="test accuracy without attack", unit="", better="higher", minimal_effect=0.01),
    },
    headline="fgsm",
    tuned=(
        "the learning rate, of student and teacher alike: 4 tries an arm and seed from one grid, by validation "
        "accuracy without attack"
    ),
    limits=(
        "Small images, one small network, FGSM of one size, Carlini-Wagner with 8 values of c and at most 200 steps "
        "each: nothing follows for large images or networks, or for stronger attacks."
    ),
)

_EPS = 0.1
_WITHIN = 0.6
_RATES = (5e-3, 1.5e-2, 5e-2, 1.5e-1)
_BATCH = 64
_SMOOTHING = 0.1
_TEMPERATURES = {"distilled": 20.0, "distilled_100": 100.0, "distilled_1": 1.0, "hot_labels": 20.0}


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each rate; attack the test images of the network that is best on validation images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=800, gpu=20_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=30, desk=128, gpu=2_000),
        max_side=32,
    )
    steps = setting.pick(smoke=40, desk=250, gpu=8_000)
    temperature = _TEMPERATURES.get(arm, 1.0)
    images, labels = data.train.images, data.train.labels

    def fit(model: nn.Module, rate: float, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        batches = setting.generator("batches")
        return fit_classifier(
            model, optimizer, images, targets, steps=steps, batch_size=_BATCH, generator=batches, loss=loss
        )

    def hot(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            logits / temperature, targets, label_smoothing=_SMOOTHING if arm == "label_smoothing" else 0.0
        )

    def train(rate: float) -> tuple[nn.Module, Tensor]:
        model = setting.network(data.shape, len(data.classes), default=partial(MLP, hidden=(128,)))
        if not arm.startswith("distilled"):
            return model, fit(model, rate, labels, hot)
        teacher = copy.deepcopy(model)
        fit(teacher, rate, labels, hot)
        with torch.no_grad():
            soft = teacher.eval()(images)
        return model, fit(model, rate, soft, partial(distillation_loss, temperature=temperature))

    tries = {rate: train(rate) for rate in _RATES}

    def validation(rate: float) -> float:
        return evaluate_classifier(tries[rate][0], data.validation.images, data.validation.labels).accuracy

    rate = best_of(_RATES, validation, better="higher")
    model, losses = tries[rate]
    model.eval()
    given, truth = data.test.images, data.test.labels
    fooled = FGSM(_EPS)(model, given, truth)
    under_fgsm = evaluate_classifier(model, fooled, truth)
    withstood = under_fgsm.correct
    for divisor in (20.0, 100.0):
        attacked = FGSM(_EPS)(nn.Sequential(model, _Divided(divisor)), given, truth)
        withstood = withstood & evaluate_classifier(model, attacked, truth).correct
    nearest = CarliniWagnerL2(c=1e-3, steps=setting.pick(smoke=20, desk=200, gpu=1_000), binary_search_steps=7)(
        model, given, truth
    )
    distances = (nearest - given).flatten(1).norm(dim=1)
    missed = evaluate_classifier(model, nearest, truth).correct
    right = evaluate_classifier(model, given, truth)
    fallen = right.correct & ~missed
    return Outcome(
        metrics={
            "fgsm": under_fgsm.accuracy,
            "fgsm_unmasked": withstood.double().mean().item(),
            "carlini_wagner": (missed | (distances > _WITHIN)).double().mean().item(),
            "distance": (distances * fallen).sum().item() / max(int(fallen.sum()), 1),
            "accuracy": right.accuracy,
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "steps": steps,
            "temperature": temperature,
            "eps": _EPS,
            "carlini_wagner_fails": missed.double().mean().item(),
            "pixels_without_gradient": (fooled == given)[right.correct].double().mean().item(),
            "training_images": len(data.train),
            "test_images": len(data.test),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "test accuracy under FGSM, by size of change": [
                (eps, evaluate_classifier(model, FGSM(eps)(model, given, truth), truth).accuracy)
                for eps in (0.0, 0.05, 0.1, 0.2, 0.3)
            ],
            "test accuracy under Carlini-Wagner, by distance": [
                (radius, (missed | (distances > radius)).double().mean().item()) for radius in (0.0, 0.3, 0.6, 1.0, 2.0)
            ],
        },
        images={"given": given[:16], "under FGSM": fooled[:16], "under Carlini-Wagner": nearest[:16]},
        correct=under_fgsm.correct,
    )


class _Divided(nn.Module):
    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.divisor
