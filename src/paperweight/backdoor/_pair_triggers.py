"""Triggers found for all pairs of a source and a target class at once: what is added, or what replaces pixels.

Source:
    Z. Xiang, Z. Xiong, B. Li, "UMD: Unsupervised Model Detection for X2X Backdoor Attacks", ICML 2023,
    https://arxiv.org/abs/2305.18651, and the authors' scripts.

Deviations:
    - A trigger that is added grows by steps of one length; the authors' steps are 1e-5 times the gradient on CIFAR-10,
      so that it hangs on the scale of the logits how far their thousand steps go.
    - A trigger that replaces pixels is found by Adam in a fixed number of steps, from a grey pattern in a mask of a
      half, and has its cost from the first step on. The authors begin at random and without a cost until enough images
      are seen as the target ten times in a row, go on by gradient descent, and keep the best of five trials.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = [
    "PairTriggers",
    "class_pairs",
    "require",
    "require_whole",
    "reverse_additive",
    "reverse_patch",
    "seen_rightly",
    "stamped",
    "transferability",
]

_AT_ONCE = 1_024  # images a pass
_PATIENCE = 5
_Descend = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class PairTriggers(NamedTuple):
    """What sends the images of a source class to a target class, for each of P pairs: clip(kept x + added).

    Attributes:
        pairs: Source and target class, int64, (P, 2).
        kept: Share of each pixel that is kept, in [0, 1], (P, 1, H, W); 1 throughout where the trigger is added.
        added: What is added to it, (P, C, H, W).
        sizes: Size of each trigger, above 0, float64, (P,): the norm 2 of what is added, or the sum of the mask.
        rates: Share of the images that it sends to the target, float64, (P,).
    """

    pairs: Tensor
    kept: Tensor
    added: Tensor
    sizes: Tensor
    rates: Tensor


def require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")


def require_whole(name: str, value: int, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(whole, name, f"a whole number of at least {least}", value)


def class_pairs(classes: int, device: torch.device | None = None) -> Tensor:
    """List all pairs of two different classes, (P, 2), by source and then by target."""
    pairs = torch.cartesian_prod(*[torch.arange(classes, device=device)] * 2)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def stamped(images: Tensor, kept: Tensor, added: Tensor) -> Tensor:
    """Give clip(kept x + added) of images (..., C, H, W)."""
    return (images * kept + added).clamp(0, 1)


def reverse_additive(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor | None = None,
    *,
    success: float = 0.9,
    step: float = 0.05,
    steps: int = 400,
) -> PairTriggers:
    """Find what to add to the images of each class so that they are seen as each other class.

    From 0, steps of one length go down the gradient of the mean cross-entropy with the target, until enough images are
    seen as it. A step costs a pass forward and backward of the images of all pairs that are not done yet.

    Args:
        model: Maps images to logits.
        images: Images in [0, 1], a row a source: of each class, all seen as that class, (classes, n, C, H, W).
        pairs: Row of images and target class, int64, (P, 2); by default all pairs of different classes.
        success: Share of the images that must be seen as the target, above 0 and at most 1; the paper's pi.
        step: Length of a step in norm 2, above 0: how precise a size is.
        steps: Largest number of steps, at least 1; a pair that is not done then has the size reached.

    Returns:
        The triggers of the pairs.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        Class 0 has the first pixel, class 1 the second: both must move by a bit more than a half.

        >>> images = torch.eye(2).view(2, 1, 1, 1, 2)
        >>> reverse_additive(nn.Flatten(), images, step=0.1).sizes
        tensor([0.8000, 0.8000], dtype=torch.float64)
    """
    _check(images, success, steps)
    require(0 < step < math.inf, "step", "finite and above 0", step)

    def descend(given: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        added, rates, going = _nothing(given)
        for number in range(steps + 1):
            here = added[going].requires_grad_()
            logits = _logits(model, stamped(given[going], torch.ones_like(here[:, None]), here[:, None]))
            rates[going] = _rates(logits, targets[going])
            left = rates[going] < success
            if number == steps or not left.any():
                break
            (gradient,) = torch.autograd.grad(_losses(logits, targets[going]).sum(), here)
            going, gradient = going[left], gradient[left]
            added[going] -= step * F.normalize(gradient.flatten(1), dim=1).view_as(gradient)
        return torch.ones_like(added[:, :1]), added, added.flatten(1).norm(dim=1).double(), rates

    return _of_pairs(model, images, pairs, descend)


def reverse_patch(
    model: nn.Module,
    images: Tensor,
    pairs: Tensor | None = None,
    *,
    success: float = 0.9,
    lr: float = 0.1,
    steps: int = 200,
    cost: float = 0.01,
) -> PairTriggers:
    """Find a small mask and what replaces the pixels in it so that the images of each class are seen as each other.

    Mask and pattern are logistic functions of what Adam learns. The cost of the mask's sum rises by half after five
    steps in a row in which enough images are seen as the target, and falls likewise; the smallest mask that sends
    enough of them is kept. A step costs a pass forward and backward of the images of all pairs.

    Args:
        model: Maps images to logits.
        images: Images in [0, 1], a row a source: of each class, all seen as that class, (classes, n, C, H, W).
        pairs: Row of images and target class, int64, (P, 2); by default all pairs of different classes.
        success: Share of the images that must be seen as the target, above 0 and at most 1; the paper's pi.
        lr: Adam's, above 0.
        steps: Number of steps, at least 1.
        cost: Weight of a pixel of the mask in the loss at first, above 0.

    Returns:
        The triggers of the pairs; where none sends enough images, the last, with the size of a mask of the
        whole image.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> images = torch.eye(2).view(2, 1, 1, 1, 2)
        >>> found = reverse_patch(nn.Flatten(), images)
        >>> found.rates, bool((found.sizes < 1.5).all())
        (tensor([1., 1.], dtype=torch.float64), True)
    """
    _check(images, success, steps)
    require(0 < lr < math.inf, "lr", "finite and above 0", lr)
    require(0 < cost < math.inf, "cost", "finite and above 0", cost)

    def descend(given: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        added, rates, _ = _nothing(given)
        kept, sizes = torch.ones_like(added[:, :1]), rates.new_full(rates.shape, math.inf)
        raw_mask, raw_pattern = torch.zeros_like(kept).requires_grad_(), torch.zeros_like(added).requires_grad_()
        adam = torch.optim.Adam([raw_mask, raw_pattern], lr=lr, betas=(0.5, 0.9))
        costs, streak = torch.full_like(added[:, 0, 0, 0], cost), torch.zeros_like(targets)
        for number in range(steps + 1):
            mask, pattern = raw_mask.sigmoid(), raw_pattern.sigmoid()
            logits = _logits(model, stamped(given, 1 - mask[:, None], (mask * pattern)[:, None]))
            reached, area = _rates(logits, targets), mask.flatten(1).sum(dim=1)
            enough = reached >= success
            better = (enough & (area.double() < sizes)) | ((number == steps) & sizes.isinf())
            kept[better], added[better] = (1 - mask).detach()[better], (mask * pattern).detach()[better]
            rates[better], sizes[better & enough] = reached[better], area.detach().double()[better & enough]
            if number == steps:
                break
            loss = _losses(logits, targets) + costs * area
            raw_mask.grad, raw_pattern.grad = torch.autograd.grad(loss.sum(), [raw_mask, raw_pattern])
            adam.step()
            streak = torch.where(enough, streak.clamp(min=0) + 1, streak.clamp(max=0) - 1)
            turned = streak.abs() >= _PATIENCE
            costs = torch.where(turned, costs * 1.5 ** streak.sign(), costs)
            streak = streak.masked_fill(turned, 0)
        return kept, added, sizes.nan_to_num(posinf=float(kept[0].numel())), rates

    return _of_pairs(model, images, pairs, descend)


def _check(images: Tensor, success: float, steps: int) -> None:
    shaped = images.ndim == 5 and images.is_floating_point() and images.numel() > 0
    found = f"{images.dtype} of shape {tuple(images.shape)}"
    require(shaped, "images", "floating, of shape (classes, n, C, H, W), not empty", found)
    within = bool(((images >= 0) & (images <= 1)).all())
    require(within, "images", "within 0 and 1", f"{images.min():g} to {images.max():g}; put a normalisation into model")
    require(0 < success <= 1, "success", "above 0 and at most 1", success)
    require_whole("steps", steps, 1)


def _nothing(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give what begins as 0: what is added, and the rates; and the numbers of the pairs."""
    added = given.new_zeros(len(given), *given.shape[2:])
    return added, given.new_zeros(len(given), dtype=torch.float64), torch.arange(len(given), device=given.device)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Give logits (pairs, n, classes) of images (pairs, n, C, H, W)."""
    return model(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def _rates(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(dim=2) == targets[:, None]).double().mean(dim=1)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the mean cross-entropy with the target, (pairs,)."""
    return -logits.log_softmax(dim=2).mean(dim=1).gather(1, targets[:, None])[:, 0]


def _of_pairs(model: nn.Module, images: Tensor, pairs: Tensor | None, descend: _Descend) -> PairTriggers:
    """Find the triggers of pairs, some at once, with the model in eval mode."""
    images = images.detach()
    pairs = class_pairs(len(images), images.device) if pairs is None else pairs
    with evaluating(model), torch.no_grad():
        most = len(images), model(images[0, :1]).shape[1]
    fits = pairs.ndim == 2 and pairs.shape[1] == 2 and len(pairs) > 0 and not pairs.is_floating_point()
    fits = fits and bool(((pairs >= 0) & (pairs < torch.tensor(most, device=pairs.device))).all())
    require(fits, "pairs", f"whole numbers (P, 2), of {most[0]} rows of images and {most[1]} classes of model", pairs)
    parts = pairs.split(max(1, _AT_ONCE // images.shape[1]))
    with evaluating(model), torch.enable_grad():
        found = [descend(images[part[:, 0]], part[:, 1]) for part in parts]
    return PairTriggers(pairs, *(torch.cat(part).detach() for part in zip(*found, strict=True)))


@torch.no_grad()
def transferability(model: nn.Module, triggers: PairTriggers, images: Tensor) -> Tensor:
    """Measure how often the trigger of one pair sends images of another pair's source to that pair's target.

    Args:
        model: Maps images to logits.
        triggers: The triggers of P pairs.
        images: Images in [0, 1] of each class, (classes, n, C, H, W).

    Returns:
        Shares, float64, (P, P): the trigger of the row, the pair of the column; 0 on the diagonal.

    Raises:
        ValueError: If a pair names a class without images.

    Example:
        >>> images = torch.eye(2).view(2, 1, 1, 1, 2)
        >>> transferability(nn.Flatten(), reverse_additive(nn.Flatten(), images), images)
        tensor([[0., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    classes, number = images.shape[:2]
    if int(triggers.pairs.max()) >= classes:
        raise ValueError(f"images must have a row for each class, {int(triggers.pairs.max()) + 1}, got {classes}")
    sources, targets = triggers.pairs.unbind(dim=1)
    rows = []
    with evaluating(model):
        for kept, added in zip(triggers.kept, triggers.added, strict=True):
            seen = model(stamped(images.flatten(0, 1), kept, added)).argmax(dim=1).view(classes, number)
            rows.append((seen[sources] == targets[:, None]).double().mean(dim=1))
    return torch.stack(rows).fill_diagonal_(0)


@torch.no_grad()
def seen_rightly(model: nn.Module, images: Tensor, labels: Tensor, number: int) -> Tensor:
    """Give the first images of each class that the model sees as such, (classes, number, C, H, W)."""
    given = f"{images.dtype} of shape {tuple(images.shape)}"
    shaped = images.ndim == 4 and images.is_floating_point() and len(images) > 0
    require(shaped, "images", "floating, of shape (N, C, H, W), not empty", given)
    fits = labels.shape == images.shape[:1] and not labels.is_floating_point()
    require(fits, "labels", f"class numbers, of shape ({len(images)},)", f"{labels.dtype}, {tuple(labels.shape)}")
    classes = int(labels.max()) + 1
    require(classes >= 3, "labels", "of at least 3 classes", f"{classes} classes")
    with evaluating(model):
        right = torch.cat([model(part).argmax(dim=1) for part in images.split(512)]) == labels
    found = [images[right & (labels == name)][:number] for name in range(classes)]
    for name, of_class in enumerate(found):
        if len(of_class) < number:
            raise ValueError(
                f"images must hold {number} of each class that the model sees as such, got {len(of_class)} of class "
                f"{name}; give more images, or a smaller images_per_class"
            )
    return torch.stack(found)
