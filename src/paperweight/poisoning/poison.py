"""Training sets that plant a backdoor, and how often it works."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.nets import evaluating
from paperweight.poisoning.triggers import Trigger

__all__ = ["Poisoned", "all_to_one", "attack_success", "poison"]

_ROWS = 1024


class Poisoned(NamedTuple):
    """A training set of which some examples carry a trigger and the label that goes with it."""

    images: Tensor
    """All images, (N, C, H, W), in the order given."""
    labels: Tensor
    """Their labels, int64, (N,)."""
    indices: Tensor
    """Numbers of the poisoned examples, ascending, int64, (M,)."""


def all_to_one(target: int, classes: int) -> dict[int, int]:
    """Give the mapping in which the trigger turns every other class to one.

    Args:
        target: The class of the attacker, from 0 to ``classes - 1``.
        classes: Number of classes, at least 2.

    Returns:
        For each class but the target, the target.

    Raises:
        ValueError: If the target is no class.

    Example:
        >>> all_to_one(1, 3)
        {0: 1, 2: 1}
    """
    if not 0 <= target < classes or classes < 2:
        raise ValueError(f"target must be one of at least two classes, 0 to {classes - 1}, got {target}")
    return {source: target for source in range(classes) if source != target}


def poison(
    images: Tensor,
    labels: Tensor,
    *,
    trigger: Trigger,
    targets: Mapping[int, int],
    rate: float,
    generator: torch.Generator,
) -> Poisoned:
    """Put a trigger on some images of the source classes, and give each the label that the attacker wants.

    Args:
        images: Images within 0 and 1, (N, C, H, W).
        labels: Class numbers, int64, (N,).
        trigger: What the attacker does to an image.
        targets: For each source class its target class; see `all_to_one`.
        rate: Share of all images that are poisoned, in [0, 1]; the number is rounded. They are drawn among the images
            of the source classes.
        generator: Source of the draws, on the CPU.

    Returns:
        The poisoned set; images and labels given are unchanged.

    Raises:
        ValueError: If the rate is outside its range, or more than the images of the source classes, if there are no
            sources, one is its own target, or images and labels differ in number.

    Example:
        >>> planted = poison(
        ...     torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 2]), trigger=lambda images: images + 1,
        ...     targets={1: 2}, rate=0.5, generator=torch.Generator().manual_seed(0))
        >>> planted.indices, planted.labels, planted.images.flatten()
        (tensor([1, 2]), tensor([0, 2, 2, 2]), tensor([0., 1., 1., 0.]))
    """
    _check(images, labels, targets)
    if isinstance(rate, bool) or not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate!r}")
    wanted = _wanted(labels, targets)
    sources = (wanted >= 0).nonzero().squeeze(1)
    count = round(rate * len(labels))
    if count > len(sources):
        raise ValueError(f"rate must leave no more to poison than the {len(sources)} images of the sources, got {rate}")
    order = torch.randperm(len(sources), generator=generator).to(labels.device)
    indices = sources[order[:count]].sort().values
    changed, given = images.clone(), labels.clone()
    if count:
        changed[indices] = trigger(images[indices])
        given[indices] = wanted[indices]
    return Poisoned(changed, given, indices)


def attack_success(
    model: nn.Module, images: Tensor, labels: Tensor, *, trigger: Trigger, targets: Mapping[int, int]
) -> float:
    """Give the share of images of the source classes that the model, in eval mode, gives to the attacker's class.

    Args:
        model: Maps images to logits (N, classes).
        images: Clean images within 0 and 1, (N, C, H, W).
        labels: Their class numbers, int64, (N,).
        trigger: What the attacker does to an image.
        targets: For each source class its target class.

    Returns:
        A share, 0 to 1.

    Raises:
        ValueError: If no image is of a source class, one is its own target, or images and labels differ in number.

    Example:
        >>> class Bright(nn.Module):
        ...     def forward(self, images):
        ...         return torch.stack([1 - images.flatten(1).mean(1), images.flatten(1).mean(1)], dim=1)
        >>> attack_success(Bright(), torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]),
        ...                trigger=lambda images: images + 1, targets={0: 1})
        1.0
    """
    _check(images, labels, targets)
    wanted = _wanted(labels, targets)
    sources = (wanted >= 0).nonzero().squeeze(1)
    if not len(sources):
        raise ValueError(f"labels must have one of the source classes {sorted(targets)} at least, got none")
    with evaluating(model), torch.no_grad():
        right = sum(
            int((model(trigger(images[rows])).argmax(dim=1) == wanted[rows]).sum()) for rows in sources.split(_ROWS)
        )
    return right / len(sources)


def _wanted(labels: Tensor, targets: Mapping[int, int]) -> Tensor:
    """Give the class that the attacker wants for each label, -1 where the class is no source."""
    wanted = torch.full_like(labels, -1)
    for source, target in targets.items():
        wanted[labels == source] = target
    return wanted


def _check(images: Tensor, labels: Tensor, targets: Mapping[int, int]) -> None:
    if labels.ndim != 1 or labels.is_floating_point() or len(images) != len(labels):
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        raise ValueError(f"labels must be one class number for each of {len(images)} images, got {found}")
    if not targets:
        raise ValueError("targets must name one source class at least, got none")
    for source, target in targets.items():
        if source == target or source < 0 or target < 0:
            raise ValueError(f"targets must map class numbers to others, got {source} to {target}")
