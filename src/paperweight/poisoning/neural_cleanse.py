"""Triggers recovered from a classifier: the smallest patch or pattern that turns images to each class (Neural Cleanse).

Source:
    B. Wang, Y. Yao, S. Shan, H. Li, B. Viswanath, H. Zheng, B. Y. Zhao, "Neural Cleanse: Identifying and Mitigating
    Backdoor Attacks in Neural Networks", 2019 IEEE Symposium on Security and Privacy,
    https://doi.org/10.1109/SP.2019.00031, sections IV and V.

Deviations:
    the triggers of all classes are looked for at once, each with a weight of its size of its own; what counts is the
    smallest of those that succeeded, and where none did the one that succeeded most; images of the class itself do not
    count; `reverse_patterns` looks in the same way for a pattern that is added, measured by its Euclidean length
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["ReversedPatterns", "ReversedTriggers", "anomaly_index", "reverse_patterns", "reverse_triggers"]

_EVERY = 10  # steps after which the weights of the sizes change
_CHUNK = 1024


class ReversedTriggers(NamedTuple):
    """For each class that was asked for, what turns images to it: (1 - mask) image + mask pattern."""

    masks: Tensor
    """Masks, (K, 1, H, W), within 0 and 1."""
    patterns: Tensor
    """Patterns, (K, C, H, W), within 0 and 1."""
    success: Tensor
    """Share of the images, among those of other classes, that they turned to the class, (K,)."""


class ReversedPatterns(NamedTuple):
    """For each class that was asked for, what turns images to it when it is added, and the sum clipped to 0 and 1."""

    patterns: Tensor
    """Patterns, (K, C, H, W), within -1 and 1."""
    success: Tensor
    """Share of the images, among those of other classes, that they turned to the class, (K,)."""


def reverse_triggers(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    success: float = 0.95,
    steps: int = 400,
    rate: float = 0.1,
    batch: int = 32,
) -> ReversedTriggers:
    """Look for the smallest mask and its pattern that turn images of other classes to each of some classes.

    Adam lowers cross-entropy plus a weight times the sum of the mask. After every tenth step the weight of a class
    grows by half where its success over these steps was high enough, and falls by 1.5 ** 1.5 where it was not.

    Args:
        model: Maps images to logits (N, classes); in eval mode meanwhile, its weights stay.
        images: Clean images within 0 and 1, (N, C, H, W).
        labels: Their class numbers, int64, (N,).
        targets: Classes to look for, int64, (K,).
        generator: Source of start and batches, on the CPU.
        success: Share of the images of a batch that must turn, above 0 and at most 1; the source has 0.99.
        steps: Number of steps, at least 10.
        rate: Learning rate of Adam, above 0.
        batch: Images a step and class, at least 1.

    Returns:
        Mask, pattern and success of each class.

    Raises:
        ValueError: If a number is outside its range, or for a class there is no image of another.

    Example:
        The model looks at one pixel alone, and so does the trigger.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 0, 0, -9], [0, 0, 0, 9]]))
        >>> _ = model[1].bias.data.copy_(torch.tensor([4.0, -4]))
        >>> found = reverse_triggers(model, torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64),
        ...                          torch.tensor([1]), generator=torch.Generator().manual_seed(0))
        >>> found.success.item(), int(found.masks.flatten().argmax()), found.patterns.flatten()[3].item() > 0.8
        (1.0, 3, True)
        >>> found.masks.flatten()[:3].sum().item() < 0.1
        True
    """
    others = _others(images, labels, targets, success, steps, rate, batch)
    channels, *sides = images.shape[1:]
    raw = [
        torch.logit(low + span * torch.rand(len(targets), depth, *sides, generator=generator)).to(images)
        for depth, low, span in ((1, 0.05, 0.1), (channels, 0.05, 0.9))
    ]
    (masks, patterns), shares = _smallest(
        model,
        images,
        others,
        targets,
        raw,
        lambda each: [part.sigmoid() for part in each],
        lambda shown, parts: shown + parts[0] * (parts[1] - shown),
        lambda parts: parts[0].flatten(1).sum(dim=1),
        1e-2,
        (success, steps, rate, batch),
        generator,
    )
    return ReversedTriggers(masks, patterns, shares)


def reverse_patterns(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    success: float = 0.95,
    steps: int = 400,
    rate: float = 0.02,
    batch: int = 32,
) -> ReversedPatterns:
    """Look for the shortest pattern that turns images of other classes, when it is added, to each of some classes.

    As `reverse_triggers`, with the Euclidean length of the pattern in place of the sum of the mask.

    Args:
        model: Maps images to logits (N, classes); in eval mode meanwhile, its weights stay.
        images: Clean images within 0 and 1, (N, C, H, W).
        labels: Their class numbers, int64, (N,).
        targets: Classes to look for, int64, (K,).
        generator: Source of start and batches, on the CPU.
        success: Share of the images of a batch that must turn, above 0 and at most 1.
        steps: Number of steps, at least 10.
        rate: Learning rate of Adam, above 0.
        batch: Images a step and class, at least 1.

    Returns:
        Pattern and success of each class.

    Raises:
        ValueError: If a number is outside its range, or for a class there is no image of another.

    Example:
        The nearest image of the other class is the pixel made brighter, by 4 / 9.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 0, 0, -9], [0, 0, 0, 9]]))
        >>> _ = model[1].bias.data.copy_(torch.tensor([4.0, -4]))
        >>> found = reverse_patterns(model, torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64),
        ...                          torch.tensor([1]), generator=torch.Generator().manual_seed(0))
        >>> found.success.item(), 4 / 9 < found.patterns.norm().item() < 0.5
        (1.0, True)
    """
    others = _others(images, labels, targets, success, steps, rate, batch)
    raw = [0.01 * torch.randn(len(targets), *images.shape[1:], generator=generator).to(images)]
    (patterns,), shares = _smallest(
        model,
        images,
        others,
        targets,
        raw,
        lambda each: [each[0].clamp(-1, 1)],
        lambda shown, parts: (shown + parts[0]).clamp(0, 1),
        lambda parts: parts[0].flatten(1).norm(dim=1),
        1e-1,
        (success, steps, rate, batch),
        generator,
    )
    return ReversedPatterns(patterns, shares)


def _smallest(
    model: nn.Module,
    images: Tensor,
    others: list[Tensor],
    targets: Tensor,
    raw: list[Tensor],
    parts_of: Callable[[list[Tensor]], list[Tensor]],
    shown_with: Callable[[Tensor, list[Tensor]], Tensor],
    size_of: Callable[[list[Tensor]], Tensor],
    first_weight: float,
    numbers: tuple[float, int, float, int],
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """Lower cross-entropy and size for all classes at once; give the best parts found and their success."""
    success, steps, rate, batch = numbers
    classes = len(targets)
    for each in raw:
        each.requires_grad_()
    optimizer = torch.optim.Adam(raw, lr=rate, betas=(0.5, 0.9))
    weight = images.new_full((classes,), first_weight)
    best = [torch.zeros_like(each) for each in raw]
    best_share, best_size = images.new_full((classes,), -1.0), images.new_full((classes,), math.inf)
    turned = images.new_zeros(classes)
    wanted = targets.to(images.device).repeat_interleave(batch)
    with evaluating(model), torch.enable_grad():
        for step in range(1, steps + 1):
            rows = torch.stack([row[torch.randint(len(row), (batch,), generator=generator)] for row in others])
            parts = parts_of(raw)
            shown = shown_with(images[rows.to(images.device)], [part[:, None] for part in parts])
            logits = model(shown.flatten(0, 1))
            size = size_of(parts)
            loss = F.cross_entropy(logits, wanted, reduction="none").view(classes, batch).mean(dim=1)
            gradients = torch.autograd.grad((loss + weight * size).sum(), raw)
            turned += (logits.argmax(dim=1) == wanted).view(classes, batch).to(turned).mean(dim=1) / _EVERY
            if step % _EVERY == 0:
                share, size = turned.clamp(max=success), size.detach()
                better = (share > best_share) | ((share == best_share) & (size < best_size))
                best_share, best_size = torch.where(better, share, best_share), torch.where(better, size, best_size)
                for kept, part in zip(best, parts, strict=True):
                    kept[better] = part.detach()[better]
                weight = torch.where(turned >= success, weight * 1.5, weight / 1.5**1.5)
                turned = torch.zeros_like(turned)
            for each, gradient in zip(raw, gradients, strict=True):
                each.grad = gradient
            optimizer.step()
    shares = [
        _share(model, images[row.to(images.device)], target, lambda shown, n=n: shown_with(shown, [b[n] for b in best]))
        for n, (row, target) in enumerate(zip(others, targets.tolist(), strict=True))
    ]
    return best, images.new_tensor(shares)


def _share(model: nn.Module, images: Tensor, target: int, change: Callable[[Tensor], Tensor]) -> float:
    """Give the share of images that a model takes for the target once they are changed."""
    with evaluating(model), torch.no_grad():
        hits = sum(int((model(change(part)).argmax(dim=1) == target).sum()) for part in images.split(_CHUNK))
    return hits / len(images)


def anomaly_index(norms: Tensor) -> Tensor:
    """Tell how many deviations each norm lies below the median: (median - norm) / (1.4826 median deviation).

    The factor makes the median absolute deviation that of a normal distribution; the source calls a class the
    attacker's if the index of its mask's sum is above 2.

    Args:
        norms: Sizes of the triggers, one for each class, (K,), K at least 3.

    Returns:
        Indices, (K,): positive where a norm is small, 0 at the median; infinite where it differs from the median
        though most do not.

    Raises:
        ValueError: If there are fewer than three norms.

    Example:
        >>> anomaly_index(torch.tensor([1.0, 9.0, 10.0, 11.0, 12.0])).round(decimals=2)
        tensor([ 6.0700,  0.6700,  0.0000, -0.6700, -1.3500])
    """
    if norms.ndim != 1 or len(norms) < 3:
        raise ValueError(f"norms must be three at least, of shape (K,), got {tuple(norms.shape)}")
    median = norms.quantile(0.5)
    below = median - norms
    return torch.where(below == 0, torch.zeros_like(norms), below / (1.4826 * below.abs().quantile(0.5)))


def _others(
    images: Tensor, labels: Tensor, targets: Tensor, success: float, steps: int, rate: float, batch: int
) -> list[Tensor]:
    """Check what is given, and give for each target the numbers of the images of other classes."""
    if images.ndim != 4 or not images.is_floating_point() or len(images) != len(labels):
        found = f"shape {tuple(images.shape)} and {images.dtype}, {len(labels)} labels"
        raise ValueError(f"images must be floating numbers of shape (N, C, H, W), a label for each, got {found}")
    if targets.ndim != 1 or targets.is_floating_point() or not len(targets):
        raise ValueError(f"targets must be class numbers, int64, of shape (K,), got {targets!r}")
    if isinstance(success, bool) or not 0 < success <= 1:
        raise ValueError(f"success must be above 0 and at most 1, got {success!r}")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be above 0 and finite, got {rate!r}")
    for name, count, least in (("steps", steps, _EVERY), ("batch", batch, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
    others = [(labels != target).nonzero().squeeze(1).cpu() for target in targets.tolist()]
    for target, rows in zip(targets.tolist(), others, strict=True):
        if not len(rows):
            raise ValueError(f"labels must have another class than target {target} at least, got none")
    return others
