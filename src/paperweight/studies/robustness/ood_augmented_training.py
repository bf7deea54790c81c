"""Images of other things, labelled uniformly, help adversarial and standard training to generalize (Lee et al. 2021).

A small perceptron learns five kinds of easy glyphs of 10 pixels from 300 images; the other things are glyphs of five
other kinds, on such grounds and crossed by such strokes, too, the half of them of which a classifier of the task is
least confident, as the authors choose theirs. Every arm has as many images a batch, so that the method sees half as
many labelled ones. It is trained twice, at a rate that rises over a tenth of the steps and falls along a cosine: on
attacked images, for the headline, which is the accuracy under gradient ascent of the margin from several starts, and on
images as they are, for the accuracy without attack.

What it can show: whether other images are worth the labelled ones that they displace, in this world. An accuracy under
attack not above that of adversarial training would refute the claim. As high a one with smoothed labels would show that
it takes no other images; with noise, that these need not have any features in common; with shuffled patches of the
training images, that no further images are needed. The Square attack, which sees no gradient, tells whether gradients
are masked.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.attacks import ProjectedGradient
from paperweight.data import Splits
from paperweight.loops import index_batches, tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.ood_augmented_training import OODTraining, least_confident, ood_augmented_loss
from paperweight.studies import Arm, Metric, Outcome, Recipe, Setting, Study, Trained
from paperweight.studies.robustness._adversarial_training import left_by_squares, small_images, withstood
from paperweight.studies.robustness._other_images import GRID, halves, shuffled_patches

_RADIUS = 0.04
_RATES = (0.006, 0.018, 0.054)
_BATCH = 64


class _Plan(NamedTuple):
    """Which other images there are, none for labelled ones alone; and how much labels are smoothed."""

    others: Literal["none", "chosen", "noise", "shuffled"] = "none"
    label_smoothing: float = 0.0


def _with_shuffled(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    others = shuffled_patches(images, generator)
    return torch.cat([images, others]), F.pad(labels, (0, len(others)), value=-1)


def _of_whole_patches(model: nn.Module, data: Splits) -> str:
    short = min(data.shape[1:])
    return "" if short >= GRID else f"it cuts images into patches, and takes at least {GRID} pixels a side, not {short}"


RECIPE = Recipe(
    words="as many images of shuffled patches as there are others in each batch, with the uniform label",
    line="loss = ood_augmented_loss(model(torch.cat([images, others])), F.pad(labels, (0, len(others)), value=-1))",
    data=_with_shuffled,
    loss=lambda samples, classes: lambda logits, labels, index: ood_augmented_loss(logits, labels),
    fits=_of_whole_patches,
)

STUDY = Study(
    paper="ood_augmented_training",
    question="Are images of other things, without labels, worth half of the labelled images of each batch?",
    claim="Adversarial training with images of other things, labelled uniformly, is more accurate under attack.",
    arms={
        "at": Arm("adversarial training: the method at alpha 0, labelled images alone", _Plan()),
        "oat": Arm("half of each batch glyphs of other kinds that look least like the task's", _Plan("chosen")),
        "shuffled": Arm("variant: half of each batch shuffled patches of the training images", _Plan("shuffled")),
        "noise": Arm("control: half of each batch noise", _Plan("noise")),
        "label_smoothing": Arm("control: labels, a tenth of each spread over all classes", _Plan("none", 0.1)),
    },
    metrics={
        "robust": Metric.higher("test accuracy under attack", 0.01),
        "accuracy": Metric.higher("test accuracy without attack", 0.01),
        "standard": Metric.higher("test accuracy without attack of a network trained without attacks", 0.01),
        "square": Metric.higher("test accuracy under Square", 0.02),
    },
    headline="robust",
    tuned=(
        "the learning rate, 3 tries an arm and seed, a factor of 3 apart, from one grid: by validation accuracy under "
        "attack, and for the network without attacks by that without; alpha is the authors' 1"
    ),
    limits=(
        "Small images of five classes, one small perceptron, few images to train on, short training on attacks of few "
        "steps: nothing follows for photographs or deep networks. Other things are drawn as the task's are, nearer to "
        "it than pictures from the web."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with and without attacks at each rate; report what the best on validation images do on test images."""
    plan = arm.make
    whole = small_images(setting, smoke=(120, 60, 60), desk=(1_500, 1_000, 4_000), gpu=(20_000, 4_000, 10_000))
    task, others = halves(whole, setting.pick(smoke=50, desk=300, gpu=10_000))
    steps, ascent = setting.pick(smoke=6, desk=400, gpu=10_000), setting.pick(smoke=2, desk=3, gpu=10)
    images, labels = task.train.images, task.train.labels
    size = _BATCH if plan.others == "none" else _BATCH // 2
    if plan.label_smoothing > 0:
        labels = (1 - plan.label_smoothing) * F.one_hot(labels, task.classes) + plan.label_smoothing / task.classes

    def chosen() -> dict[str, Tensor]:
        model = task.network(partial(MLP, hidden=(64, 64)))
        optimizer = Adam(model.parameters(), lr=0.01)
        task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=warmed_cosine(optimizer, steps))
        return {"index": least_confident(model, others, max(1, len(others) // 2))}

    pool = others[setting.cached("least confident", chosen)["index"]]
    if plan.others == "noise":
        pool = torch.rand(others.shape, generator=setting.generator("method")).to(others)
    elif plan.others == "shuffled":
        pool = shuffled_patches(images, setting.generator("method"))

    def train(rate: float, attack: ProjectedGradient | None) -> Trained:
        model = task.network(partial(MLP, hidden=(64, 64)))
        optimizer, draw = Adam(model.parameters(), lr=rate), setting.generator("method")
        alpha = 0.0 if plan.others == "none" else 1.0
        training = OODTraining(model, optimizer, pool, task.classes, alpha, attack, generator=draw)
        batches = index_batches(len(images), size, setting.generator("batches"), setting.device)
        losses, schedule = list[Tensor](), warmed_cosine(optimizer, steps)
        for _, index in zip(range(steps), batches, strict=False):
            losses.append(training.step(images[index], labels[index]))
            schedule.step()
        arguments = {"steps": steps, "labelled_images_a_batch": size, "other_images": len(pool)}
        return Trained(task.data, model, optimizer, torch.stack(losses), {"training": training}, arguments)

    def validated(tried: Trained) -> float:
        return withstood(setting, tried.model, task.data.validation, _RADIUS, steps=10).accuracy

    attack = ProjectedGradient(radius=_RADIUS, steps=ascent, keep_going=True)
    tuned = tune(_RATES, partial(train, attack=attack), validated, better="higher")
    standard = tune(_RATES, partial(train, attack=None), lambda tried: tried.validated.accuracy, better="higher")
    best, test = tuned.best.model, task.data.test
    starts, (few, queries) = setting.pick(smoke=(1, (20, 10)), desk=(2, (400, 100)), gpu=(5, (1_000, 1_000)))
    found = withstood(setting, best, test, _RADIUS, starts=starts)
    return task.outcome(
        tuned,
        metrics={
            "robust": found.accuracy,
            "accuracy": tuned.best.tested.accuracy,
            "standard": standard.best.tested.accuracy,
            "square": left_by_squares(setting, best, test, _RADIUS, images=few, queries=queries),
        },
        made={"attack": attack},
        more_tuned={"lr without attacks": standard},
        curves={"validation accuracy under attack, by log10 lr": tuned.curve()},
        images={"other images": pool[:16]},
        tested=found,
    )
