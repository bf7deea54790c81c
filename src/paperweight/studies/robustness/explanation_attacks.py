"""An attack can change the class and leave the explanation as it was (Vadillo et al. 2021).

Once a seed a perceptron learns easy glyphs of 10 pixels. Of the test images that it sees rightly, each is led to the
next class, within a ball of norm infinity. What a person would check is the gradient of the logit of the class that is
given; an attack passes unnoticed where the wrong class is given and this map has a cosine of at least 0.5 with that of
the image as it was. The headline is the share of such images.

What it can show: whether class and map can be changed each on its own in such a network. What it cannot: whether people
are deceived. A share not above that of the attack on the class alone would refute the claim. As high a share where that
attack stops as soon as the class is reached would show that small changes suffice; without softplus, that bent ReLUs
are not needed. Gradients times inputs, which no attack is aimed at, tell whether another explanation would show it.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.explanation_attacks import JointAttack, explanation_distance, input_gradient
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.robustness._adversarial_training import small_images

_RADIUS = 0.15
_STEPS = (0.0013, 0.004, 0.012, 0.04, 0.12, 0.36)
_LAM = 5.0
_BETA = 10.0
_ENOUGH = 0.5

Attack = Callable[[nn.Module, Tensor, Tensor, Tensor, int, float], Tensor]
"""Changes inputs, by the model, inputs, wrong classes, maps of images of these classes, steps and their length."""


def _class_alone(model: nn.Module, inputs: Tensor, labels: Tensor, others: Tensor, steps: int, step: float) -> Tensor:
    return JointAttack(_RADIUS, steps, step, lam=0.0)(model, inputs, labels)


def _joint(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    others: Tensor,
    steps: int,
    step: float,
    beta: float | None = _BETA,
) -> Tensor:
    return JointAttack(_RADIUS, steps, step, lam=_LAM, beta=beta)(model, inputs, labels)


def _fitting(model: nn.Module, inputs: Tensor, labels: Tensor, others: Tensor, steps: int, step: float) -> Tensor:
    return JointAttack(_RADIUS, steps, step, lam=_LAM, beta=_BETA)(model, inputs, labels, others)


def _stopping(model: nn.Module, inputs: Tensor, labels: Tensor, others: Tensor, steps: int, step: float) -> Tensor:
    attack = ProjectedGradient(radius=_RADIUS, steps=steps, step=step, starts=0, targeted=True)
    return attack(model, inputs, labels)


STUDY = Study(
    paper="explanation_attacks",
    question="Can an attack give a wrong class, and leave the explanation as it was?",
    claim="Attacks on class and explanation at once keep the old explanation where attacks on the class change it.",
    arms={
        "class": Arm("targeted gradient descent for the class alone: the attack at no weight", _class_alone),
        "joint": Arm("for the class, and for the explanation of the image as it was", _joint),
        "fitting": Arm("variant: for the class, and for the mean explanation of images of it", _fitting),
        "stopping": Arm("control: for the class alone, and no further than that", _stopping),
        "sharp": Arm("control: as joint, with gradients of the network with ReLU", partial(_joint, beta=None)),
    },
    metrics={
        "unnoticed": Metric.higher("share of images of the wrong class and with their old explanation", 0.02),
        "fooled": Metric.higher("share of images of the wrong class", 0.02),
        "kept": Metric.higher("mean cosine with the old explanation", 0.02),
        "supported": Metric.higher("mean cosine with the mean explanation of images of the wrong class", 0.02),
        "times_input": Metric.higher("mean cosine with the old gradient times input", 0.02),
    },
    headline="unnoticed",
    tuned=(
        "the length of a step, 6 tries an arm and seed from one grid, by the share of validation images; the largest "
        "is longer than two radii, from where on length changes nothing"
    ),
    limits=(
        "Small images, one small perceptron, gradients as explanations; whether a person would notice is not measured, "
        "and a cosine of 0.5 as the bound is ours. Weight 5 and sharpness 10 are fixed by trials on other seeds. "
        "Weighed before on these seeds with steps from 0.004 to 0.12, at whose edges three arms stood: +0.095, of an "
        "interval from 0.074 to 0.116."
    ),
    seeds=16,
)


def run(arm: Arm[Attack], setting: Setting) -> Outcome:
    """Attack with each length of step; report what the best on validation images does to test images."""
    task = small_images(setting, smoke=(100, 30, 30), desk=(1_500, 200, 800), gpu=(20_000, 1_000, 5_000))
    model = task.network(partial(MLP, hidden=(64, 64)))
    before, steps = setting.pick(smoke=(30, 2), desk=(300, 40), gpu=(5_000, 100))

    def trained() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        task.fit(model, optimizer, steps=before, batch_size=64, schedule=warmed_cosine(optimizer, before))
        return dict(model.state_dict())

    model.load_state_dict(setting.cached("trained", trained))
    model.eval()
    train = task.train
    maps = input_gradient(model, train.images, train.labels)
    usual = torch.stack([maps[train.labels == label].mean(dim=0) for label in range(task.classes)])

    def seen_rightly(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            right = model(images).argmax(dim=1) == labels
        return images[right], labels[right]

    def attacked(images: Tensor, labels: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
        wrong = (labels + 1) % task.classes
        changed = arm.make(model, images, wrong, usual[wrong], steps, step)
        with torch.no_grad():
            given = model(changed).argmax(dim=1)
        kept = 1 - explanation_distance(input_gradient(model, changed, given), input_gradient(model, images, labels))
        return changed, given == wrong, kept

    def unnoticed(fooled: Tensor, kept: Tensor) -> Tensor:
        return fooled & (kept >= _ENOUGH)

    validation, test = (seen_rightly(part.images, part.labels) for part in (task.data.validation, task.data.test))
    tuned = tune(
        _STEPS,
        lambda step: attacked(*validation, step)[1:],
        lambda found: unnoticed(*found).double().mean().item(),
        better="higher",
    )
    images, labels = test
    changed, fooled, kept = attacked(images, labels, tuned.value)
    with torch.no_grad():
        given = model(changed).argmax(dim=1)
    new, old = input_gradient(model, changed, given), input_gradient(model, images, labels)
    supported = 1 - explanation_distance(new, usual[(labels + 1) % task.classes])
    times_input = 1 - explanation_distance(new * changed, old * images)
    passed = unnoticed(fooled, kept)
    return Outcome(
        metrics={
            "unnoticed": passed.double().mean().item(),
            "fooled": fooled.double().mean().item(),
            "kept": kept.double().mean().item(),
            "supported": supported.double().mean().item(),
            "times_input": times_input.double().mean().item(),
        },
        tuned={"step": tuned},
        arguments={
            "radius": _RADIUS,
            "steps": steps,
            "accuracy": task.test(model).accuracy,
            "attacked_images": len(images),
            "training_images": len(train),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves={"share of validation images, by log10 of the length of a step": tuned.curve()},
        images={"images": images[:10], "attacked": changed[:10], "old maps": _shown(old), "new maps": _shown(new)},
    )


def _shown(maps: Tensor) -> Tensor:
    few = maps[:10]
    return 0.5 + 0.5 * few / few.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
