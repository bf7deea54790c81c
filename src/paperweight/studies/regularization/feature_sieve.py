"""A network whose simple features are sieved out early relies less on a shortcut (Tiwari and Shenoy 2023).

A small convolutional network learns characters, in training tinted so that three in five have the colour of their class
and the others one drawn at random. In the test all colours are drawn at random. The head is linear, on the mean of all
pixels after the first stage: it can tell a colour and hardly a shape. Each arm tunes one strength on validation images
with colours drawn at random, as the method needs them to be chosen well. Accuracy chosen blind is that of the strength
that is best on validation images with the colours of training: what is left where nobody knows of a shortcut.

What it can show: whether the sieve makes such a network rely less on colour and err less where colour misleads. A test
accuracy not above that of plain training with tuned weight decay would refute the claim. As high a one by erasing with
a head that never learns would show that it need not be known what is erased; as high a one by dropout of channels at
the same place, that no head is needed. Grey images, for which one must know of the colour, are the goal.
"""

from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.data import LabelledImages
from paperweight.loops import Schedule, evaluate_classifier, index_batches, tune
from paperweight.nets import LeNet, evaluating, halved, replace_modules
from paperweight.regularization.feature_sieve import FeatureSieve
from paperweight.studies import (
    ACCURACY,
    Arm,
    Classification,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)
from paperweight.studies.regularization._early import MeanHead, early_place, has_two_layers
from paperweight.studies.regularization._tints import tinted

_RATE = 0.05
_DECAY = 5e-4
_DECAYS = (1e-4, 5e-4, 1e-3, 2e-3)
_FORGET_RATES = (0.03, 0.1, 0.3, 1.0)
_BATCH = 32
_SHARE = 0.6  # of the training images that have the colour of their class


class _Plan(NamedTuple):
    """The strengths tried and what they are of, whether the head learns, and whether images are grey."""

    strengths: tuple[float, ...] = _FORGET_RATES
    of: str = "forget_lr"
    learns: bool = True
    grey: bool = False


@final
class _Passes:
    """The sieve with a linear head after the first layer with weights, pass by pass."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.sieve = _sieve(model, optimizer, inputs, forget_lr=0.01)
        self._data = inputs, labels
        self._steps = max(1, len(inputs) // batch_size)
        self._batches = index_batches(len(inputs), batch_size, generator, inputs.device)

    def step(self) -> Tensor:
        """Train for one pass, and return the mean of its losses."""
        return _losses(self.sieve, self._data, self._batches, self._steps).mean()


def _sieve(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    forget_lr: float,
    untrained: torch.Generator | None = None,
) -> FeatureSieve:
    place, features = early_place(model, inputs[:2])
    with evaluating(model), torch.no_grad():
        head = MeanHead(features, model(inputs[:2]).shape[1])
    if untrained is not None:
        nn.init.normal_(head.linear.weight, std=0.4, generator=untrained)
    rate = _RATE if untrained is None else 0.0
    head_optimizer = SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    return FeatureSieve(model, optimizer, place, head, head_optimizer, forget_lr=forget_lr)


def _losses(
    sieve: FeatureSieve,
    data: tuple[Tensor, Tensor],
    batches: Iterator[Tensor],
    steps: int,
    schedule: Schedule | None = None,
) -> Tensor:
    losses: list[Tensor] = []
    for _, index in zip(range(steps), batches, strict=False):
        losses.append(sieve.step(*(tensor.index_select(0, index) for tensor in data)))
        if schedule is not None:
            schedule.step()
    return torch.stack(losses)


RECIPE = Recipe(
    words="what a linear head tells after the first layer is erased in every 5th step; made for shortcuts; "
    "the rate falls between epochs",
    line='training = FeatureSieve(model, optimizer, "body.2", head, head_optimizer)  # training.step(inputs, labels)',
    training=_Passes,
    fits=has_two_layers,
)

STUDY = Study(
    paper="feature_sieve",
    question="Does a network rely less on a colour that gives the class away, if what is told early is erased?",
    claim="A network trained with a feature sieve errs less than a plain one where a shortcut misleads.",
    arms={
        "plain": Arm(
            "nothing erased, which the method is at forget_every None, with tuned decay", _Plan(_DECAYS, "decay")
        ),
        "sieve": Arm("what a head tells after the first stage erased in every 5th step, at a tuned rate", _Plan()),
        "untrained": Arm("control: the sieve with a head of random weights that never learns", _Plan(learns=False)),
        "dropout": Arm(
            "control: nothing erased; a tuned share of the channels dropped after the first stage",
            _Plan((0.1, 0.2, 0.3, 0.4), "dropout"),
        ),
        "grey": Arm("the goal: grey images, with tuned decay", _Plan(_DECAYS, "decay", grey=True)),
    },
    metrics={
        "accuracy": ACCURACY,
        "accuracy_blind": Metric.higher("test accuracy, chosen blind", 0.01),
        "accuracy_tinted": Metric.higher("test accuracy with the colours of training", 0.01),
        "says_colour": Metric.lower("share of test images taken for the class of their colour", 0.02, "fraction"),
    },
    headline="accuracy",
    tuned=(
        "one strength an arm, 4 tries an arm and seed, by accuracy on validation images with random colours; for "
        "accuracy chosen blind on the same images with the colours of training"
    ),
    limits=(
        "Small images, one small network, one shortcut that a mean over pixels tells at once: nothing follows for "
        "shortcuts that are less simple than what they hide, or for networks that are trained before. The rate, the "
        "head and the steps between are not tuned; the rate and the share of right colours were chosen on other seeds, "
        "so that plain training is at its best rate and has something to lose. The untrained head, which does better "
        "than the one that learns, chose the highest rate in 4 of 8 seeds, so that it may do better still."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each strength; report what the best on validation images does on test images."""
    plan = arm.make
    given = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 1_000, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
        normalised=False,
    )
    parts = tinted(given.data, _SHARE, setting.generator("method"), grey=plan.grey)
    task = Classification(setting, parts.data)
    steps = setting.pick(smoke=6, desk=500, gpu=20_000)

    def train(strength: float) -> Trained:
        model = task.network(halved(LeNet))
        place, _ = early_place(model, task.train.images[:2])
        if plan.of == "dropout":
            model = replace_modules(
                model,
                lambda name, _: name == place,
                lambda part: nn.Sequential(part, nn.Dropout2d(strength)),
                wanted=place,
            )
        decay = strength if plan.of == "decay" else _DECAY
        optimizer = SGD(model.parameters(), lr=_RATE, momentum=0.9, weight_decay=decay)
        schedule = CosineAnnealingLR(optimizer, steps)
        if plan.of != "forget_lr":
            return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule)
        images, labels = task.train.images, task.train.labels
        untrained = None if plan.learns else setting.generator("method")
        sieve = _sieve(model, optimizer, images, strength, untrained)
        batches = index_batches(len(images), _BATCH, setting.generator("batches"), images.device)
        losses = _losses(sieve, (images, labels), batches, steps, schedule)
        arguments = {"steps": steps, "batch_size": _BATCH}
        return Trained(task.data, model, optimizer, losses, {"training": sieve}, arguments)

    def accuracy(tried: Trained, part: LabelledImages) -> float:
        return evaluate_classifier(tried.model, part.images, part.labels).accuracy

    tuned = tune(plan.strengths, train, lambda tried: tried.validated.accuracy, better="higher")
    blind = tuned.by(lambda tried: accuracy(tried, parts.validation_as_trained), better="higher")
    best, test = tuned.best, task.data.test
    return task.outcome(
        tuned,
        of=plan.of,
        metrics={
            "accuracy": best.tested.accuracy,
            "accuracy_blind": blind.best.tested.accuracy,
            "accuracy_tinted": accuracy(best, parts.test_as_trained),
            "says_colour": accuracy(best, LabelledImages(test.images, parts.shown)),
        },
        arguments={"chosen_blind": blind.value},
        curves={f"validation accuracy, by log10 {plan.of}": tuned.curve()},
    )
