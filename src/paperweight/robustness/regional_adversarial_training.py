"""Regional adversarial training (RAT): learn from points drawn around the path of an attack, softer the farther off.

Adversarial training takes the last point of an attack alone. But the attack has come by others, of every strength, at
no further cost: points are drawn from the region that its path spans, so that they are diverse, and the farther a point
is from the image, the more of its label is spread over the other classes.
Cost: as much as adversarial training, and a random number for each entry of an image.

`RegionalAttack` is called like the attacks of `paperweight.attacks`, and `DistanceAwareLoss` like the losses of
`paperweight.loops.fit_robust`, which trains with both; they go into any loop of adversarial training.

Source:
    C. Song, Y. Fan, Y. Yang, B. Wu, Y. Li, Z. Li, K. He, "Regional Adversarial Training for Better Robust
    Generalization", 2021, https://arxiv.org/abs/2109.00678. Implemented: what its abstract describes.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found. It says that a region is constructed from the
      path of projected gradient ascent, that points are drawn in it, and that labels are smoothed by distance; the rest
      is a reconstruction. Three choices are ours: the region, boxes or segments between neighbouring points of the
      path, each equally likely; distance, the mean absolute change of an entry, since the largest one is the radius
      for nearly every point; and labels, whose spread grows linearly with it up to ``smoothing``.
"""

import math
from collections.abc import Iterator
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import project, random_point, steepest_step
from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["DistanceAwareLoss", "Region", "RegionalAttack", "distance_aware_labels", "points_of_region"]

PAPER = Paper(
    title="Regional Adversarial Training for Better Robust Generalization",
    authors=(
        "Chuanbiao Song",
        "Yanbo Fan",
        "Yichen Yang",
        "Baoyuan Wu",
        "Yiming Li",
        "Zhifeng Li",
        "Kun He",
    ),
    year=2021,
    url="https://arxiv.org/abs/2109.00678",
    provides={
        "RegionalAttack": "attack",
        "DistanceAwareLoss": "loss",
        "distance_aware_labels": "function",
        "points_of_region": "function",
    },
    null={"region": "end", "smoothing": 0.0},
    claim="Points around the path of an attack, with labels by distance, generalize better than its last point.",
)

Region = Literal["boxes", "segments", "end"]
"""Where points are drawn: in boxes or on segments between neighbours of the path, or its last point alone."""


def points_of_region(path: Tensor, region: Region = "boxes", generator: torch.Generator | None = None) -> Tensor:
    """Draw a point for each input between two neighbours of its path, x_k + u (x_(k+1) - x_k) with k and u uniform.

    Args:
        path: The points that each input has come by, (K + 1, N, ...), with K at least 1.
        region: ``"boxes"`` for a number u of its own for each entry, ``"segments"`` for one for all entries,
            ``"end"`` for the last point.
        generator: Source of randomness; the global random state by default.

    Returns:
        Points, (N, ...).

    Raises:
        ValueError: If the path has fewer than two points, or there is no such region.

    Example:
        >>> path = torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]])
        >>> point = points_of_region(path, "segments", torch.Generator().manual_seed(0))
        >>> bool(point[0, 1] == 2 * point[0, 0])
        True
    """
    _check_region(region)
    if path.ndim < 3 or len(path) < 2:
        raise ValueError(f"path must have shape (K + 1, N, ...) with K at least 1, got {tuple(path.shape)}")
    if region == "end":
        return path[-1].clone()
    count, ones = path.shape[1], [1] * (path.ndim - 2)
    device = path.device if generator is None else generator.device
    leg = torch.randint(len(path) - 1, (count,), generator=generator, device=device).to(path.device)
    shape = path.shape[1:] if region == "boxes" else (count, *ones)
    share = torch.rand(shape, generator=generator, device=device).to(path)
    places = torch.arange(count, device=path.device)
    first, second = path[leg, places], path[leg + 1, places]
    return first + share * (second - first)


def distance_aware_labels(
    labels: Tensor, distances: Tensor, classes: int, radius: float, smoothing: float = 0.2
) -> Tensor:
    """Spread s = smoothing min(distance / radius, 1) of each label over the other classes: (1 - s), s / (C - 1) ...

    Args:
        labels: Class numbers, int64, (N,).
        distances: How far each point is from its image, at least 0, (N,).
        classes: Number of classes, at least 2.
        radius: The distance from which on labels are softest, above 0.
        smoothing: The share that is spread there, from 0 to 1.

    Returns:
        Shares of classes, (N, classes), in the format of the distances.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> distance_aware_labels(torch.tensor([0, 1]), torch.tensor([0.05, 0.2]), classes=3, radius=0.1)
        tensor([[0.9000, 0.0500, 0.0500],
                [0.1000, 0.8000, 0.1000]])
    """
    _check_loss(radius, smoothing)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2:
        raise ValueError(f"classes must be a whole number of at least 2, got {classes!r}")
    if labels.shape != distances.shape or labels.ndim != 1 or labels.dtype != torch.int64:
        found = f"{labels.dtype} of shape {tuple(labels.shape)} and {tuple(distances.shape)}"
        raise ValueError(f"labels must be int64, one for each of the distances, (N,), got {found}")
    spread = smoothing * (distances / radius).clamp(max=1)[:, None]
    own = F.one_hot(labels, classes).bool()
    return torch.where(own, 1 - spread, spread / (classes - 1))


@final
class RegionalAttack:
    """Draws points from the region around the path of projected gradient ascent, in norm infinity.

    The path begins at a random point of the ball around the input, and each step goes along the sign of the gradient of
    the cross-entropy, projected; all inputs go all steps. The model is in eval mode meanwhile.

    Args:
        radius: Largest change of an entry, at least 0; at 0 the inputs are returned.
        steps: Steps of the ascent, at least 1.
        step: Length of a step, above 0; a quarter of the radius is common.
        region: Where points are drawn, see `points_of_region`; ``"end"`` is the attack of adversarial training.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If an argument is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> inputs, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
        >>> RegionalAttack(radius=0.25, step=0.1, region="end")(model, inputs, labels)
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        steps: int = 10,
        step: float = 2 / 255,
        region: Region = "boxes",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if isinstance(radius, bool) or not 0 <= radius < math.inf:
            raise ValueError(f"radius must be at least 0 and finite, got {radius}")
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        if isinstance(step, bool) or not 0 < step < math.inf:
            raise ValueError(f"step must be above 0 and finite, got {step}")
        _check_region(region)
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")
        self.radius, self.steps, self.step, self.bounds = radius, steps, step, bounds
        self.region: Region = region

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give a point for each input.

        Args:
            model: Maps inputs to logits (N, classes).
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).
            generator: Source of the start and of the point; the global random state by default.

        Returns:
            Points, (N, ...).
        """
        given = inputs.detach()
        low, high = self.bounds
        if given.ndim < 2 or not given.is_floating_point() or len(given) != len(labels):
            found = f"{given.dtype} of shape {tuple(given.shape)} and {len(labels)} labels"
            raise ValueError(f"inputs must be floating numbers, (N, ...), with a label each, got {found}")
        if not bool(((given >= low) & (given <= high)).all()):
            raise ValueError(f"inputs must be within bounds, {self.bounds}, got others; give their bounds")
        if self.radius == 0 or not len(given):
            return given.clone()
        with evaluating(model):
            path = torch.stack(list(self._path(model, given, labels, generator)))
        drawn = points_of_region(path, self.region, generator)
        return project(drawn, given, self.radius, math.inf, self.bounds)

    def _path(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield the start, and the point after each step."""
        point = random_point(inputs, self.radius, math.inf, self.bounds, generator)
        yield point
        for _ in range(self.steps):
            place = point.detach().requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(model(place), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, place)
            ahead = steepest_step(gradient, point, self.step, math.inf, self.bounds)
            point = project(ahead, inputs, self.radius, math.inf, self.bounds)
            yield point


@final
class DistanceAwareLoss:
    """The mean cross-entropy of points, with labels that are the softer the farther a point is from its image.

    Distance is the mean absolute change of an entry. With ``smoothing=0`` it is the loss of adversarial training, bit
    for bit.

    Args:
        radius: The distance from which on labels are softest, above 0: the radius of the attack.
        smoothing: The share of a label that is spread over the other classes there, from 0 to 1; to be tuned.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> loss, labels = DistanceAwareLoss(radius=0.5, smoothing=0.2), torch.tensor([0])
        >>> point = torch.tensor([[2.0, 0.0]])
        >>> [round(loss(nn.Identity(), image, point, labels).item(), 4) for image in (point, point - 0.5)]
        [0.1269, 0.5269]
    """

    def __init__(self, radius: float = 8 / 255, smoothing: float = 0.2) -> None:
        _check_loss(radius, smoothing)
        self.radius, self.smoothing = radius, smoothing

    def __call__(self, model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch; images as they are do not pass the model.

        Args:
            model: Maps images to logits (N, classes).
            images: Images, (N, ...), N at least 1.
            attacked: A point for each, same shape.
            labels: Class numbers, int64, (N,).

        Returns:
            A scalar.
        """
        if images.shape != attacked.shape:
            found = f"{tuple(images.shape)}, got {tuple(attacked.shape)}"
            raise ValueError(f"attacked must have the shape of images, {found}")
        logits = model(attacked)
        if self.smoothing == 0:
            return F.cross_entropy(logits, labels)
        distances = (attacked - images).abs().flatten(1).mean(dim=1)
        soft = distance_aware_labels(labels, distances, logits.shape[1], self.radius, self.smoothing)
        return F.cross_entropy(logits, soft.to(logits))


def _check_region(region: str) -> None:
    if region not in get_args(Region):
        raise ValueError(f"region must be one of {', '.join(get_args(Region))}; got {region!r}")


def _check_loss(radius: float, smoothing: float) -> None:
    if isinstance(radius, bool) or not 0 < radius < math.inf:
        raise ValueError(f"radius must be above 0 and finite, got {radius}")
    if isinstance(smoothing, bool) or not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be from 0 to 1, got {smoothing}")
