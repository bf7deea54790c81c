"""Attention and regression by any kernel, and what tells whether heads repeat each other.

Source:
    T. Nguyen et al., "FourierFormer: Transformer Meets Generalized Fourier Integral Theorem", NeurIPS 2022,
    https://arxiv.org/abs/2206.00206: attention as the Nadaraya-Watson regression of values on keys. S. Kornblith et
    al., "Similarity of Neural Network Representations Revisited", ICML 2019, https://arxiv.org/abs/1905.00414: linear
    centred kernel alignment.

Deviations:
    none known
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from paperweight.architecture._multihead import as_added, causal_mask, precise

__all__ = ["Kernel", "attention_entropy", "head_redundancy", "kernel_attention", "kernel_regression", "normalised"]

Kernel = Literal["dot", "gaussian"] | Callable[[Tensor, Tensor], Tensor]


def normalised(logs: Tensor, mask: Tensor | None = None, eps: float = 0.0, *, causal: bool = False) -> Tensor:
    """Compute weights K / (sum K + eps) along the last dimension, (..., N, M), from log K and what is added to it.

    Where no key is seen all weights are 0.
    """
    if mask is not None:
        logs = logs + mask
    if causal:
        n, m = logs.shape[-2:]
        seen = causal_mask(n, m, m - n, logs.device)
        logs = logs.masked_fill(~seen, -math.inf)
    largest = logs.detach().amax(dim=-1, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    weights = (logs - largest).exp()
    total = weights.sum(dim=-1, keepdim=True) + torch.exp((math.log(eps) if eps else -math.inf) - largest)
    return weights / total.clamp_min(1e-30)


def log_kernel(kernel: Kernel, q: Tensor, k: Tensor) -> Tensor:
    """Compute the logarithm of a kernel for all pairs, (..., N, M).

    Raises:
        ValueError: If the kernel is neither known nor a function.
    """
    if callable(kernel):
        return kernel(q, k)
    q, k = precise(q), precise(k)
    scale = math.sqrt(q.shape[-1])
    if kernel == "dot":
        return q @ k.transpose(-1, -2) / scale
    if kernel == "gaussian":
        return -torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * scale)
    raise ValueError(f"kernel must be 'dot', 'gaussian' or a function of q and k that gives log K, got {kernel!r}")


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel = "dot", mask: Tensor | None = None) -> Tensor:
    """Compute sum_j K(q_i, k_j) v_j / sum_l K(q_i, k_l): with "dot" it is the usual attention.

    The Gaussian's width is such that queries and keys of equal norms get the weights of the dot product.

    Args:
        q: Queries, (..., N, d).
        k: Keys, (..., M, d).
        v: Values, (..., M, e).
        kernel: "dot", exp(q.k / sqrt d); "gaussian", exp(-|q - k|^2 / (2 sqrt d)); or what gives log K of all pairs,
            (..., N, M), such as ``lambda q, k: fourier_kernel(q, k, 2.0, log=True)``.
        mask: Which keys each query may see, bool, or what is added to log K, floating; broadcast to (..., N, M).

    Returns:
        Outputs, (..., N, e).

    Raises:
        ValueError: If the kernel is neither known nor a function.

    Example:
        >>> q = torch.tensor([[0.0, 0.0]])
        >>> kernel_attention(q, torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0], [3.0]]), "gaussian")
        tensor([[2.]])
    """
    weights = normalised(log_kernel(kernel, q, k), None if mask is None else as_added(mask))
    return (weights @ precise(v)).to(v.dtype)


def kernel_regression(
    inputs: Tensor, targets: Tensor, queries: Tensor, kernel: Kernel = "gaussian", bandwidth: float = 1.0
) -> Tensor:
    """Predict by Nadaraya-Watson regression: the mean of the targets, weighted by the kernel at distance / bandwidth.

    Args:
        inputs: Where the function is known, (M, d).
        targets: Its values, (M, e).
        queries: Where it is asked for, (N, d).
        kernel: As in `kernel_attention`.
        bandwidth: What inputs and queries are divided by, above 0.

    Returns:
        Predictions, (N, e).

    Raises:
        ValueError: If the bandwidth is not above 0, inputs and targets differ in number, or the kernel is unknown.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> kernel_regression(x, 2 * x, torch.tensor([[0.5]]))
        tensor([[1.]])
    """
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be above 0 and finite, got {bandwidth}")
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(f"targets must be one for each input, and at least one, got {len(targets)} for {len(inputs)}")
    return kernel_attention(queries / bandwidth, inputs / bandwidth, targets, kernel)


def attention_entropy(weights: Tensor) -> Tensor:
    """Compute the entropy of each query's weights, in nats: 0 where one key has all, log M where all have the same.

    Args:
        weights: At least 0, (..., M); they are divided by their sum, and a query without weight has entropy 0.

    Returns:
        Entropies, (...).

    Raises:
        ValueError: If a weight is negative or not a number.

    Example:
        >>> attention_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    if not (weights >= 0).all():
        raise ValueError(f"weights must be numbers of at least 0, got {weights.min().item()}")
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    return torch.special.entr(shares).sum(dim=-1).abs()


def head_redundancy(outputs: Tensor, metric: Literal["l2", "cosine", "cka"] = "l2") -> Tensor:
    """Compare the outputs of heads, pair by pair, and take the mean over pairs.

    Args:
        outputs: Of the heads, (..., heads, N, d), at least two heads.
        metric: "l2", the mean distance of two heads' outputs for a token, which is larger where heads repeat less;
            "cosine", the mean cosine; or "cka", linear centred kernel alignment over all tokens, from 0 to 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are fewer than two heads, or the metric is unknown.

    Example:
        >>> head_redundancy(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]))
        tensor(5.)
    """
    if outputs.ndim < 3 or outputs.shape[-3] < 2:
        raise ValueError(f"outputs must be (..., heads, N, d) with at least two heads, got {tuple(outputs.shape)}")
    heads = outputs.movedim(-3, 0).flatten(1, -2)
    first, second = torch.triu_indices(len(heads), len(heads), 1, device=heads.device)
    if metric == "l2":
        return (heads[first] - heads[second]).norm(dim=-1).mean()
    if metric == "cosine":
        return torch.cosine_similarity(heads[first], heads[second], dim=-1).mean()
    if metric == "cka":
        centred = heads - heads.mean(dim=1, keepdim=True)
        products = torch.einsum("hnd,gne->hgde", centred, centred).square().sum(dim=(-2, -1))
        own = products.diagonal().sqrt()
        return (products / (own[:, None] * own).clamp_min(1e-30))[first, second].mean()
    raise ValueError(f"metric must be 'l2', 'cosine' or 'cka', got {metric!r}")
