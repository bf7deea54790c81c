"""Images made with nothing but a robust classifier, whose gradients change what a person would change.

Ascent of a class probability changes images by noise with a standard classifier, and by features of the class with an
adversarially trained one. So one ascent within a ball of norm 2 draws images of a class from blurred seeds, turns
images into others, fills holes, and sharpens what is small.
Cost: a forward and a backward pass of the classifier for each step; nothing is trained but the classifier.

Source:
    S. Santurkar, D. Tsipras, B. Tran, A. Ilyas, L. Engstrom, A. Madry, "Image Synthesis with a Single (Robust)
    Classifier", NeurIPS, 2019, https://arxiv.org/abs/1906.09453: generation, inpainting, translation and
    super-resolution; and its code, https://github.com/MadryLab/robustness_applications, for the loss of inpainting.

Deviations:
    - A hole begins as the mean of the known pixels of its image; in the authors' code as that of all, hidden ones too.
    - Gradients are those of the network. The authors let the gradient pass the last ReLU of theirs unchanged.
    - Painting of single features is left out. Covariances of seeds get 1e-4 on the diagonal, so that they are regular.
    - The projection is the nearest point of ball and range at once; the authors' cuts off to the range after the ball.
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import project, steepest_step
from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["ClassAscent", "class_seeds", "inpainted", "super_resolved"]

PAPER = Paper(
    title="Image Synthesis with a Single (Robust) Classifier",
    authors=(
        "Shibani Santurkar",
        "Dimitris Tsipras",
        "Brandon Tran",
        "Andrew Ilyas",
        "Logan Engstrom",
        "Aleksander Madry",
    ),
    year=2019,
    url="https://arxiv.org/abs/1906.09453",
    provides={
        "ClassAscent": "attack",
        "class_seeds": "function",
        "inpainted": "function",
        "super_resolved": "function",
    },
    null={"radius": 0.0},
    claim="Raising a class probability of a robust classifier draws the class; of a standard one it does not.",
)

_BOUNDS = (0.0, 1.0)
_RIDGE = 1e-4


def class_seeds(
    images: Tensor, labels: Tensor, wanted: Tensor, *, factor: int = 4, generator: torch.Generator | None = None
) -> Tensor:
    """Draw blurred images of classes, from a Gaussian fitted to the small images of each class.

    Args:
        images: Images in [0, 1], (N, C, H, W), from which the Gaussians are fitted.
        labels: Class numbers, int64, (N,); of each class that is wanted two at least.
        wanted: Class of each seed, int64, (M,).
        factor: By how much images are made smaller, a divisor of height and width; the paper has 4.
        generator: Source of randomness; the global random state by default.

    Returns:
        Seeds in [0, 1], (M, C, H, W), each pixel of a small image spread over ``factor`` by ``factor``.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> images = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> seeds = class_seeds(images, torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64),
        ...     generator=torch.Generator().manual_seed(0))
        >>> seeds.shape, bool((seeds == seeds[:, :, :1, :1]).all())
        (torch.Size([3, 1, 4, 4]), True)
    """
    _check_images("images", images, labels, pixels=True)
    _check_factor(factor, images.shape[2:])
    if wanted.ndim != 1 or wanted.dtype != torch.int64:
        raise ValueError(f"wanted must be int64, (M,), got {wanted.dtype} of shape {tuple(wanted.shape)}")
    small = F.avg_pool2d(images, factor)
    rows = small.flatten(1).double()
    device = images.device if generator is None else generator.device
    noise = torch.randn((len(wanted), rows.shape[1]), generator=generator, device=device).to(rows)
    drawn = torch.empty_like(noise)
    for label in wanted.unique().tolist():
        of_class = rows[labels == label]
        if len(of_class) < 2:
            raise ValueError(
                f"images must hold at least 2 of each class that is wanted, got {len(of_class)} of {label}"
            )
        ridge = _RIDGE * torch.eye(rows.shape[1]).to(rows)
        root = torch.linalg.cholesky(of_class.T.cov().view(ridge.shape) + ridge)
        drawn[wanted == label] = of_class.mean(dim=0) + noise[wanted == label] @ root.T
    return _enlarged(drawn.view(len(wanted), *small.shape[1:]).clamp(*_BOUNDS).to(images.dtype), factor)


@final
class ClassAscent:
    """Raises the probability of a class by steps of one length along the gradient, within a ball of norm 2.

    From seeds it generates, from images of other classes it translates. What it gives is the last point. The model is
    in eval mode meanwhile.

    Args:
        radius: Largest change in norm 2, at least 0; at 0 images stay as they are. The paper has 40 at 224 pixels.
        steps: Number of steps, at least 1; the paper has 60.
        step: Length of a step in norm 2, above 0; the paper has 1.
        bounds: Smallest and largest entry of an image.

    Raises:
        ValueError: If an argument is outside its range, or images are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> ClassAscent(radius=0.5)(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.8536, 0.1464]])
    """

    def __init__(
        self, radius: float = 40.0, steps: int = 60, step: float = 1.0, bounds: tuple[float, float] = _BOUNDS
    ) -> None:
        _check_ascent(radius, steps, step)
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")
        self.radius, self.steps, self.step, self.bounds = radius, steps, step, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give the changed images.

        Args:
            model: Maps images to logits (N, classes).
            inputs: Images within the bounds, (N, ...).
            labels: The classes whose probability is raised, int64, (N,).

        Returns:
            Changed images, (N, ...).
        """
        _check_images("inputs", inputs, labels, self.bounds)

        def loss(changed: Tensor) -> Tensor:
            return F.cross_entropy(model(changed), labels, reduction="sum")

        with evaluating(model):
            return _descended(loss, inputs.detach(), self.radius, self.steps, self.step, self.bounds)


def inpainted(
    model: nn.Module,
    images: Tensor,
    holes: Tensor,
    labels: Tensor,
    *,
    lam: float = 10.0,
    radius: float = 21.6,
    steps: int = 720,
    step: float = 0.1,
) -> Tensor:
    """Fill holes of images so that a classifier sees their class, and hold the rest to what it was.

    A hole begins as the mean, of each channel, of the known pixels of its image. The loss of an image is its
    cross-entropy, plus ``lam`` times the mean square of what known pixels change by, over all of its entries.

    Args:
        model: Maps images to logits (N, classes); in eval mode meanwhile.
        images: Images in [0, 1], (N, C, H, W); what is in the holes does not count.
        holes: Where the holes are, bool, (N, 1, H, W); of each image some pixel must be known.
        labels: The classes that the model shall see, int64, (N,).
        lam: Weight of the known pixels, at least 0; the paper has 10. At ``math.inf`` they do not change.
        radius: Largest change in norm 2 of an image whose hole is filled by the mean, at least 0; the code has 21.6.
        steps: Number of steps, at least 1; the code has 720.
        step: Length of a step in norm 2, above 0; the code has 0.1.

    Returns:
        Images, (N, C, H, W).

    Raises:
        ValueError: If an argument is outside its range, or shapes do not fit.

    Example:
        >>> image, hole = torch.full((1, 1, 1, 3), 0.5), torch.tensor([[[[False, False, True]]]])
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
        >>> inpainted(model, image, hole, torch.tensor([0]), lam=float("inf"), steps=5)[..., :2]
        tensor([[[[0.5000, 0.5000]]]])
    """
    _check_images("images", images, labels, pixels=True)
    _check_ascent(radius, steps, step)
    if isinstance(lam, bool) or not lam >= 0:
        raise ValueError(f"lam must be at least 0, or infinite, got {lam}")
    if holes.dtype != torch.bool or holes.shape != (len(images), 1, *images.shape[2:]):
        found = f"{holes.dtype} of shape {tuple(holes.shape)} for images {tuple(images.shape)}"
        raise ValueError(f"holes must be bool, (N, 1, H, W), for images (N, C, H, W), got {found}")
    known, given = (~holes).to(images.dtype), images.detach()
    counts = known.sum(dim=(2, 3), keepdim=True)
    if len(images) and not bool((counts > 0).all()):
        raise ValueError("holes must leave a pixel of each image, got one without")
    start = torch.where(holes, (given * known).sum(dim=(2, 3), keepdim=True) / counts, given)

    def loss(changed: Tensor) -> Tensor:
        if lam == math.inf:
            return F.cross_entropy(model(torch.where(holes, changed, start)), labels, reduction="sum")
        entropy = F.cross_entropy(model(changed), labels, reduction="sum")
        return entropy + lam * ((changed - start) * known).square().flatten(1).mean(dim=1).sum()

    with evaluating(model):
        return _descended(loss, start, radius, steps, step, _BOUNDS)


def super_resolved(
    model: nn.Module,
    small: Tensor,
    labels: Tensor,
    *,
    factor: int = 7,
    radius: float = 15.0,
    steps: int = 50,
    step: float = 1.0,
) -> Tensor:
    """Enlarge images, pixel by pixel, and raise the probability of their class within a small ball.

    Args:
        model: Maps large images to logits (N, classes); in eval mode meanwhile.
        small: Images in [0, 1], (N, C, H, W).
        labels: Their classes, or those that a model sees, int64, (N,).
        factor: How many times as high and wide, at least 1; the paper has 7 for CIFAR.
        radius: Largest change in norm 2, at least 0; the code has 15 for CIFAR.
        steps: Number of steps, at least 1; the code has 50.
        step: Length of a step in norm 2, above 0; the code has 1.

    Returns:
        Images, (N, C, factor H, factor W).

    Raises:
        ValueError: If an argument is outside its range, or shapes do not fit.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> super_resolved(model, torch.full((1, 1, 1, 1), 0.5), torch.tensor([1]), factor=2, radius=0.0)
        tensor([[[[0.5000, 0.5000],
                  [0.5000, 0.5000]]]])
    """
    _check_images("small", small, labels, pixels=True)
    _check_factor(factor, ())
    return ClassAscent(radius, steps, step)(model, _enlarged(small, factor), labels)


def _descended(
    loss: Callable[[Tensor], Tensor], start: Tensor, radius: float, steps: int, step: float, bounds: tuple[float, float]
) -> Tensor:
    """Take x <- P(x - step g / |g|) from the start, P onto ball and range."""
    point = start.clone()
    if radius == 0 or not len(start):
        return point
    for _ in range(steps):
        place = point.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(place), place)
        ahead = steepest_step(-gradient, place.detach(), step, 2.0, bounds)
        point = project(ahead, start, radius, 2.0, bounds)
    return point


def _enlarged(small: Tensor, factor: int) -> Tensor:
    return small.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def _check_ascent(radius: float, steps: int, step: float) -> None:
    if isinstance(radius, bool) or not 0 <= radius < math.inf:
        raise ValueError(f"radius must be at least 0 and finite, got {radius}")
    if isinstance(step, bool) or not 0 < step < math.inf:
        raise ValueError(f"step must be above 0 and finite, got {step}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}")


def _check_factor(factor: int, sides: Sequence[int]) -> None:
    whole = isinstance(factor, int) and not isinstance(factor, bool) and factor >= 1
    if not whole or any(side % factor for side in sides):
        raise ValueError(f"factor must be a whole number of at least 1 that divides height and width, got {factor}")


def _check_images(
    name: str, images: Tensor, labels: Tensor, bounds: tuple[float, float] = _BOUNDS, pixels: bool = False
) -> None:
    if not images.is_floating_point() or (pixels and images.ndim != 4):
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"{name} must be floating numbers, {'(N, C, H, W)' if pixels else '(N, ...)'}, got {found}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, {tuple(images.shape[:1])}, got {labels.dtype} {tuple(labels.shape)}")
    if len(images) and not bool(((images >= bounds[0]) & (images <= bounds[1])).all()):
        raise ValueError(f"{name} must be within {bounds}, got others")
