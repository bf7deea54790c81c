"""A classifier of neuron activations detects attacks that it has not learned from (Eniser et al. 2020).

Once a seed a perceptron learns easy glyphs of 10 pixels, and is attacked in six ways. Detectors learn from benign
images and from those that projected gradient ascent in norm infinity has changed, and are asked about the other five
attacks, on other images: a single step, ascent in norms 2 and 1, ascent of the margin of twice the size, and the Square
attack. Only benign images that the network sees rightly, and attacked ones that fool it, count. The headline is the
mean area under the curve of hits and false alarms. A detection-aware attacker ascends the network's margin and lowers
the scores of all detectors, which it knows, at once; it succeeds where the network is fooled and no alarm is given, at
5% false alarms.

What it can show: whether activations tell more than the network's outputs do, and whether a pool helps against those
who know it. What it cannot: the detectors that the paper compares with, or deep networks. An area not above that of a
detector of the outputs would refute the claim here. As high a one from the pixels would show that activations are not
needed; from raw activations, that the difference to what is usual for the class is not.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient, SquareAttack, margin_loss, project, steepest_step
from paperweight.data import LabelledImages
from paperweight.loops import evaluate_classifier, fit_classifier, tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.raid_detector import (
    DetectorPool,
    activation_differences,
    activation_values,
    chosen_scores,
    class_means,
    detection_loss,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained
from paperweight.studies.robustness._adversarial_training import small_images

_RADIUS = 0.05
_RATES = (0.002, 0.01, 0.05, 0.25)
_FALSE_ALARMS = 0.05

Look = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Gives what a detector is told of images, by the network, images and the means of activations by class."""


def _outputs(model: nn.Module, images: Tensor, means: Tensor) -> Tensor:
    return model(images).sort(dim=1).values


def _pixels(model: nn.Module, images: Tensor, means: Tensor) -> Tensor:
    return images.flatten(1)


def _raw(model: nn.Module, images: Tensor, means: Tensor) -> Tensor:
    return activation_values(model, images)[1]


def _differences(model: nn.Module, images: Tensor, means: Tensor) -> Tensor:
    outputs, activations = activation_values(model, images)
    return activation_differences(activations, outputs.argmax(dim=1), means)


class _Plan(NamedTuple):
    """What detectors look at, how many they are, and the share of it that each sees."""

    look: Look
    detectors: int = 1
    share: float = 1.0


STUDY = Study(
    paper="raid_detector",
    question="Do neuron activations tell attacked inputs, of attacks that no detector has learned from?",
    claim="Differences of activations detect attacks not learned from more surely than the network's outputs do.",
    arms={
        "outputs": Arm("a detector of the network's sorted logits", _Plan(_outputs)),
        "raid": Arm("a detector of differences of activations to the mean of the class", _Plan(_differences)),
        "pool": Arm("variant: ten detectors of half of the neurons each, one by chance", _Plan(_differences, 10, 0.5)),
        "raw": Arm("control: a detector of activations as they are", _Plan(_raw)),
        "pixels": Arm("control: a detector of the images", _Plan(_pixels)),
    },
    metrics={
        "area": Metric.higher("area under hits by false alarms, of attacks not learned from", 0.02),
        "hits": Metric.higher("their hits at 5% false alarms", 0.03),
        "learned": Metric.higher("area of the attack learned from", 0.02),
        "aware": Metric.lower("success of an attacker who knows the detectors", 0.03),
    },
    headline="area",
    tuned="the detector's learning rate, 4 tries an arm and seed from one grid, by the area on validation images",
    limits=(
        "Small images, one small perceptron, detectors of one hidden layer; none of the arms is a detector of the "
        "state of the art. What activations are compared with, and the pool, are reconstructed from the abstract."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train detectors with each rate; ask the best on validation images about other attacks on test images."""
    plan = arm.make
    task = small_images(setting, smoke=(200, 100, 100), desk=(1_500, 600, 800), gpu=(20_000, 2_000, 5_000))
    model = task.network(partial(MLP, hidden=(64, 64)))
    before, queries, steps = setting.pick(smoke=(60, 10, 4), desk=(300, 100, 300), gpu=(5_000, 1_000, 3_000))
    plain = partial(ProjectedGradient, radius=_RADIUS, steps=10)
    first = plain(keep_going=True)
    others = {
        "one step": plain(steps=1, step=_RADIUS, starts=0),
        "norm 2": plain(radius=_RADIUS * 6, norm=2.0),
        "norm 1": plain(radius=_RADIUS * 40, norm=1.0),
        "margin, twice as far": plain(radius=2 * _RADIUS, loss=margin_loss),
        "squares": SquareAttack(radius=_RADIUS, queries=queries),
    }
    parts = {"train": task.train, "validation": task.data.validation, "test": task.data.test}

    def build() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        task.fit(model, optimizer, steps=before, batch_size=64, schedule=warmed_cosine(optimizer, before))
        draw = setting.generator("evaluation")
        found = {name: first(model, part.images, part.labels, generator=draw) for name, part in parts.items()}
        found |= {
            name: attack(model, parts["test"].images, parts["test"].labels, generator=draw)
            for name, attack in others.items()
        }
        return {f"images {name}": images for name, images in found.items()} | dict(model.state_dict())

    held = setting.cached("network and attacks", build)
    model.load_state_dict({name: held[name] for name in model.state_dict()})
    model.eval().requires_grad_(False)
    means = class_means(activation_values(model, task.train.images)[1], task.train.labels, task.classes)

    def pairs(part: LabelledImages, name: str) -> tuple[Tensor, Tensor]:
        """Give the benign images that are seen rightly, and the attacked ones that fool."""
        changed = held[f"images {name}"]
        benign = evaluate_classifier(model, part.images, part.labels).correct
        fooled = ~evaluate_classifier(model, changed, part.labels).correct
        return part.images[benign], changed[fooled & benign]

    look = partial(plan.look, model)
    benign, attacked = (look(images, means) for images in pairs(task.train, "train"))
    features, told = torch.cat([benign, attacked]), torch.arange(len(benign) + len(attacked)) >= len(benign)
    spread, middle = features.std(dim=0).clamp(min=1e-3), features.mean(dim=0)

    def train(rate: float) -> Trained:
        pool = setting.initialised(
            lambda: DetectorPool(features.shape[1], plan.detectors, plan.share, generator=setting.generator("method"))
        )
        optimizer = torch.optim.Adam(pool.parameters(), lr=rate)
        losses = fit_classifier(
            pool,
            optimizer,
            (features - middle) / spread,
            told.to(features.device),
            steps=steps,
            batch_size=64,
            generator=setting.generator("batches"),
            loss=detection_loss,
            schedule=warmed_cosine(optimizer, steps),
        )
        return Trained(task.data, pool.eval(), optimizer, losses, {"pool": pool}, {"steps": steps, "batch_size": 64})

    def scores(pool: nn.Module, images: Tensor) -> Tensor:
        return pool((look(images, means) - middle) / spread)

    def asked(pool: nn.Module, part: LabelledImages, name: str) -> tuple[Tensor, Tensor]:
        draw = setting.generator("evaluation")
        with torch.no_grad():
            benign, attacked = (chosen_scores(scores(pool, images), draw) for images in pairs(part, name))
        return benign, attacked

    def validated(tried: Trained) -> float:
        return _area(*asked(tried.model, task.data.validation, "validation"))

    tuned = tune(_RATES, train, validated, better="higher")
    pool, test = tuned.best.model, task.data.test
    found = {name: asked(pool, test, name) for name in others}
    with torch.no_grad():
        usual = chosen_scores(
            scores(pool, pairs(task.data.validation, "validation")[0]), setting.generator("evaluation")
        )
    limit = usual.quantile(1 - _FALSE_ALARMS)
    aware = _aware(model, partial(scores, pool), test, limit, steps=setting.pick(smoke=2, desk=20, gpu=100))
    with torch.no_grad():
        passed = chosen_scores(scores(pool, aware), setting.generator("evaluation")) <= limit
    fooled = ~evaluate_classifier(model, aware, test.labels).correct
    areas = {name: _area(*pair) for name, pair in found.items()}
    return task.outcome(
        tuned,
        metrics={
            "area": sum(areas.values()) / len(areas),
            "hits": sum((attacked > limit).double().mean().item() for _, attacked in found.values()) / len(found),
            "learned": _area(*asked(pool, test, "test")),
            "aware": (fooled & passed).double().mean().item(),
        },
        arguments={
            "attacked_images_learned_from": int(told.sum()),
            "features": features.shape[1],
            **{f"area, {name}": area for name, area in areas.items()},
            **{f"fooled, {name}": len(attacked) for name, (_, attacked) in found.items()},
        },
        curves={"validated area, by log10 lr": tuned.curve()},
        tested=evaluate_classifier(model, test.images, test.labels),
    )


def _area(benign: Tensor, attacked: Tensor) -> float:
    """Give the share of pairs in which the attacked image has the higher score, ties counting half."""
    ranked = benign.sort().values
    below = torch.searchsorted(ranked, attacked) + torch.searchsorted(ranked, attacked, right=True)
    return below.double().mean().item() / (2 * max(1, len(benign)))


def _aware(
    model: nn.Module, scores: Callable[[Tensor], Tensor], part: LabelledImages, limit: Tensor, *, steps: int
) -> Tensor:
    """Ascend the margin, where it fools not yet, else lower the mean score, where it raises an alarm."""
    point = part.images.clone()
    for number in range(steps):
        place = point.requires_grad_()
        margins, alarms = margin_loss(model(place), part.labels), scores(place).mean(dim=1) - limit
        loss = (torch.minimum(margins, torch.full_like(margins, 1.0)) - alarms.clamp(min=-1.0)).sum()
        (gradient,) = torch.autograd.grad(loss, place)
        length = 2 * _RADIUS * 40 ** (-number / max(1, steps - 1))
        ahead = steepest_step(gradient, place.detach(), length, math.inf, (0.0, 1.0))
        point = project(ahead, part.images, _RADIUS, math.inf)
    return point
