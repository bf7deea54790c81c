"""Codes of classes: the likelihood of pairs that they are trained by, and how well they are searched.

Source:
    The likelihood of pairs is that of supervised hashing, which C. Yan, B. Gong, Y. Wei, Y. Gao, "Deep Multi-View
    Enhancement Hashing for Image Retrieval", 2020, https://arxiv.org/abs/2002.00169, build on; mean average precision
    is the measure of retrieval.

Deviations:
    - Pairs of a sample with itself count. Of equally near samples precision is the mean over all orders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["mean_average_precision", "pairwise_hash_loss"]


def pairwise_hash_loss(codes: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean over all pairs of log(1 + exp(T)) - s T, T half the inner product of two codes.

    s is 1 for two samples of one class and 0 else: the likelihood of that where sigmoid(T) is its probability.

    Args:
        codes: Codes with entries from -1 to 1, (N, bits), N at least 1.
        labels: Class numbers, int64, (N,).

    Returns:
        A scalar in nats; each sample counts as a pair with itself, too.

    Raises:
        ValueError: If shapes are not as above.

    Example:
        >>> pairwise_hash_loss(torch.zeros(2, 8), torch.tensor([0, 1]))
        tensor(0.6931)
    """
    _check_codes(codes, labels)
    halves = codes @ codes.T / 2
    same = (labels[:, None] == labels).to(codes)
    return (F.softplus(halves) - same * halves).mean()


@torch.no_grad()
def mean_average_precision(queries: Tensor, query_labels: Tensor, codes: Tensor, labels: Tensor) -> float:
    """Compute the mean over queries of the average precision of the search by the signs of codes.

    Samples are ranked by Hamming distance. Equally near ones come in any order, over which the mean is taken.

    Args:
        queries: Codes of queries, (M, bits), M at least 1; only signs count, 0 as above 0.
        query_labels: Their class numbers, int64, (M,).
        codes: Codes of what is searched, (N, bits), N at least 1.
        labels: Their class numbers, int64, (N,).

    Returns:
        From 0 to 1; a query whose class is not among the labels counts as 0.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> mean_average_precision(codes[:1], torch.tensor([0]), codes, torch.tensor([0, 1, 0]))
        0.8333333333333333
    """
    _check_codes(queries, query_labels, "queries", "query_labels")
    _check_codes(codes, labels)
    if queries.shape[1] != codes.shape[1]:
        raise ValueError(f"queries must have {codes.shape[1]} bits, as codes have, got {queries.shape[1]}")
    bits = codes.shape[1]
    signs = [torch.where(part < 0, -1.0, 1.0).double() for part in (queries, codes)]
    apart = ((bits - signs[0] @ signs[1].T) / 2).round().long()
    right = (query_labels[:, None] == labels).double()
    total = right.new_zeros(len(queries), bits + 1).scatter_add_(1, apart, torch.ones_like(right))
    hits = right.new_zeros(len(queries), bits + 1).scatter_add_(1, apart, right)
    before, found = (part.cumsum(dim=1) - part for part in (total, hits))
    group = apart.gather(1, apart.argsort(dim=1))
    rank = torch.arange(1, len(codes) + 1, device=codes.device).double()
    size, good, earlier = (part.gather(1, group) for part in (total, hits, before))
    beside = (rank - earlier - 1) * (good - 1) / (size - 1).clamp(min=1)
    precision = (found.gather(1, group) + 1 + beside) / rank
    averages = (precision * good / size).sum(dim=1) / right.sum(dim=1).clamp(min=1)
    return averages.mean().item()


def _check_codes(codes: Tensor, labels: Tensor, name: str = "codes", of: str = "labels") -> None:
    if codes.ndim != 2 or not codes.numel() or not codes.is_floating_point():
        raise ValueError(f"{name} must be floating, (N, bits) without a 0, got {codes.dtype} of {tuple(codes.shape)}")
    if labels.shape != codes.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"{of} must be whole numbers of shape ({len(codes)},), got {labels.dtype} of {tuple(labels.shape)}"
        )
