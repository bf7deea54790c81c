"""A classifier that has unlearned clean images names the target of its backdoor (Li et al. 2024).

Four classifiers of a seed have a backdoor, by a patch or a faint pattern, that leads every class to one; two are clean.
Every arm names a class for each, from 300 clean images. The headline is the share of backdoors whose target is named.
Then each arm's exposed classifier is taken to tell backdoored from clean ones, and to find the units to prune, before
the classifier is trained on those images.

The baseline is Neural Cleanse on the classifier as it is, which names the class with the smallest mask. A share not
above the baseline's would refute the claim. As large a one by weights with noise, until the classifier is as bad, would
show that any damage exposes a backdoor; by the classes of the few clean images that the classifier as it is gets wrong,
that no exposure is needed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from paperweight.backdoor.expose_before_defend import CleanUnlearning, exposure, pruned, recovery_masks
from paperweight.data import LabelledImages
from paperweight.loops import evaluate_classifier, fit_classifier
from paperweight.nets import MLP
from paperweight.poisoning import all_to_one, anomaly_index, attack_success, reverse_triggers
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification
from paperweight.studies.backdoor._planted import Backdoor, corner_patch, faint_pattern, few_classes, planted

_CLASSES = 6
_THRESHOLD = 0.2


class _Named(NamedTuple):
    """The class that an arm names, the score that says how surely there is a backdoor, and the exposed classifier."""

    target: int
    score: float
    exposed: nn.Module


_Name = Callable[[Setting, nn.Module, LabelledImages], _Named]


def _by_masks(setting: Setting, model: nn.Module, clean: LabelledImages) -> _Named:
    found = reverse_triggers(
        model,
        clean.images,
        clean.labels,
        torch.arange(int(clean.labels.max()) + 1, device=clean.labels.device),
        generator=setting.generator("method"),
        steps=setting.pick(smoke=10, desk=200, gpu=400),
    )
    sizes = found.masks.flatten(1).sum(dim=1)
    return _Named(int(sizes.argmin()), anomaly_index(sizes).max().item(), model)


def _by_errors(setting: Setting, model: nn.Module, clean: LabelledImages) -> _Named:
    wrong = clean.images[~evaluate_classifier(model, clean.images, clean.labels).correct]
    found = exposure(model, wrong if len(wrong) else clean.images)
    return _Named(found.target, found.dominance, model)


def _by_exposure(
    expose: Callable[[nn.Module, LabelledImages, float, torch.Generator], nn.Module],
    setting: Setting,
    model: nn.Module,
    clean: LabelledImages,
) -> _Named:
    chance = 1 / (int(clean.labels.max()) + 1)
    exposed = expose(model, clean, chance, setting.generator("method"))
    found = exposure(exposed, clean.images)
    return _Named(found.target, found.dominance, exposed)


def _unlearned(
    random_labels: bool, model: nn.Module, clean: LabelledImages, chance: float, generator: torch.Generator
) -> nn.Module:
    lr = 1e-3 if random_labels else 1e-4
    unlearn = CleanUnlearning(lr=lr, epochs=100, stop_accuracy=chance, random_labels=random_labels)
    pairs = list(zip(clean.images, clean.labels, strict=True))
    return unlearn(model, pairs, [], generator=generator)


def _disturbed(model: nn.Module, clean: LabelledImages, chance: float, generator: torch.Generator) -> nn.Module:
    """Add noise to all weights, in units of each tensor's standard deviation, more until the accuracy is chance."""
    unlearn = CleanUnlearning(lr=0.0, epochs=1)
    for scale in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        exposed = unlearn(model, [(clean.images[0], 0)], [], generator=generator)
        for weight in exposed.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.data += scale * weight.data.std() * noise
        if evaluate_classifier(exposed, clean.images, clean.labels).accuracy <= chance:
            break
    return exposed


STUDY = Study(
    paper="expose_before_defend",
    question="Does a classifier name the target of its backdoor once it has unlearned clean images?",
    claim="The most frequent class of the exposed classifier is the target more often than that of the smallest mask.",
    arms={
        "smallest_mask": Arm("Neural Cleanse on the classifier as it is: the smallest mask", _by_masks),
        "unlearned": Arm(
            "clean unlearning: the most frequent class of the exposed classifier",
            partial(_by_exposure, partial(_unlearned, False)),
        ),
        "random_labels": Arm(
            "variant: exposed by training on random labels", partial(_by_exposure, partial(_unlearned, True))
        ),
        "noise": Arm("control: exposed by noise on all weights", partial(_by_exposure, _disturbed)),
        "errors": Arm("control: the most frequent class of wrong predictions, without exposure", _by_errors),
    },
    metrics={
        "named": Metric.higher("share of backdoors whose target is named", 0.05),
        "told_apart": Metric.higher("AUC of the score, backdoored against clean", 0.05),
        "success": Metric.lower("attack success after pruning and training", 0.05),
        "accuracy": Metric.higher("accuracy on clean images after pruning and training", 0.02),
    },
    headline="named",
    tuned="nothing: rates of unlearning were set while the study was tried out, on other seeds",
    limits=(
        "Small images of six classes, small fully connected networks, two triggers, backdoors of one target, and clean "
        "images of the training's own kind: nothing follows for large networks or texts. Without exposure masks have "
        "nothing to recover: the arms without it prune little, and show what training on clean images alone does."
    ),
    seeds=10,
)


def run(arm: Arm[_Name], setting: Setting) -> Outcome:
    """Train the classifiers of the seed, or take them from the arm before; name targets, and prune."""
    task = few_classes(
        classification(
            setting,
            smoke=(400, 100, 200),
            desk=(6_000, 500, 2_000),
            gpu=(6_000, 500, 4_000),
            default=setting.pick(smoke="digits", desk="glyphs-20", gpu="glyphs-20"),
            normalised=False,
        ),
        _CLASSES,
    )
    steps = setting.pick(smoke=60, desk=800, gpu=5_000)
    train = partial(planted, task, partial(MLP, hidden=(64, 64)), steps=steps)
    clean = [train(None, name="clean", number=number).model for number in range(2)]
    targets = torch.randperm(task.classes, generator=setting.generator("data")).tolist()
    given, test = task.data.validation, task.data.test
    rows: list[dict[str, float]] = []
    scores: list[float] = []
    triggers = {"patch": corner_patch(task), "pattern": faint_pattern(task)}
    for number, name in enumerate(("patch", "pattern", "patch", "pattern")):
        backdoor = Backdoor(triggers[name], all_to_one(targets[number], task.classes))
        of = train(backdoor, name=name, number=number)
        found = arm.make(setting, of.model, given)
        mended = _mended(setting, of.model, found.exposed, given)
        scores.append(found.score)
        rows.append(
            {
                "named": float(found.target == targets[number]),
                "accuracy": evaluate_classifier(mended, test.images, test.labels).accuracy,
                "success": attack_success(
                    mended, test.images, test.labels, trigger=backdoor.trigger, targets=backdoor.targets
                ),
                "accuracy_before": of.accuracy,
                "success_before": of.success,
                "exposed_accuracy": evaluate_classifier(found.exposed, test.images, test.labels).accuracy,
                "exposed_success": attack_success(
                    found.exposed, test.images, test.labels, trigger=backdoor.trigger, targets=backdoor.targets
                ),
            }
        )
    of_clean = [arm.make(setting, model, given).score for model in clean]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    above = [(one > other) + 0.5 * (one == other) for one in scores for other in of_clean]
    return Outcome(
        metrics={
            "named": means.pop("named"),
            "told_apart": sum(above) / len(above),
            "success": means.pop("success"),
            "accuracy": means.pop("accuracy"),
        },
        made={"name": arm.make},
        arguments={
            **means,
            "named_patch": (rows[0]["named"] + rows[2]["named"]) / 2,
            "scores": [round(score, 3) for score in scores],
            "scores_of_clean": [round(score, 3) for score in of_clean],
            "steps": steps,
            "training_images": len(task.train),
            "clean_images": len(given),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images={"clean": test.images[:8]} | {f"with the {n}": put(test.images[:8]) for n, put in triggers.items()},
    )


def _mended(setting: Setting, model: nn.Module, exposed: nn.Module, clean: LabelledImages) -> nn.Module:
    """Prune the units that the exposed classifier can do without, and train on the clean images."""
    masks = recovery_masks(exposed, clean.images, clean.labels, steps=setting.pick(smoke=4, desk=80, gpu=80))
    mended = pruned(model, masks, _THRESHOLD)
    fit_classifier(
        mended,
        torch.optim.Adam(mended.parameters(), lr=1e-3),
        clean.images,
        clean.labels,
        steps=setting.pick(smoke=4, desk=150, gpu=300),
        batch_size=64,
        generator=setting.generator("batches"),
    )
    return mended.eval()
