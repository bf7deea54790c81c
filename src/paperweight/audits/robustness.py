# pyright: reportUnknownMemberType=false
"""The audit of robustness: a classifier on shifted images, under attack with its gradients and without them.

Cost: for 200 images, 40 steps and 500 queries some thousand passes over them, and the training of ten small models;
for proofs up to as many passes as an image has entries.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from paperweight.attacks import (
    AttackLoss,
    MomentumTransfer,
    ProjectedGradient,
    SquareAttack,
    cross_entropy_loss,
    margin_loss,
    transferred,
)
from paperweight.audits.robustness_asking import Judge, astray, differentiable, differs, errors, flat, median_distance
from paperweight.audits.robustness_findings import AttackedImages, Reference, RobustnessAudit
from paperweight.audits.robustness_proofs import Proofs, prove
from paperweight.audits.stages import Progress, Stages
from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.loops import fit_classifier
from paperweight.robustness.data_budget import ShiftSuite, average_robustness
from paperweight.robustness.defensive_distillation import CarliniWagnerL2

__all__ = ["RobustnessAudit", "audit_robustness"]

_PARTS = (81, 27, 9, 3, 1)  # of the training images, which two models beside learn from, of each size
_SURROGATES = 2
_BATCH = 64
_RATE = 2e-3
_REPEATS = 8
_RADII = (0.25, 0.5, 1.0, 2.0, 4.0)
_FAR_STEPS = 100
_NEAREST = 50
_SHOWN = 8
_FEWEST, _FEWEST_LEARNED = 20, 8

Attack = Callable[..., Tensor]


@torch.random.fork_rng(devices=[])
def audit_robustness(
    model: nn.Module,
    test: LabelledImages,
    training: LabelledImages,
    classes: Sequence[str],
    *,
    make: Callable[[], nn.Module],
    radius: float = 8 / 255,
    norm: Literal["inf", "2"] = "inf",
    limit: int = 200,
    steps: int = 40,
    queries: int = 500,
    training_steps: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
) -> RobustnessAudit:
    """Look at what a classifier withstands.

    Args:
        model: Maps images in [0, 1], (N, C, H, W), to logits (N, classes); left as it is.
        test: Images that it has not learned, some of which it gets right.
        training: Images that models beside it learn from, for the curve and for attacks that transfer.
        classes: Names of the classes, at least two.
        make: Makes a new network of the same kind, drawn from the global random state.
        radius: Largest change of an image by an attack, in the norm: above 0, and below that of the whole range.
        norm: Its norm.
        limit: Test images that attacks are tried on, at least 20; half of 20 must be right.
        steps: Steps of attacks by gradients, at least 1.
        queries: Queries for each image of the attack by scores, at least 2.
        training_steps: Updates of each model beside, at least 1.
        seed: What everything random is drawn with.
        progress: Called with words, the number done and of all.

    Returns:
        The audit.

    Raises:
        InputError: If a number is out of range, the model's answers are not finite or all the same, or no test image
            is right.

    Example:
        >>> draw, labels = torch.Generator().manual_seed(0), torch.arange(60) % 2
        >>> images = 0.2 + 0.4 * labels.view(-1, 1, 1, 1) + 0.2 * torch.rand(60, 1, 4, 4, generator=draw)
        >>> data, make = LabelledImages(images, labels), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> model = make()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
        >>> _ = model[1].bias.data.copy_(torch.tensor([8.0, -8.0]))
        >>> found = audit_robustness(model, data, data, ("dark", "bright"), make=make, radius=0.05, queries=20)
        >>> found.accuracy.share, found.held().share, found.verdict
        (1.0, 1.0, 'no alarm')
    """
    whole = 1.0 if norm == "inf" else math.sqrt(test.images[0].numel())
    if norm not in ("inf", "2") or not 0 < radius < whole:
        raise InputError(f"radius must be above 0 and below {whole:g}, in norm inf or 2, got {radius} in norm {norm}")
    least = {
        "limit": (limit, _FEWEST),
        "steps": (steps, 1),
        "queries": (queries, 2),
        "training_steps": (training_steps, 1),
    }
    for name, (count, lowest) in least.items():
        if count < lowest:
            raise InputError(f"{name} must be at least {lowest}, got {count}; leave it out for the default")
    if not 0 <= seed < 2**63 - 1:
        raise InputError(f"seed must be from 0 to 2**63 - 2, got {seed}")
    torch.manual_seed(seed)
    draw, size = torch.Generator().manual_seed(seed), float(norm)
    started = time.process_time()
    say = Stages(progress, 11)
    first = LabelledImages(test.images[:limit], test.labels[:limit])
    say.next("unchanged images")
    random = differs(model, first.images)
    repeats = _REPEATS if random else 1
    judge = Judge(model, repeats)
    clean = judge(test)
    if not clean.right.any():
        raise InputError("no test image is right; give the network, mean, std and data that the weights belong to")
    if clean.classes < 2:
        raise InputError("the model sees one class in all test images; give a model that has learned, its mean and std")
    if clean.right[:limit].sum() < _FEWEST // 2:
        raise InputError(
            f"{int(clean.right[:limit].sum())} of the first {len(first)} test images are right, too few to attack; "
            "raise limit, or give a model that has learned"
        )
    steep = differentiable(model, first.images)
    say.next("models beside it")
    beside = _trained(make, training, training_steps, draw)
    say.next("shifted images")
    suite = ShiftSuite(reference=beside[0][1] if errors(beside[0][1], test) >= _FEWEST else None)
    shifted = suite.natural(test.images, test.labels, draw) | suite.corrupted(test.images, test.labels, draw)
    seen = {name: judge(each) for name, each in shifted.items()}

    def along(loss: AttackLoss, radius: float = radius, steps: int = steps, starts: int = 1) -> ProjectedGradient:
        return ProjectedGradient(
            radius,
            size,
            steps=steps,
            step=None if starts else radius,
            loss=loss,
            starts=starts,
            samples=repeats,
            keep_going=random,
        )

    surrogates = [each for _, each in beside[-_SURROGATES:]]
    attacks: list[tuple[str, str, Literal["white", "black"], Attack]] = [
        ("pgd", f"{steps} steps along the gradient of the cross-entropy", "white", along(cross_entropy_loss)),
        ("margin", f"{steps} steps along the gradient of the margin", "white", along(margin_loss)),
        ("square", f"{queries} random squares, by the scores alone", "black", SquareAttack(radius, size, queries)),
        (
            "transfer",
            f"made on {len(surrogates)} models trained beside it",
            "black",
            transferred(surrogates, MomentumTransfer(radius, size, loss=margin_loss)),
        ),
    ]
    attacked: list[AttackedImages] = []
    changed: dict[str, Tensor] = {}
    for name, words, box, attack in attacks:
        say.next(f"attack {name}")
        changed[name] = attack(steep, first.images, first.labels, generator=draw)
        held = judge(LabelledImages(changed[name], first.labels)).right & clean.right[:limit]
        attacked.append(AttackedImages(name=name, words=words, box=box, held=held))
    say.next("other radii")
    radii = [*(radius * factor for factor in _RADII if radius * factor < whole), whole]

    def after(attack: ProjectedGradient) -> Tensor:
        images = attack(steep, first.images, first.labels, generator=draw)
        return judge(LabelledImages(images, first.labels)).right & clean.right[:limit]

    by_radius = {at: after(along(margin_loss, at, _FAR_STEPS)) for at in radii}
    single = after(along(margin_loss, steps=1, starts=0))
    say.next("nearest images")
    few = clean.right[:limit].nonzero().flatten()[:_NEAREST]
    near = CarliniWagnerL2(steps=100, binary_search_steps=4, lr=0.02)(steep, first.images[few], first.labels[few])
    attacked_images = torch.where(attacked[0].held.view(-1, 1, 1, 1), changed["margin"], changed["pgd"])
    across = ~judge(LabelledImages(near, first.labels[few])).right
    fooled = few[~(attacked[0].held & attacked[1].held)[few]][:_SHOWN]
    original, spoilt = first.images[fooled], attacked_images[fooled]
    say.next("proofs")
    proofs = Proofs({}, "the model is random") if random else prove(model, first, radii[:-1])
    length = radius / 10 if norm == "inf" else radius / (10 * math.sqrt(first.images[0].numel()))
    say.next("")
    return RobustnessAudit(
        radius=radius,
        norm=size,
        classes=tuple(classes),
        labels=test.labels,
        clean=clean.right,
        shifted={name: each.right for name, each in seen.items()},
        references=_references(beside, test, shifted),
        attacked=tuple(attacked),
        by_radius=by_radius,
        single=single,
        flat=flat(steep, first),
        astray=torch.zeros_like(single) if random else astray(steep, first, length, draw),
        proofs=proofs,
        random=random,
        distance=median_distance(model, first.images[few], first.labels[few], near),
        calibration={
            "clean": clean.error,
            **{name: each.error for name, each in seen.items()},
            "attacked": judge(LabelledImages(attacked_images, first.labels)).error,
        },
        images={
            "test images": first.images[:_SHOWN],
            **{name: each.images[:_SHOWN] for name, each in shifted.items()},
            **({"right before an attack": original, "attacked": spoilt} if len(spoilt) else {}),
            **({"what the attack changed": _visible(spoilt - original)} if len(spoilt) else {}),
            **({"nearest of another class": near[across][:_SHOWN]} if across.any() else {}),
        },
        cpu_seconds=time.process_time() - started,
    )


def _trained(
    make: Callable[[], nn.Module], training: LabelledImages, steps: int, draw: torch.Generator
) -> list[tuple[int, nn.Module]]:
    """Train new networks on parts of the images, the smallest first; give the numbers of images, and the models."""
    order = torch.randperm(len(training), generator=draw)
    found: list[tuple[int, nn.Module]] = []
    for part in sorted(2 * _PARTS, reverse=True):
        chosen = order[: max(_FEWEST_LEARNED, len(order) // part)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw)))
            model = copy.deepcopy(make()).requires_grad_()
        fit_classifier(
            model,
            torch.optim.AdamW(model.parameters(), lr=_RATE),
            training.images[chosen],
            training.labels[chosen],
            steps=steps,
            batch_size=min(_BATCH, len(chosen)),
            generator=draw,
        )
        found.append((len(chosen), model))
    return found


def _references(
    beside: Sequence[tuple[int, nn.Module]], test: LabelledImages, shifted: dict[str, LabelledImages]
) -> tuple[Reference, ...]:
    """Give accuracies of the models beside, without the one whose errors are a shifted set."""
    found: list[Reference] = []
    for images, model in beside[1:] if "hard" in shifted else beside:
        judge = Judge(model, 1)
        shares = [judge(each).right.double().mean().item() for each in shifted.values()]
        found.append(Reference(images, judge(test).right.double().mean().item(), average_robustness(shares).item()))
    return tuple(found)


def _visible(changes: Tensor) -> Tensor:
    """Show changes around grey, the largest of each image as black or white."""
    largest = changes.flatten(1).abs().amax(dim=1).clamp(min=1e-9).view(-1, 1, 1, 1)
    return 0.5 + changes / (2 * largest)
