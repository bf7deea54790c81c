"""Groups that were found without labels: found by k-means, and named after classes."""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor

__all__ = ["kmeans_groups", "names_of"]


def kmeans_groups(known: Tensor, codes: Tensor, groups: int, seed: int) -> tuple[Tensor, Tensor]:
    """Fit k-means, the best of ten starts.

    Args:
        known: What it is fitted to, (M, d).
        codes: What is put into groups, (N, d).
        groups: Number of groups.
        seed: Decides the starts.

    Returns:
        The group of each code, int64 on the CPU, (N,), and the centres, (groups, d).
    """
    fitted: Any = KMeans(groups, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    fitted.fit(known.cpu().double().numpy())
    found = fitted.predict(codes.cpu().double().numpy())
    return torch.from_numpy(found).long(), torch.from_numpy(fitted.cluster_centers_).to(codes)


def names_of(groups: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Name groups after classes, one-to-one, so that most samples are right.

    Args:
        groups: The group of each sample, int64, (N,), below ``classes``.
        labels: Its class, int64, (N,).
        classes: Number of classes, and of groups.

    Returns:
        The class of each group, int64, (classes,).
    """
    table = torch.zeros(classes, classes).index_put((groups, labels), torch.ones(len(labels)), accumulate=True)
    return torch.from_numpy(linear_sum_assignment(-table.numpy())[1])
