"""The objective of k-means, its gradient, and the steps of Lloyd's algorithm, in parts of bounded size.

Source:
    P. Yin, M. Pham, A. Oberman, S. Osher, "Stochastic Backward Euler: An Implicit Gradient Descent Algorithm for
    k-Means Clustering", Journal of Scientific Computing, 2018, https://arxiv.org/abs/1710.07746, section 1.

Deviations:
    those of `paperweight.representation.backward_euler_kmeans`
"""

import torch
from torch import Tensor

__all__ = ["kmeans_gradient", "kmeans_objective", "lloyd", "nearest", "sums"]

_ENTRIES = 2**22
"""Distances that are held at once, 32 MiB in float64."""


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Give squared distances to the nearest centroid and its number, (n,), a part of the samples at a time.

    Example:
        >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [9.0]]))
        (tensor([ 1., 16.]), tensor([0, 0]))
    """
    found = [_nearest(part, centroids) for part in x.split(max(1, _ENTRIES // len(centroids)))]
    return torch.cat([values for values, _ in found]), torch.cat([labels for _, labels in found])


def _nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Seek the nearest by products, which lose what is small beside the centroids' spread, and then subtract it."""
    origin = centroids.mean(dim=0)
    near = centroids - origin
    labels = torch.addmm(near.square().sum(dim=1), x - origin, near.T, alpha=-2).min(dim=1).indices
    return (x - centroids[labels]).square_().sum(dim=1), labels


def _check_pair(x: Tensor, centroids: Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(f"x must be real, of shape (n, d) without a 0, got {x.dtype} {tuple(x.shape)}")
    if centroids.ndim != 2 or not len(centroids) or centroids.shape[1] != x.shape[1] or centroids.dtype != x.dtype:
        raise ValueError(
            f"centroids must have the shape (K, {x.shape[1]}) and dtype {x.dtype} of x, got {centroids.dtype} "
            f"{tuple(centroids.shape)}"
        )


def sums(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the mean half squared distance, and for each centroid the sum and the number of its samples.

    Example:
        >>> sums(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [9.0]]))
        (tensor(0.5000), tensor([[2.],
                [0.]]), tensor([2., 0.]))
    """
    values, labels = nearest(x, centroids)
    totals = torch.zeros_like(centroids).index_add_(0, labels, x)
    return values.mean() / 2, totals, torch.bincount(labels, minlength=len(centroids)).to(x.dtype)


def kmeans_objective(x: Tensor, centroids: Tensor) -> Tensor:
    """Give half the mean squared distance of samples to the nearest centroid.

    Args:
        x: Samples, (n, d), real.
        centroids: Centroids, (K, d).

    Returns:
        The objective, a scalar; scikit-learn's ``inertia_`` is 2 n times as much.

    Raises:
        ValueError: If shapes or dtypes do not fit.

    Example:
        >>> kmeans_objective(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.0], [9.0]])).item()
        0.3333333432674408
    """
    _check_pair(x, centroids)
    return nearest(x, centroids)[0].mean() / 2


def kmeans_gradient(x: Tensor, centroids: Tensor) -> Tensor:
    """Give the gradient of `kmeans_objective`: (n_j c_j - sum of the samples of j) / n, 0 for an empty cluster.

    Args:
        x: Samples, (n, d), real.
        centroids: Centroids, (K, d).

    Returns:
        The gradient, (K, d); of a sample between two centroids the first has it.

    Raises:
        ValueError: If shapes or dtypes do not fit.

    Example:
        >>> kmeans_gradient(torch.tensor([[0.0], [1.0], [9.0], [9.0]]), torch.tensor([[1.0], [9.0]]))
        tensor([[0.2500],
                [0.0000]])
    """
    _check_pair(x, centroids)
    _, totals, counts = sums(x, centroids)
    return (counts[:, None] * centroids - totals) / len(x)


def lloyd(x: Tensor, centroids: Tensor, steps: int) -> Tensor:
    """Move each centroid to the mean of its samples, until nothing moves: gradient steps of size n / n_j.

    Args:
        x: Samples, (n, d), real.
        centroids: Where to begin, (K, d); an empty one stays.
        steps: The most steps, at least 0.

    Returns:
        The centroids, (K, d).

    Raises:
        ValueError: If shapes or dtypes do not fit, or ``steps`` is below 0.

    Example:
        >>> lloyd(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[1.0], [8.0]]), steps=10)
        tensor([[0.5000],
                [9.0000]])
    """
    _check_pair(x, centroids)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
    for _ in range(steps):
        _, totals, counts = sums(x, centroids)
        moved = torch.where(counts[:, None] > 0, totals / counts.clamp(min=1)[:, None], centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.clone()
