"""Which points of a cloud a classifier depends on, and noise that is aimed at them.

Source:
    N. Darabi, D. Kumar, S. Tayebati, A. R. Trivedi, "INTACT: Inducing Noise Tolerance through Adversarial Curriculum
    Training for LiDAR-based Safety-Critical Perception and Autonomy", 2025, https://arxiv.org/abs/2502.01896.

Deviations:
    Reconstructed from its abstract: saliency is the size of the loss's gradient for a point, averaged over noisy copies
    of the cloud; salient points are moved along the gradient of the network under training, or taken away.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["check_number", "loss_gradient", "point_saliency", "targeted_noise"]


def point_saliency(
    model: nn.Module, points: Tensor, labels: Tensor, generator: torch.Generator, noise: float = 0.02, draws: int = 1
) -> Tensor:
    """Measure how much the loss depends on each point: the size of its gradient, averaged over noisy copies.

    Args:
        model: Maps clouds (N, points, coordinates) to logits (N, classes); looked at in eval mode.
        points: Clouds, floating, (N, points, coordinates).
        labels: Class numbers, int64, (N,).
        generator: Source of the noise.
        noise: Standard deviation of the noise, finite and at least 0.
        draws: Copies, at least 1.

    Returns:
        Shares that sum to 1 for each cloud, (N, points); equal ones where no point has a gradient.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        >>> point_saliency(model, torch.zeros(1, 2, 2), torch.tensor([0]), torch.Generator())
        tensor([[1., 0.]])
    """
    _check_clouds(points)
    check_number("noise", noise)
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise ValueError(f"draws must be a whole number of at least 1, got {draws!r}")
    total = points.new_zeros(points.shape[:2])
    with evaluating(model):
        for _ in range(draws):
            shaken = points.detach() + noise * _normal(points, generator)
            total = total + loss_gradient(model, shaken, labels).norm(dim=2)
    total = total / total.amax(dim=1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)
    shares = total / total.sum(dim=1, keepdim=True)
    return torch.where(total.sum(dim=1, keepdim=True) > 0, shares, 1 / points.shape[1])


def targeted_noise(
    points: Tensor,
    gradient: Tensor,
    saliency: Tensor,
    generator: torch.Generator,
    *,
    eps: float = 0.1,
    background: float = 0.02,
    drop: float = 0.5,
    share: float = 0.25,
) -> Tensor:
    """Move the most salient points along the gradient or take them away, and shake the others a little.

    Args:
        points: Clouds, floating, (N, points, coordinates).
        gradient: Of the loss to raise, same shape.
        saliency: Of each point, (N, points).
        generator: Source of what is random.
        eps: How far a salient point is moved, in the direction of its gradient, finite and at least 0.
        background: Standard deviation of what moves the others, finite and at least 0.
        drop: Probability that a salient point becomes a copy of its cloud's least salient one, from 0 to 1.
        share: Share of points that are salient, from 0 to 1; their number is rounded.

    Returns:
        Clouds of the same shape; with ``eps``, ``background`` and ``drop`` of 0 the given ones.

    Raises:
        ValueError: If an argument is outside its range or shapes do not fit.

    Example:
        >>> points, gradient = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
        >>> saliency, draw = torch.tensor([[0.9, 0.1]]), torch.Generator()
        >>> targeted_noise(points, gradient, saliency, draw, eps=1.0, background=0.0, drop=0.0, share=0.5)
        tensor([[[0.6000, 0.8000],
                 [0.0000, 0.0000]]])
    """
    _check_clouds(points)
    if gradient.shape != points.shape:
        raise ValueError(f"gradient must have the shape of points, {tuple(points.shape)}, got {tuple(gradient.shape)}")
    if saliency.shape != points.shape[:2]:
        raise ValueError(f"saliency must be (N, points), {tuple(points.shape[:2])}, got {tuple(saliency.shape)}")
    check_number("eps", eps)
    check_number("background", background)
    check_number("drop", drop, 1)
    check_number("share", share, 1)
    count = round(share * points.shape[1])
    ranks = saliency.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    salient = (ranks < count)[..., None]
    size = gradient.norm(dim=2, keepdim=True)
    direction = gradient / size.clamp(min=torch.finfo(size.dtype).tiny)
    shaken = points + background * _normal(points, generator)
    least = points.gather(1, saliency.argmin(dim=1)[:, None, None].expand(-1, 1, points.shape[2]))
    drawn = torch.rand(points.shape[:2], generator=generator, device=generator.device).to(points.device)
    taken = (drawn < drop)[..., None]
    moved = torch.where(taken, least.expand_as(points), points + eps * direction)
    return torch.where(salient, moved, shaken)


def loss_gradient(model: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """Give the gradient of each cloud's loss for its points."""
    with torch.enable_grad():
        given = points.requires_grad_()
        loss = F.cross_entropy(model(given), labels, reduction="sum")
        return torch.autograd.grad(loss, given)[0]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def _check_clouds(points: Tensor) -> None:
    if points.ndim != 3 or not points.numel() or not points.is_floating_point():
        found = f"{points.dtype} of shape {tuple(points.shape)}"
        raise ValueError(f"points must be floating, (N, points, coordinates), none of them 0, got {found}")


def check_number(name: str, value: float, most: float = math.inf) -> None:
    if isinstance(value, bool) or not 0 <= value <= most or value == math.inf:
        rule = "at least 0 and finite" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"{name} must be {rule}, got {value!r}")
