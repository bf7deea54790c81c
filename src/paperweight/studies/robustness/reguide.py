"""Classes that a model suggests for each image help it to tell images of other classes (Kim et al. 2024).

Not tested here: models that write, and how they are asked. A small model of two towers, for images and for names, takes
the place of one: it learned all concepts of a world of coloured shapes and can be asked for names that are near or far,
and for confidences. Fifteen concepts are the known classes, the others are out of them. The headline is how well the
score tells images of known from images of other classes, as the area under the ROC curve.

What it can show: whether names that depend on the image are worth more than names chosen once, and which kind is. An
area not above that of the known classes and the rejected class alone would refute the claim here. As high a one with as
many names at random, the same for all images, would show that the image need not be asked; with all names at once, that
suggesting them saves no more than words. ``foreign`` is the area for handwritten digits, which no name fits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from paperweight.data import captioned_digits, captioned_shapes
from paperweight.robustness.reguide import REJECTED, Judged, filter_names, judge_confidences, reflexive_guidance
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.robustness._two_towers import NAMES, NOISE, concept_numbers, fitted_towers, same_concept

_KNOWN = 15


class _Plan(NamedTuple):
    """How many near, far and random names; whether names of known classes in other words go."""

    near: int = 0
    far: int = 0
    random: int = 0
    filtered: bool = True


STUDY = Study(
    paper="reguide",
    question="Do classes that a model suggests for each image help it to tell images of classes it was not given?",
    claim="With suggested classes the score tells images of other classes better than with the known classes alone.",
    arms={
        "known": Arm("the known classes and the rejected one", _Plan()),
        "reguide": Arm("and 20 near and 20 far names suggested for the image", _Plan(20, 20)),
        "near": Arm("part: 20 near names alone", _Plan(near=20)),
        "far": Arm("part: 20 far names alone", _Plan(far=20)),
        "random": Arm("control: 40 names at random, the same for all images", _Plan(random=40)),
        "all": Arm("control: all names there are", _Plan(random=len(NAMES))),
        "unfiltered": Arm("control: as reguide, known classes in other words stay", _Plan(20, 20, filtered=False)),
    },
    metrics={
        "auroc": Metric.higher("area under the ROC curve, other classes", 0.01),
        "foreign": Metric.higher("the same for images that no name fits", 0.01),
        "accuracy": Metric.higher("accuracy among the known classes", 0.01),
        "names": Metric.lower("names asked about an image", 1.0),
    },
    headline="auroc",
    tuned="nothing; the rejected class has the same similarity to every image, halfway to the largest there is",
    limits=(
        "Sixty concepts that the model all knows, names of three words, confidences that are numbers and no text: "
        "nothing follows for models that write, whose suggestions and confidences may contradict each other."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train the model, and ask it about images of known, of other, and of no classes."""
    plan = arm.make
    train, test, steps = setting.pick(smoke=(100, 60, 10), desk=(4_000, 1_200, 600), gpu=(20_000, 5_000, 5_000))
    source = setting.generator("data")
    known, asked = captioned_shapes(train, generator=source), captioned_shapes(test, generator=source)
    towers = fitted_towers(known.images, concept_numbers(known.labels), steps, source, setting.stream("init"))
    numbers = concept_numbers(asked.labels)
    order = torch.randperm(len(NAMES) // 2, generator=source)
    classes = [NAMES[number] for number in order[:_KNOWN].tolist()]
    inside = torch.isin(numbers, order[:_KNOWN])
    digits = captioned_digits(test // 4, generator=source).images
    foreign = F.interpolate(digits, size=asked.images.shape[2:], mode="bilinear").expand(-1, 3, -1, -1)
    drawn = torch.randperm(len(NAMES), generator=setting.generator("method"))[: plan.random].tolist()
    fixed = filter_names([NAMES[place] for place in drawn], classes, same_concept)
    count = 0

    def judged(row: Tensor) -> Judged:
        nonlocal count
        if plan.random:
            names = (*classes, *fixed, REJECTED)
            count += len(names)
            return judge_confidences(towers.confidences(row, names), classes)
        same = same_concept if plan.filtered else lambda one, other: False
        found = reflexive_guidance(towers, row, classes, plan.near, plan.far, same)
        count += len(classes) + len(found.suggested) + 1
        return found

    noise = setting.generator("evaluation")

    def ask(images: Tensor) -> list[Judged]:
        noisy = images + NOISE * torch.randn(images.shape, generator=noise)
        with torch.no_grad():
            return [judged(row) for row in towers(noisy)]

    found = ask(asked.images)
    scores = torch.tensor([each.ood_score for each in found], dtype=torch.float64)
    far_off = torch.tensor([each.ood_score for each in ask(foreign)], dtype=torch.float64)
    right = torch.tensor([each.label == NAMES[number] for each, number in zip(found, numbers.tolist(), strict=True)])

    def area(outside: Tensor) -> float:
        both = torch.cat([scores[inside], outside])
        truth = torch.cat([torch.zeros(int(inside.sum())), torch.ones(len(outside))])
        return float(roc_auc_score(truth.numpy(), both.numpy()))

    suggested = [name for each in found for name in each.suggested]
    return Outcome(
        metrics={
            "auroc": area(scores[~inside]),
            "foreign": area(far_off),
            "accuracy": right[inside].double().mean().item(),
            "names": count / (len(asked) + len(foreign)),
        },
        arguments={
            "training_images": train,
            "steps": steps,
            "known_images": int(inside.sum()),
            "other_images": int((~inside).sum()),
            "foreign_images": len(foreign),
            "suggested_names_in_all": len(set(suggested)),
        },
        images={"known": asked.images[inside][:8], "other": asked.images[~inside][:8], "foreign": foreign[:8]},
    )
