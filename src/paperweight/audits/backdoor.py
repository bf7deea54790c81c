# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The audit for backdoors: is there a trigger that turns every image to one class, and does its removal work?

For each class the smallest patch and the shortest pattern are looked for that turn images to it; one that is much
smaller than those of the other classes is odd. How odd the oddest class of a clean network is, is told by twins that
the audit trains itself, each on another half of the images: some clean, which set the limit of an alarm, and some with
a planted backdoor, which tell how many of such it finds and whether removal works.

Cost: two searches of some hundred steps in the model and in each twin, and the training of the twins.
"""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from paperweight.audits.backdoor_findings import FORMS, BackdoorAudit, Removal, Traces, Twin, chance
from paperweight.audits.backdoor_pairs import pair_findings
from paperweight.audits.robustness_asking import Judge, differentiable, differs
from paperweight.audits.stages import Progress, Stages
from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.loops import fit_classifier
from paperweight.poisoning import (
    Additive,
    Blend,
    Patch,
    Trigger,
    all_to_one,
    attack_success,
    poison,
    reverse_patterns,
    reverse_triggers,
)

__all__ = ["BackdoorAudit", "audit_backdoor", "half", "planted_trigger", "traces_of", "trained_twin"]

_BATCH, _RATE, _REPAIR_RATE = 64, 2e-3, 1e-3
_POISONED = 0.1  # share of a twin's training images
_MARKED = 0.2  # share of the images that carry the trigger found while it is removed
_FEWEST_TWINS, _SHOWN = 6, 8


@torch.random.fork_rng(devices=[])
def audit_backdoor(
    model: nn.Module,
    clean: LabelledImages,
    training: LabelledImages,
    classes: Sequence[str],
    *,
    make: Callable[[], nn.Module],
    twins: int = 12,
    limit: int = 200,
    steps: int = 300,
    training_steps: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
) -> BackdoorAudit:
    """Look for a backdoor in a classifier.

    Args:
        model: Maps images in [0, 1], (N, C, H, W), to logits (N, classes); left as it is.
        clean: Clean images, half of which it gets right at least; triggers are looked for on the first of them.
        training: Clean images that the twins learn from, and that removal trains with.
        classes: Names of the classes, at least two, each among the images.
        make: Makes a new network of the same kind, drawn from the global random state.
        twins: How many twins are trained clean, and how many with a backdoor, at least 6.
        limit: Clean images that triggers are looked for on, at least 20.
        steps: Steps of each search, at least 10.
        training_steps: Updates of each twin, and of the removal, at least 1.
        seed: What everything random is drawn with.
        progress: Called with words, the number done and of all.

    Returns:
        The audit.

    Raises:
        InputError: If a number is out of range, images are too few, or the model does not belong to them.

    Example:
        >>> draw, labels = torch.Generator().manual_seed(0), torch.arange(240) % 3
        >>> images = 0.2 * torch.rand(240, 1, 4, 4, generator=draw)
        >>> images.flatten(1)[torch.arange(240), labels] += 0.5
        >>> data, make = LabelledImages(images, labels), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> model = make()
        >>> _ = model[1].weight.data.copy_(20 * torch.eye(3, 16))
        >>> _ = model[1].weight.data[2, 15] = 60.0
        >>> found = audit_backdoor(model, data, data, "abc", make=make, twins=6, steps=100, training_steps=150)
        >>> found.verdict, found.suspect
        ('backdoor found', 'c')
    """
    least = {"twins": (twins, _FEWEST_TWINS), "limit": (limit, 20), "steps": (steps, 10)}
    for name, (count, lowest) in (least | {"training_steps": (training_steps, 1)}).items():
        if count < lowest:
            raise InputError(f"{name} must be at least {lowest}, got {count}; leave it out for the default")
    if not 0 <= seed < 2**63 - 1:
        raise InputError(f"seed must be from 0 to 2**63 - 2, got {seed}")
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    started = time.process_time()
    say = Stages(progress, 2 * twins + 3)
    say.next("the model itself")
    if differs(model, clean.images[:2]):
        raise InputError("the model gives other answers when it is asked again; give one that is not random")
    first = LabelledImages(clean.images[:limit], clean.labels[:limit])
    shown = len(set(first.labels.tolist()))
    if shown < len(classes):
        raise InputError(
            f"the first {len(first)} clean images have {shown} of {len(classes)} classes; raise "
            "limit, or give images of each class"
        )
    seen = Judge(model, 1)(clean)
    if 2 * int(seen.right.sum()) < len(clean):
        raise InputError(
            f"{seen.right.double().mean().item():.0%} of the clean images are right; give the network, mean, std and "
            "data that the weights belong to"
        )
    if differentiable(model, clean.images) is not model:
        raise InputError("no gradient comes back from the model; give one that can be differentiated")

    def look(one: nn.Module) -> Traces:
        return traces_of(one, first, len(classes), steps, draw)

    traces = look(model)
    say.next("pairs of classes")
    pairs = pair_findings(model, clean, len(classes))
    clean_traces: list[Traces] = []
    accuracies: list[float] = []
    for _ in range(twins):
        say.next("clean twins")
        twin = trained_twin(make, half(training, draw), training_steps, draw)
        accuracies.append(Judge(twin, 1)(clean).right.double().mean().item())
        clean_traces.append(look(twin))
    planted: list[Twin] = []
    pictures: dict[str, Tensor] = {}
    for number in range(twins):
        say.next("twins with a backdoor")
        form = FORMS[number % len(FORMS)]
        trigger = planted_trigger(form, training.images.shape[1:], draw)
        target = int(torch.randint(len(classes), (1,), generator=draw))
        targets = all_to_one(target, len(classes))
        bad = poison(training.images, training.labels, trigger=trigger, targets=targets, rate=_POISONED, generator=draw)
        twin = trained_twin(make, LabelledImages(bad.images, bad.labels), training_steps, draw)
        found = chance(look_twin := look(twin), clean_traces)
        before = attack_success(twin, clean.images, clean.labels, trigger=trigger, targets=targets)
        repaired = _removed(twin, training, look_twin.trigger(found), training_steps, draw)
        planted.append(
            Twin(
                form=form,
                target=target,
                found=found,
                success=before,
                removal=Removal(
                    Judge(twin, 1)(clean).right.double().mean().item(),
                    Judge(repaired, 1)(clean).right.double().mean().item(),
                    before,
                    attack_success(repaired, clean.images, clean.labels, trigger=trigger, targets=targets),
                ),
            )
        )
        pictures.setdefault(f"planted in a twin: {form}", trigger(first.images[:_SHOWN]))
        if found.target == target:
            pictures.setdefault(f"found in that twin: {form}", look_twin.trigger(found)(first.images[:_SHOWN]))
    say.next("removal")
    found = chance(traces, clean_traces)
    change = traces.trigger(found)
    repaired = _removed(model, training, change, training_steps, draw)
    targets = all_to_one(found.target, len(classes))
    removal = Removal(
        seen.right.double().mean().item(),
        Judge(repaired, 1)(clean).right.double().mean().item(),
        attack_success(model, clean.images, clean.labels, trigger=change, targets=targets),
        attack_success(repaired, clean.images, clean.labels, trigger=change, targets=targets),
    )
    say.next("")
    return BackdoorAudit(
        classes=tuple(classes),
        right=seen.right,
        traces=traces,
        found=found,
        removal=removal,
        clean_twins=tuple(clean_traces),
        clean_accuracies=tuple(accuracies),
        planted=tuple(planted),
        pairs=pairs,
        images={
            "clean images": first.images[:_SHOWN],
            "with the patch found": traces.trigger(found, "patch")(first.images[:_SHOWN]),
            "with the pattern found": traces.trigger(found, "pattern")(first.images[:_SHOWN]),
            **pictures,
        },
        cpu_seconds=time.process_time() - started,
    )


def traces_of(model: nn.Module, images: LabelledImages, classes: int, steps: int, draw: torch.Generator) -> Traces:
    """Look for the smallest patch and the shortest pattern of each class."""
    targets = torch.arange(classes)
    patch = reverse_triggers(model, images.images, images.labels, targets, generator=draw, steps=steps)
    pattern = reverse_patterns(model, images.images, images.labels, targets, generator=draw, steps=steps)
    return Traces(patch, pattern)


def half(images: LabelledImages, draw: torch.Generator) -> LabelledImages:
    """Draw a half of the images, as each twin learns from its own."""
    rows = torch.randperm(len(images), generator=draw)[: (len(images) + 1) // 2]
    return LabelledImages(images.images[rows], images.labels[rows])


def trained_twin(
    make: Callable[[], nn.Module], training: LabelledImages, steps: int, draw: torch.Generator
) -> nn.Module:
    """Train a new network."""
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=draw)))
    model = copy.deepcopy(make()).requires_grad_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    fit_classifier(
        model,
        optimizer,
        training.images,
        training.labels,
        steps=steps,
        batch_size=min(_BATCH, len(training)),
        generator=draw,
    )
    return model


def _removed(
    model: nn.Module, training: LabelledImages, trigger: Trigger, steps: int, draw: torch.Generator
) -> nn.Module:
    """Train a copy further on clean images, of which some carry the trigger found and keep their labels."""
    marked = torch.randperm(len(training), generator=draw)[: round(_MARKED * len(training))]
    images = training.images.clone()
    images[marked] = trigger(images[marked])
    repaired = copy.deepcopy(model).requires_grad_()
    optimizer = torch.optim.AdamW(repaired.parameters(), lr=_REPAIR_RATE)
    fit_classifier(
        repaired,
        optimizer,
        images,
        training.labels,
        steps=steps,
        batch_size=min(_BATCH, len(training)),
        generator=draw,
    )
    return repaired


def planted_trigger(form: str, shape: Sequence[int], draw: torch.Generator) -> Trigger:
    """Draw a trigger of one of `FORMS` for images of shape (C, H, W)."""
    channels, height, width = shape
    if form == "patch":
        side = max(2, min(height, width) // 8)
        corner: list[int] = torch.randint(2, (2,), generator=draw).tolist()
        top, left = (-side if end else 0 for end in corner)
        squares = 1.0 - (torch.arange(side)[:, None] + torch.arange(side)) % 2
        return Patch(squares.expand(channels, side, side), top, left)
    if form == "blend":
        return Blend(torch.rand(channels, height, width, generator=draw), 0.2)
    return Additive(0.1 * (2 * torch.rand(channels, height, width, generator=draw).round() - 1))
