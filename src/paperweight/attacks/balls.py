"""Balls of the norms 1, 2 and infinity, cut off by the range of inputs: projections, steepest steps, random points.

All are exact: a projection is the nearest point, in norm 2, of ball and range together, and a steepest step gains most
of all steps of its length in the range, to first order.

Source:
    A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    https://arxiv.org/abs/1706.06083, for norms 2 and infinity; F. Croce, M. Hein, "Mind the Box: l1-APGD for Sparse
    Adversarial Attacks on Image Classifiers", 2021, https://arxiv.org/abs/2103.01208, for norm 1 with the range.
"""

import math

import torch
from torch import Tensor

from paperweight.attacks._rows import draw, over

__all__ = ["NORMS", "project", "random_point", "steepest_step"]

NORMS = (1.0, 2.0, math.inf)


def project(
    changed: Tensor, inputs: Tensor, radius: float, norm: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Give the nearest points that are within the radius of the inputs and within the bounds.

    Args:
        changed: Points to project, shape (N, ...).
        inputs: Middle of each ball, within the bounds, same shape.
        radius: Radius of the balls, at least 0.
        norm: Norm of the balls: 1, 2 or ``math.inf``.
        bounds: Smallest and largest entry of a point.

    Returns:
        Points, shape (N, ...).

    Example:
        >>> points, middle = torch.tensor([[0.9, 0.9]]), torch.tensor([[0.8, 0.5]])
        >>> [project(points, middle, 0.2, norm) for norm in (1.0, 2.0, math.inf)]
        [tensor([[0.8000, 0.7000]]), tensor([[0.8485, 0.6940]]), tensor([[0.9000, 0.7000]])]
    """
    low, high = bounds
    if norm == math.inf:
        return torch.clamp(changed, (inputs - radius).clamp(min=low), (inputs + radius).clamp(max=high))
    if radius == 0:
        return inputs.clone()
    precise = torch.promote_types(inputs.dtype, torch.float32)
    given = inputs.flatten(1).to(precise)
    change = changed.flatten(1).to(precise) - given
    room = torch.where(change > 0, high - given, given - low)
    sizes = (_within_2 if norm == 2 else _within_1)(change.abs() / radius, room / radius)
    return (given + change.sign() * radius * sizes).clamp(low, high).view_as(inputs).to(inputs.dtype)


def _within_2(sizes: Tensor, room: Tensor) -> Tensor:
    """Give min(s sizes, room) of norm 2 at most 1, with the largest s up to 1, of each row.

    The s at which the entries known to be cut off give norm 1 is too small as long as it cuts off others, and then
    larger with these: so it rises to the one sought.
    """
    cut = torch.zeros_like(sizes, dtype=torch.bool)
    while True:
        left = (1 - (room.square() * cut).sum(dim=1, keepdim=True)).clamp(min=0)
        free = (sizes.square() * ~cut).sum(dim=1, keepdim=True)
        scale = (left / free.clamp(min=torch.finfo(free.dtype).tiny)).sqrt().clamp(max=1)
        further = cut | (scale * sizes > room)
        if torch.equal(further, cut):
            return torch.minimum(scale * sizes, room)
        cut = further


def _within_1(sizes: Tensor, room: Tensor) -> Tensor:
    """Give min(max(sizes - t, 0), room) of sum at most 1, with the smallest t of at least 0, of each row.

    As t falls, an entry's part begins to grow at its size, and ends at its size less its room: between neighbours of
    these points, in order, the sum grows as fast as there are entries that grow.
    """
    sizes, room, dtype = sizes.double(), room.double(), sizes.dtype
    points, order = torch.cat([sizes, (sizes - room).clamp(min=0)], dim=1).sort(dim=1, descending=True)
    growing = torch.where(order < sizes.shape[1], 1.0, -1.0).to(sizes).cumsum(dim=1)
    gained = (growing[:, :-1] * (points[:, :-1] - points[:, 1:])).cumsum(dim=1)
    sums = torch.cat([torch.zeros_like(gained[:, :1]), gained], dim=1)
    at = (sums < 1).sum(dim=1, keepdim=True).clamp(max=sums.shape[1] - 1)
    beyond = (sums.gather(1, at) - 1).clamp(min=0)
    threshold = points.gather(1, at) + beyond / growing.gather(1, (at - 1).clamp(min=0)).clamp(min=1)
    return torch.minimum((sizes - threshold).clamp(min=0), room).to(dtype)


def steepest_step(gradient: Tensor, changed: Tensor, length: float, norm: float, bounds: tuple[float, float]) -> Tensor:
    """Give the points that a step of a length leads to along which a loss grows most.

    In norm infinity each entry moves by the length along the sign of its gradient, in norm 2 all move along the
    gradient; both may leave the bounds, to be projected. In norm 1 the entries of largest gradient go to the bounds,
    one after the other, until the length is used up.

    Args:
        gradient: Gradients of the loss, shape (N, ...).
        changed: Where the steps begin, same shape.
        length: Length of the steps in the norm.
        norm: 1, 2 or ``math.inf``.
        bounds: Smallest and largest entry of a point.

    Returns:
        Points, shape (N, ...). An input whose gradient is 0 stays.

    Example:
        >>> slope, start = torch.tensor([[3.0, -4.0]]), torch.tensor([[0.5, 0.5]])
        >>> [steepest_step(slope, start, 0.6, norm, (0.0, 1.0)) for norm in (1.0, 2.0, math.inf)]
        [tensor([[0.6000, 0.0000]]), tensor([[0.8600, 0.0200]]), tensor([[ 1.1000, -0.1000]])]
    """
    if norm == math.inf:
        return changed + length * gradient.sign()
    flat = gradient.flatten(1)
    tiny = torch.finfo(flat.dtype).tiny
    if norm == 2:
        flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=tiny)
        step = flat * (length / flat.norm(dim=1, keepdim=True).clamp(min=tiny))
        return changed + step.view_as(changed)
    start = changed.flatten(1)
    room = torch.where(flat > 0, bounds[1] - start, start - bounds[0]) * (flat != 0)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    wanted = room.gather(1, order)
    left = (length - wanted.cumsum(dim=1) + wanted).clamp(min=0)
    sizes = torch.zeros_like(room).scatter(1, order, torch.minimum(wanted, left))
    return changed + (sizes * flat.sign()).view_as(changed)


def random_point(
    inputs: Tensor,
    radius: float,
    norm: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw points uniformly from the balls, each entry then moved into the bounds.

    Args:
        inputs: Middle of each ball, within the bounds, shape (N, ...).
        radius: Radius of the balls, at least 0.
        norm: Norm of the balls: 1, 2 or ``math.inf``.
        bounds: Smallest and largest entry of a point.
        generator: Source of randomness; the global random state by default.

    Returns:
        Points, shape (N, ...).

    Example:
        >>> middle = torch.full((5, 3), 0.5)
        >>> points = random_point(middle, 0.2, 2.0, generator=torch.Generator().manual_seed(0))
        >>> bool(((points - middle).norm(dim=1) < 0.2).all())
        True
    """
    uniform = draw(inputs.shape, inputs, generator)
    if norm == math.inf:
        return (inputs + radius * (2 * uniform - 1)).clamp(*bounds)
    far = draw(inputs.shape[:1], inputs, generator) ** (1 / max(1, inputs[:1].numel()))
    if norm == 2:
        normal = torch.special.ndtri(uniform.double().clamp(1e-12, 1 - 1e-12))
        direction = normal / over(normal.flatten(1).norm(dim=1), normal)
    else:
        signed = 2 * uniform.double() - 1
        laplace = -signed.sign() * torch.log1p(-signed.abs().clamp(max=1 - 1e-12))
        direction = -laplace / over(laplace.flatten(1).abs().sum(dim=1).clamp(min=1e-300), laplace)
    return (inputs + radius * over(far, inputs) * direction.to(inputs)).clamp(*bounds)
