"""UMD tells backdoored classifiers with many targets from clean ones, without clean ones to compare with (ICML 2023).

A detector is asked about nine classifiers: three are clean, six have a backdoor that poisoned training images planted,
from every class to one, between three classes in a circle, and from every class to the next, by a faint pattern that
is added or by a patch. It has ten clean images of each class, and its own threshold. The headline is its balanced
accuracy where the trigger is added, and one of that form is looked for.

The baseline is Neural Cleanse: one trigger a target class, the smallest of them an outlier by the median absolute
deviation. UMD should find the backdoors with many targets that this misses; no gain would refute it. As good a detector
by UMD's own triggers without transferability, from the smallest of each source class, would show that shared triggers
are not what counts; by its way of finding triggers, but for target classes, that pairs are not.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paperweight.backdoor.umd import UMD, PairTriggers, anomaly_score, reverse_additive, reverse_patch
from paperweight.nets import MLP
from paperweight.poisoning import all_to_one, anomaly_index, reverse_patterns, reverse_triggers
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, classification
from paperweight.studies.backdoor._planted import Backdoor, corner_patch, faint_pattern, few_classes, planted

_CLASSES = 6
_CLEAN = 3
_OUTLIER = 2.0
_Pairs = set[tuple[int, int]]


class _Form(NamedTuple):
    """How triggers of a form are looked for: for pairs of classes, for target classes, and the sizes of the latter."""

    of_pairs: Callable[..., PairTriggers]
    of_targets: Callable[..., Any]
    sizes: Callable[[Any], Tensor]


class _Verdict(NamedTuple):
    """Whether a detector says that there is a backdoor, its score, and the pairs of classes that it names."""

    backdoored: bool
    score: float
    pairs: _Pairs


_Detect = Callable[[_Form, nn.Module, Tensor], _Verdict]


def _neural_cleanse(form: _Form, model: nn.Module, images: Tensor) -> _Verdict:
    classes = torch.arange(len(images), device=images.device)
    given = images.flatten(0, 1), classes.repeat_interleave(images.shape[1]), classes
    return _outlier(form.sizes(form.of_targets(model, *given, generator=torch.Generator().manual_seed(0))))


def _by_target(form: _Form, model: nn.Module, images: Tensor) -> _Verdict:
    rest = torch.stack([torch.cat([*images[:label], *images[label + 1 :]]) for label in range(len(images))])
    same = torch.arange(len(images), device=images.device)[:, None].expand(-1, 2)
    return _outlier(form.of_pairs(model, rest, same).sizes)


def _outlier(sizes: Tensor) -> _Verdict:
    """Judge by the smallest of the sizes, one a target class."""
    index, target = anomaly_index(sizes).max().item(), int(sizes.argmin())
    return _Verdict(index > _OUTLIER, index, {(source, target) for source in range(len(sizes)) if source != target})


def _umd(form: _Form, model: nn.Module, images: Tensor) -> _Verdict:
    labels = torch.arange(len(images), device=images.device).repeat_interleave(images.shape[1])
    detector = UMD(form.of_pairs, images_per_class=images.shape[1])
    found = detector.detect(model, images.flatten(0, 1), labels)
    return _Verdict(found.backdoored, found.score, set(found.pairs))


def _smallest_of_each(form: _Form, model: nn.Module, images: Tensor) -> _Verdict:
    found = form.of_pairs(model, images)
    sizes = found.sizes.view(len(images), -1)
    core = [source * sizes.shape[1] + int(of_source.argmin()) for source, of_source in enumerate(sizes)]
    score, threshold = anomaly_score(found.sizes, core)
    return _Verdict(score > threshold, score, {(source, target) for source, target in found.pairs[core].tolist()})


STUDY = Study(
    paper="umd",
    question="Does UMD tell backdoored classifiers, also those with many targets, from clean ones?",
    claim="UMD's balanced accuracy as a detector of backdoors is higher than that of a detector of one target class.",
    arms={
        "neural_cleanse": Arm(
            "Neural Cleanse: the smallest trigger for a class, an outlier among all", _neural_cleanse
        ),
        "umd": Arm("UMD: a trigger a pair of classes, the pairs that share triggers most against the rest", _umd),
        "smallest_of_each": Arm(
            "control: as UMD, but in place of the pairs that share triggers the smallest trigger from each class",
            _smallest_of_each,
        ),
        "by_target": Arm(
            "control: triggers by UMD's descent, but one a target class, judged by the baseline", _by_target
        ),
    },
    metrics={
        "accuracy": Metric.higher("balanced accuracy, triggers added", 0.05),
        "accuracy_patch": Metric.higher("balanced accuracy, patches", 0.05),
        "found": Metric.higher("share of backdoors found, triggers added", 0.05),
        "false_alarms": Metric.lower("share of clean classifiers with an alarm, triggers added", 0.05),
        "overlap": Metric.higher("pairs named and true, of pairs named or true, triggers added", 0.05),
    },
    headline="accuracy",
    tuned="nothing: every threshold is its source's; steps and triggers were set while the study was tried out",
    limits=(
        "Small images of six classes, small fully connected networks trained for a second, three backdoors of two "
        "forms, each looked for in its own form: nothing follows for large networks, for triggers that move with the "
        "image, or for an attacker who knows the detector."
    ),
    seeds=8,
)


def run(arm: Arm[_Detect], setting: Setting) -> Outcome:
    """Train the classifiers of the seed, or take them from the arm before, and ask the detector about each."""
    task = few_classes(
        classification(
            setting,
            smoke=(500, 150, 200),
            desk=(6_000, 600, 2_000),
            gpu=(6_000, 1_000, 4_000),
            default=setting.pick(smoke="digits", desk="glyphs-20", gpu="glyphs-20"),
            normalised=False,
        ),
        _CLASSES,
    )
    steps, each = setting.pick(smoke=50, desk=800, gpu=5_000), setting.pick(smoke=2, desk=10, gpu=10)
    train = partial(planted, task, partial(MLP, hidden=(64,)), steps=steps)
    order = torch.randperm(task.classes, generator=setting.generator("method")).tolist()
    circle, some = dict(zip(order, [*order[1:], order[0]], strict=True)), order[:3]
    targets = (all_to_one(order[0], task.classes), dict(zip(some, [*some[1:], some[0]], strict=True)), circle)
    forms = {
        "added": _Form(
            partial(reverse_additive, steps=setting.pick(smoke=20, desk=400, gpu=400)),
            partial(reverse_patterns, steps=setting.pick(smoke=10, desk=200, gpu=400)),
            lambda found: found.patterns.flatten(1).norm(dim=1),
        ),
        "patch": _Form(
            partial(reverse_patch, steps=setting.pick(smoke=5, desk=100, gpu=400)),
            partial(reverse_triggers, steps=setting.pick(smoke=10, desk=200, gpu=400)),
            lambda found: found.masks.flatten(1).sum(dim=1),
        ),
    }
    triggers = {"added": faint_pattern(task), "patch": corner_patch(task)}
    clean = [train(None, name="clean", number=number) for number in range(_CLEAN)]
    metrics: dict[str, float] = {}
    arguments: dict[str, object] = {"accuracy_of_clean": _mean(of.accuracy for of in clean)}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, form in forms.items():
        backdoored = [train(Backdoor(triggers[name], to), name=name, number=n) for n, to in enumerate(targets)]
        of_clean, of_backdoored = (
            [arm.make(form, of.model, _seen_rightly(of.model, task, each)) for of in models]
            for models in (clean, backdoored)
        )
        false, found = (_mean(verdict.backdoored for verdict in of) for of in (of_clean, of_backdoored))
        if name == "added":
            overlaps = (_overlap(v.pairs, set(to.items())) for v, to in zip(of_backdoored, targets, strict=True))
            metrics |= {"accuracy": (found + 1 - false) / 2, "found": found, "false_alarms": false}
            metrics["overlap"] = _mean(overlaps)
        else:
            metrics["accuracy_patch"] = (found + 1 - false) / 2
        arguments[f"accuracy_{name}"] = _mean(of.accuracy for of in backdoored)
        arguments[f"success_{name}"] = [round(of.success, 3) for of in backdoored]
        arguments[f"found_{name}"] = [verdict.backdoored for verdict in of_backdoored]
        arguments[f"false_alarms_{name}"] = false
        curves |= {
            f"scores of {whose}, {name}": [(float(number), verdict.score) for number, verdict in enumerate(verdicts)]
            for whose, verdicts in (("clean", of_clean), ("backdoored", of_backdoored))
        }
    few = task.data.test.images[:8]
    return Outcome(
        metrics=metrics,
        made={name: form.of_pairs for name, form in forms.items()},
        arguments={
            **arguments,
            "steps": steps,
            "training_images": len(task.train),
            "images_a_class": each,
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves=curves,
        images={"clean": few} | {f"with the trigger, {name}": trigger(few) for name, trigger in triggers.items()},
    )


def _seen_rightly(model: nn.Module, task: Classification, each: int) -> Tensor:
    """Give the first validation images of each class that the model sees as such, (classes, n, C, H, W)."""
    images, labels = task.data.validation.images, task.data.validation.labels
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    return torch.stack([images[right & (labels == label)][:each] for label in range(task.classes)])


def _overlap(named: _Pairs, true: _Pairs) -> float:
    return len(named & true) / len(named | true)


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found)
