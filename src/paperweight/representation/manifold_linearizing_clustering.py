"""Manifold linearizing and clustering (MLC): features in subspaces, and which samples share one, learned together.

Features spread over as many directions as they can, all together, and over as few as they can within a cluster. Which
samples are of one cluster says a matrix of memberships between samples, whose rows and columns sum to 1: it is made of
a second head's features by normalising rows and columns in turn, so that it is learned, too. Labels come from it by
spectral clustering at the end, and so does the number of clusters, which training need not know.
Cost: for n samples of d features, n determinants of d x d matrices and O(n^2 d^2) operations for these.

Source:
    T. Ding, S. Tong, K. H. R. Chan, X. Dai, Y. Ma, B. D. Haeffele, "Unsupervised Manifold Linearizing and Clustering",
    ICCV, 2023, https://arxiv.org/abs/2301.01805. Implemented: coding rates of all samples and by membership, the doubly
    stochastic membership, the loss of the second stage, total coding rate with views for the first, labels and
    numerical rank. The authors' code, https://github.com/tianjiaoding/mlc, was not at hand.

Deviations:
    - Values of ``eps`` and ``eta`` in the paper's appendix were not at hand; the defaults are this project's.
    - Rows and columns are normalised a fixed number of times, columns last, so that rows sum to 1 nearly.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = [
    "clustered_rate",
    "coding_rate",
    "doubly_stochastic",
    "mlc_loss",
    "numerical_rank",
    "spectral_labels",
    "tcr_loss",
]

PAPER = Paper(
    title="Unsupervised Manifold Linearizing and Clustering",
    authors=(
        "Tianjiao Ding",
        "Shengbang Tong",
        "Kwan Ho Ryan Chan",
        "Xili Dai",
        "Yi Ma",
        "Benjamin D. Haeffele",
    ),
    year=2023,
    url="https://arxiv.org/abs/2301.01805",
    provides={
        "clustered_rate": "function",
        "coding_rate": "function",
        "doubly_stochastic": "function",
        "mlc_loss": "function",
        "numerical_rank": "function",
        "spectral_labels": "function",
        "tcr_loss": "function",
    },
    claim="Features and memberships learned together cluster images better than features learned before.",
)


def coding_rate(features: Tensor, eps: float = 0.5) -> Tensor:
    """Compute how much room features take: log det(I + d / (n eps^2) Z^T Z).

    Args:
        features: Features Z of length 1, (n, d).
        eps: The precision that features are coded with, finite and above 0.

    Returns:
        The rate, a scalar of at least 0.

    Raises:
        ValueError: If the shape is not (n, d) without a 0, or ``eps`` is outside its range.

    Example:
        >>> round(coding_rate(torch.eye(2), eps=1.0).item(), 4)  # log det 2 I
        1.3863
    """
    _check_features("features", features)
    _check_positive("eps", eps)
    count, dim = features.shape
    return _log_det(features.T @ features * (dim / (count * eps**2)))


def clustered_rate(features: Tensor, membership: Tensor, eps: float = 0.5) -> Tensor:
    """Compute how much room features take within clusters: the mean over j of log det(I + d / eps^2 Z^T Diag(G_j) Z).

    Where samples of a cluster of n_k are members of each other alike, G_ij = 1 / n_k, it is the rate of maximal coding
    rate reduction with labels; where all of all, it is `coding_rate`.

    Args:
        features: Features Z of length 1, (n, d).
        membership: How much sample i is of the cluster of sample j, at least 0, columns with sum 1, (n, n).
        eps: As for `coding_rate`.

    Returns:
        The rate, a scalar of at least 0.

    Raises:
        ValueError: If shapes do not fit or ``eps`` is outside its range.

    Example:
        >>> clustered_rate(torch.eye(2), torch.full((2, 2), 0.5)) == coding_rate(torch.eye(2))
        tensor(True)
    """
    _check_features("features", features)
    _check_positive("eps", eps)
    count, dim = features.shape
    if membership.shape != (count, count):
        raise ValueError(f"membership must have shape ({count}, {count}), got {tuple(membership.shape)}")
    products = (features[:, :, None] * features[:, None, :]).flatten(1)
    moments = (membership.T @ products).view(count, dim, dim)
    return _log_det(moments * (dim / eps**2)).mean()


def mlc_loss(features: Tensor, membership: Tensor, eps: float = 0.5) -> Tensor:
    """Compute what the second stage lowers: `clustered_rate` less `coding_rate`.

    Args:
        features: Features of length 1, (n, d); the mean over views, normalised, where there are several.
        membership: The membership between samples, (n, n), as `doubly_stochastic` makes it.
        eps: As for `coding_rate`.

    Returns:
        The loss, a scalar; at most 0 for a doubly stochastic membership.

    Raises:
        ValueError: As for `clustered_rate`.

    Example:
        >>> bool(mlc_loss(torch.eye(2), torch.eye(2)) < mlc_loss(torch.eye(2), torch.full((2, 2), 0.5)))
        True
    """
    return clustered_rate(features, membership, eps) - coding_rate(features, eps)


def tcr_loss(first: Tensor, second: Tensor, eps: float = 0.5, weight: float = 1.0) -> Tensor:
    """Compute what the first stage lowers: views of one image unlike, and all images alike.

    Args:
        first: Features of the first views, of length 1, (n, d).
        second: The same of the second views, in the same order, (n, d).
        eps: As for `coding_rate`.
        weight: Of the mean absolute cosine of the two views of an image, finite and at least 0.

    Returns:
        The loss: less the coding rate of the mean of both views, less the weighted mean absolute cosine.

    Raises:
        ValueError: If shapes do not fit or an argument is outside its range.

    Example:
        >>> bool(tcr_loss(torch.eye(2), torch.eye(2)) < tcr_loss(torch.eye(2), torch.eye(2).flip(0)))
        True
    """
    _check_features("first", first)
    if second.shape != first.shape:
        raise ValueError(f"second must have the shape of first, {tuple(first.shape)}, got {tuple(second.shape)}")
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be finite and at least 0, got {weight!r}")
    return -coding_rate((first + second) / 2, eps) - weight * (first * second).sum(dim=1).abs().mean()


def doubly_stochastic(scores: Tensor, eta: float = 0.2, steps: int = 10) -> Tensor:
    """Make a matrix whose rows and columns sum to 1 of exp(scores / eta), by Sinkhorn's algorithm.

    Args:
        scores: Scores of pairs, such as cosines of cluster features, (n, n).
        eta: What they are divided by, finite and above 0: the lower, the fewer samples share a membership.
        steps: How often rows and then columns are normalised, at least 1.

    Returns:
        The matrix, above 0, (n, n); columns sum to 1, rows the more nearly, the more steps.

    Raises:
        ValueError: If the shape is not (n, n) without a 0, or an argument is outside its range.

    Example:
        >>> doubly_stochastic(torch.zeros(2, 2)).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not scores.numel() or not scores.is_floating_point():
        raise ValueError(f"scores must be floating, of shape (n, n), got {scores.dtype} {tuple(scores.shape)}")
    _check_positive("eta", eta)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    logs = scores / eta
    for _ in range(steps):
        logs = logs - logs.logsumexp(dim=1, keepdim=True)
        logs = logs - logs.logsumexp(dim=0, keepdim=True)
    return logs.exp()


def spectral_labels(membership: Tensor, clusters: int, *, seed: int) -> Tensor:
    """Cluster samples by spectral clustering of their membership, made symmetric (Ng, Jordan and Weiss 2001).

    K-means puts rows of as many leading eigenvectors, scaled to length 1, into clusters; the time is O(n^3).

    Args:
        membership: At least 0, (n, n).
        clusters: Number of clusters, from 1 to n.
        seed: Of the random numbers of the algorithm.

    Returns:
        The number of each sample's cluster, int64, (n,).

    Raises:
        ValueError: If the shape is not (n, n), something is not finite, or ``clusters`` is outside its range.

    Example:
        >>> labels = spectral_labels(torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1), 2, seed=0)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    if membership.ndim != 2 or membership.shape[0] != membership.shape[1] or not membership.isfinite().all():
        raise ValueError(f"membership must be finite, of shape (n, n), got shape {tuple(membership.shape)}")
    if not isinstance(clusters, int) or isinstance(clusters, bool) or not 1 <= clusters <= len(membership):
        raise ValueError(f"clusters must be a whole number from 1 to {len(membership)}, got {clusters!r}")
    affinity = ((membership + membership.T) / 2).detach().double()
    scale = affinity.sum(dim=1).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    vectors = torch.linalg.eigh(affinity * scale[:, None] * scale).eigenvectors[:, -clusters:]
    algorithm: Any = KMeans(clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    return torch.from_numpy(algorithm.fit_predict(F.normalize(vectors).cpu().numpy())).long().to(membership.device)


def numerical_rank(features: Tensor, share: float = 0.95) -> int:
    """Count the directions that hold such a share of the squares of features.

    Args:
        features: Features of samples, (n, d).
        share: The share of the sum of the squared singular values, above 0 and at most 1; 0.95 in the paper.

    Returns:
        The smallest number of singular values that reach it; 0 where all features are 0.

    Raises:
        ValueError: If the shape is not (n, d) without a 0, or ``share`` is outside its range.

    Example:
        >>> numerical_rank(torch.tensor([[3.0, 0.0], [0.0, 0.1]])), numerical_rank(torch.eye(2))
        (1, 2)
    """
    _check_features("features", features)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
    squares = torch.linalg.svdvals(features.detach().double()).square()
    if not squares.any():
        return 0
    held = squares.cumsum(dim=0) / squares.sum()
    return min(int((held < share - 1e-12).sum()) + 1, len(squares))


def _log_det(matrix: Tensor) -> Tensor:
    """Compute log det(I + M) of positive semidefinite matrices, (..., d, d)."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return 2 * torch.linalg.cholesky(identity + matrix).diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def _check_features(name: str, features: Tensor) -> None:
    if features.ndim != 2 or not features.numel() or not features.is_floating_point():
        raise ValueError(
            f"{name} must be floating, of shape (n, d) without a 0, got {features.dtype} {tuple(features.shape)}"
        )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
