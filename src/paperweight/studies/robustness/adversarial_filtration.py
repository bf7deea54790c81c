"""Unchanged images that mislead one classifier mislead others of other architectures (Hendrycks et al. 2021).

Once a seed a LeNet, another from another start, a third from shifted images, a perceptron and a residual network learn
eight kinds of characters. The first LeNet is the reference: of images that none has seen, those are kept
that it gets wrong at less than 15% for the right class, and of characters of two further kinds those that it is surest
of. Arms differ in how as many images of each class, and as many anomalies, are chosen. The headline is the accuracy of
perceptron and residual network on the chosen images, of which the paper claims that it is low.

What it can show: whether failures transfer between small networks here, to architectures or to another start alone, and
whether augmentation helps against it. What it cannot: clear images, since nobody has looked at them; the filtered ones
may be such as nobody could read. An accuracy near that on random images would refute the claim. One as low where images
are chosen that are far from the mean of their class would show that no network is needed to find them; one as low on
any errors of the reference, that the ceiling on the probability does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages, translate
from paperweight.errors import InputError
from paperweight.loops import fit_classifier, warmed_cosine
from paperweight.nets import MLP, LeNet, ResNet, evaluating
from paperweight.robustness.adversarial_filtration import (
    area_under_precision_recall,
    area_under_response_rate_accuracy,
    confident_anomalies,
    hard_examples,
    rms_calibration_error,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_OTHERS = ("perceptron", "residual")


@final
@dataclass(frozen=True, eq=False)
class _Judged:
    """What a classifier, the reference or one that looks at pixels alone, makes of images and anomalies."""

    labels: Tensor
    probabilities: Tensor
    of_anomalies: Tensor


Choose = Callable[[_Judged, _Judged, torch.Generator], tuple[Tensor, Tensor]]
"""Scores of images, and of anomalies, of which the highest are chosen; by reference, pixels and chance."""


def _own(judged: _Judged) -> Tensor:
    return judged.probabilities.gather(1, judged.labels[:, None])[:, 0]


def _chance(reference: _Judged, pixels: _Judged, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return (
        torch.rand(len(reference.labels), generator=generator),
        torch.rand(len(reference.of_anomalies), generator=generator),
    )


def _filtered(reference: _Judged, pixels: _Judged, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    hard = torch.zeros(len(reference.labels))
    hard[hard_examples(reference.probabilities, reference.labels).cpu()] = 1
    sure = torch.zeros(len(reference.of_anomalies))
    sure[confident_anomalies(reference.of_anomalies, _anomalies(reference)).cpu()] = 1
    return hard, sure


def _errors(reference: _Judged, pixels: _Judged, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images, anomalies = _chance(reference, pixels, generator)
    sure = reference.of_anomalies.amax(dim=1).cpu()
    wrong = reference.probabilities.argmax(dim=1) != reference.labels
    return images + wrong.cpu(), anomalies + (sure > sure.median())


def _by_pixels(reference: _Judged, pixels: _Judged, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return -_own(pixels).cpu(), pixels.of_anomalies.amax(dim=1).cpu()


STUDY = Study(
    paper="adversarial_filtration",
    question="Do unchanged images that mislead one classifier mislead classifiers of other architectures?",
    claim="On images that a reference gets wrong with confidence, other architectures are far less accurate.",
    arms={
        "random": Arm("random images of each class, random anomalies", _chance),
        "filtered": Arm("what the reference gets wrong below 15%, and the anomalies it is surest of", _filtered),
        "errors": Arm("control: any errors of the reference, anomalies of the surer half", _errors),
        "pixels": Arm("control: images far from their class mean, anomalies near to one; no network", _by_pixels),
    },
    metrics={
        "accuracy": Metric.lower("accuracy of two other architectures", 0.05),
        "another_start": Metric.lower("accuracy of the reference's architecture from another start", 0.05),
        "augmented": Metric.lower("accuracy of that architecture if it learned from shifted images", 0.05),
        "surest": Metric.lower("area under the others' accuracy by response rate", 0.05),
        "calibration": Metric.higher("the others' calibration error", 0.05),
        "anomalies": Metric.lower("area under precision and recall of anomalies, a sixth of all", 0.05),
    },
    headline="accuracy",
    tuned="nothing: networks are alike in every arm; their rates are fixed",
    limits=(
        "Small images of characters, small networks that learned the same images; nobody has looked whether the chosen "
        "images can be read, so that some may be of no class at all, and the anomalies are of two kinds of character."
    ),
    seeds=12,
)


def _anomalies(judged: _Judged) -> int:
    return max(1, len(judged.of_anomalies) // 4)


def run(arm: Arm[Choose], setting: Setting) -> Outcome:
    """Choose images and anomalies, and measure what networks that had no part in it make of them."""
    task = classification(
        setting,
        smoke=(200, 20, 200),
        desk=(3_000, 20, 4_000),
        gpu=(20_000, 20, 10_000),
        default="glyphs-70",
        max_side=14,
    )
    known = task.classes - max(1, task.classes // 5)
    if known < 2:
        raise InputError(f"the images must be of at least 3 classes, one of them for anomalies; got {task.classes}")
    train, test = _of(task.train, known), _of(task.data.test, known)
    unknown = task.data.test.images[task.data.test.labels >= known]
    networks = _networks(task.shape, known, setting)
    networks.load_state_dict(setting.cached("trained", partial(_trained, networks, train, setting)))

    def judged(name: str) -> _Judged:
        with evaluating(networks), torch.no_grad():
            both = torch.cat([test.images, unknown]).split(512)
            found = torch.cat([networks[name](part).softmax(dim=1) for part in both])
        return _Judged(test.labels, found[: len(test)], found[len(test) :])

    reference = judged("reference")
    means = torch.stack([train.images[train.labels == label].mean(dim=0) for label in range(known)]).flatten(1)
    near = [-torch.cdist(images.flatten(1), means) for images in (test.images, unknown)]
    pixels = _Judged(test.labels, near[0].softmax(dim=1), near[1].softmax(dim=1))
    scores, of_anomalies = arm.make(reference, pixels, setting.generator("method"))
    hard = hard_examples(reference.probabilities, reference.labels)
    sizes = torch.bincount(test.labels[hard], minlength=known).tolist()
    places = torch.arange(len(test))
    chosen = torch.cat(
        [
            places[of][scores[of].topk(min(size, int(of.sum()))).indices]
            for size, of in ((size, (test.labels == label).cpu()) for label, size in enumerate(sizes))
        ]
    ).to(test.images.device)
    odd = of_anomalies.topk(_anomalies(reference)).indices.to(test.images.device)
    others = {name: judged(name) for name in (*_OTHERS, "another_start", "augmented")}
    ordinary = torch.randperm(len(test), generator=setting.generator("evaluation"))[: 5 * len(odd)]

    def accuracy(name: str) -> float:
        return (others[name].probabilities.argmax(dim=1) == test.labels)[chosen].double().mean().item()

    def mean(measure: Callable[[Tensor, Tensor], float]) -> float:
        values = []
        for name in _OTHERS:
            sure, answers = others[name].probabilities[chosen].max(dim=1)
            values.append(measure(sure.clamp(0, 1), answers == test.labels[chosen]))
        return sum(values) / len(values)

    surest = [
        area_under_precision_recall(
            -others[name].of_anomalies[odd].amax(dim=1), -others[name].probabilities[ordinary].amax(dim=1)
        )
        for name in _OTHERS
    ]
    return Outcome(
        metrics={
            "accuracy": sum(map(accuracy, _OTHERS)) / len(_OTHERS),
            "another_start": accuracy("another_start"),
            "augmented": accuracy("augmented"),
            "surest": mean(area_under_response_rate_accuracy),
            "calibration": mean(partial(rms_calibration_error, bin_size=20)),
            "anomalies": sum(surest) / len(surest),
        },
        arguments={
            "chosen_images": len(chosen),
            "chosen_anomalies": len(odd),
            "test_images": len(test),
            "training_images": len(train),
            "accuracy_of_reference": (reference.probabilities.argmax(dim=1) == test.labels).double().mean().item(),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images={"chosen": test.images[chosen[:16]], "anomalies": unknown[odd[:16]]},
    )


def _of(part: LabelledImages, known: int) -> LabelledImages:
    return LabelledImages(part.images[part.labels < known], part.labels[part.labels < known])


def _networks(shape: tuple[int, int, int], classes: int, setting: Setting) -> nn.ModuleDict:
    return setting.initialised(
        lambda: nn.ModuleDict(
            {
                "reference": LeNet(shape, classes),
                "another_start": LeNet(shape, classes),
                "perceptron": MLP(shape, classes, hidden=(128, 128)),
                "residual": ResNet(shape, classes, width=setting.pick(smoke=2, desk=6, gpu=16)),
                "augmented": LeNet(shape, classes),
            }
        )
    )


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    return translate(images, torch.randint(-1, 2, (len(images), 2), generator=generator).to(images.device))


def _trained(networks: nn.ModuleDict, train: LabelledImages, setting: Setting) -> dict[str, Tensor]:
    steps, generator = setting.pick(smoke=3, desk=350, gpu=5_000), setting.generator("batches")
    for name, model in networks.items():
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        fit_classifier(
            model,
            optimizer,
            train.images,
            train.labels,
            steps=steps,
            batch_size=32,
            generator=generator,
            augment=_shifted if name == "augmented" else None,
            schedule=warmed_cosine(optimizer, steps),
        )
    return dict(networks.state_dict())
