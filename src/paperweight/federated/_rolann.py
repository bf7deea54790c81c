"""ROLANN: the regularised regression of one layer in closed form, from statistics that many can add up.

Source:
    O. Fontenla-Romero, B. Guijarro-Berdiñas, B. Pérez-Sánchez, "Regularized One-Layer Neural Networks for Distributed
    and Incremental Environments", IWANN 2021, https://doi.org/10.1007/978-3-030-85099-9_28.

Deviations:
    those of `paperweight.federated.daef`
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Statistics", "check_lam", "rolann_merge", "rolann_solve", "rolann_statistics", "scaled_vectors"]

Statistics = tuple[Tensor, Tensor]


def rolann_statistics(inputs: Tensor, targets: Tensor, activation: str = "logistic") -> Statistics:
    """Compute what a client tells of its samples for a one-layer regression: M and the product U S.

    For one target d of all samples, dbar = f^-1(d) and F the diagonal matrix of f'(dbar): H F = U S V^T and
    M = H F F dbar, where H holds the inputs, one sample a column.

    Args:
        inputs: Inputs of the layer, (N, D), N at least 1; with a bias, a column of ones is among them.
        targets: What the layer shall give, (N, T), within the range of the activation.
        activation: The layer's f: "logistic", "tanh" or "linear".

    Returns:
        M, (T, D), and U S, (T, D, R) with R at most N and D, or (1, D, R) of a linear layer, whose F is the identity.

    Raises:
        ValueError: If inputs and targets differ in number, there are none, or the activation is unknown.

    Example:
        >>> moment, factor = rolann_statistics(torch.eye(3), torch.full((3, 2), 0.5))
        >>> moment.shape, factor.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 3]))
    """
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"inputs and targets must have the same length, at least 1, got {len(inputs)} and {len(targets)}"
        )
    wanted, slope = _inverted(targets, activation)
    factor = scaled_vectors(inputs.T if activation == "linear" else slope.T[:, None] * inputs.T)
    return (slope.square() * wanted).T @ inputs, factor if factor.ndim == 3 else factor[None]


def rolann_merge(parts: Sequence[Statistics]) -> Statistics:
    """Merge statistics of the same layer: M is the sum, U S that of the decomposition of all U S side by side."""
    moments, factors = zip(*parts, strict=True)
    return torch.stack(moments).sum(0), scaled_vectors(torch.cat(factors, dim=-1))


def rolann_solve(statistics: Statistics, lam: float = 0.1) -> Tensor:
    """Compute the weights of a layer from its statistics: w = U (S S^T + lam I)^-1 U^T M.

    They minimise the sum over samples of (f'(dbar) (dbar - w^T x))^2, plus lam times the squared norm of w.

    Args:
        statistics: What `rolann_statistics` or `rolann_merge` gave.
        lam: Weight of the penalty, above 0.

    Returns:
        The weights, (T, D), one target a row.

    Raises:
        ValueError: If lam is not above 0.

    Example:
        >>> rolann_solve(rolann_statistics(torch.eye(2), torch.eye(2), "linear"), lam=1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    check_lam("lam", lam)
    moment, factor = statistics
    vectors, values, _ = torch.linalg.svd(factor, full_matrices=False)
    shrunk = (vectors.mT @ moment[..., None]) / (values.square() + lam)[..., None]
    return (vectors @ shrunk)[..., 0]


def _inverted(targets: Tensor, activation: str) -> Statistics:
    """Return f^-1(d) and f' there, with d kept within f's range."""
    if activation == "linear":
        return targets, torch.ones_like(targets)
    eps = torch.finfo(targets.dtype).eps
    if activation == "logistic":
        targets = targets.clamp(eps, 1 - eps)
        return targets.logit(), targets * (1 - targets)
    if activation == "tanh":
        targets = targets.clamp(eps - 1, 1 - eps)
        return targets.atanh(), 1 - targets.square()
    raise ValueError(f"activation must be logistic, tanh or linear, got {activation!r}")


def scaled_vectors(matrix: Tensor) -> Tensor:
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors * values[..., None, :]


def check_lam(name: str, lam: float) -> None:
    if not 0 < lam < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {lam}; a small one hardly shrinks")
