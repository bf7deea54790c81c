"""Holistic robust loss: the mean loss of the worst distribution near a batch that is small and partly corrupted.

Up to a share ``alpha`` of a batch may be replaced by the worst case seen, and what is left may be a sample of any
distribution within a divergence ``r``: the loss is the largest mean that this allows, so that hard examples weigh more.
On attacked images, see `paperweight.loops.fit_robust`, it guards against attacks at test time, too.
Cost: a sort, and a root of one number found on the CPU, in each step.

Source:
    A. Bennouna, R. Lucas, B. Van Parys, "Certified Robust Neural Networks: Generalization and Corruption Resistance",
    ICML, 2023, https://arxiv.org/abs/2303.02251. Implemented: the worst distribution where data are corrupted first and
    sampled then (HD), as the program that the authors' code solves, https://github.com/RyanLucas3/HR_Neural_Networks.

Deviations:
    - The authors solve the program over p, q and s by a conic solver; here its solution is found by one root, which is
      derived below and tested against a general solver.
    - Where ``r`` is 0 and ``alpha`` is not, p is q exactly; the authors' code then sets ``r`` to 0.001.
    - The variant where data are sampled first and corrupted then (HR) is left out. The attack is not part of the loss.
    - Where a loss is not finite, the mean is given.
"""

import math
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.special import logsumexp
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["HolisticRobustLoss", "holistic_weights"]

PAPER = Paper(
    title="Certified Robust Neural Networks: Generalization and Corruption Resistance",
    authors=("Amine Bennouna", "Ryan Lucas", "Bart Van Parys"),
    year=2023,
    url="https://arxiv.org/abs/2303.02251",
    provides={"HolisticRobustLoss": "loss", "holistic_weights": "function"},
    null={"alpha": 0.0, "r": 0.0},
    claim="It protects a network against wrong training data, few of them and attacks at once, and it generalises.",
)

Array = NDArray[np.float64]


def _corrupted(losses: Array, alpha: float) -> Array:
    """Give q, (N + 1,): 1/N each, of which the smallest losses lose ``alpha`` in all to the worst case, the last.

    Whatever p may be, mass gains most if it comes from the smallest losses, where log(eta - l) is largest.
    """
    order = np.argsort(losses, kind="stable")
    share = 1 / len(losses)
    left = np.empty(len(losses) + 1)
    left[order] = share - np.clip(alpha - share * np.arange(len(losses)), 0, share)
    left[-1] = min(alpha, 1.0)
    return left


def _worst(q: Array, gaps: Array, r: float) -> Array:
    """Give the p of largest mean loss with KL(q || p) <= r: p_i = q_i / (u + d_i), scaled to sum 1.

    Here d = max l - l are the gaps. The mean is the smallest value over u > 0 of
    max l + u - exp(-r + sum of q_i log(u + d_i)), whose derivative is 0 where
    log(sum of q_i / (u + d_i)) + sum of q_i log(u + d_i) = r; the left side falls in u. By Kantorovich's inequality it
    is below r once u > D / (2 sqrt(r)) for the largest gap D. With the mass m of gap 0 and the smallest other gap e it
    is above r as long as (1 - m) log u < (1 - m) log e + log m - r. All is computed in logarithms.
    """
    kept, positive = q > 0, gaps > 0
    mass = q[~positive].sum()
    if r == 0 or mass >= 1 or not (kept & positive).any():
        return q
    with np.errstate(divide="ignore"):
        log_q, log_gaps = np.log(q[kept]), np.log(gaps[kept])

    def excess(log_u: float) -> float:
        heights = np.logaddexp(log_u, log_gaps)
        return float(logsumexp(log_q - heights) + (q[kept] * heights).sum() - r)

    finite = log_gaps[np.isfinite(log_gaps)]
    low = float(finite.min() + (math.log(mass) - r) / (1 - mass) - 1)
    high = float(finite.max() - math.log(2 * math.sqrt(r)) + 1)
    if excess(high) >= 0:  # r is lost in rounding
        return q
    log_u = root_scalar(excess, method="brentq", bracket=(low, high), xtol=1e-13, rtol=1e-14).root
    logs = log_q - np.logaddexp(log_u, log_gaps)
    p = np.zeros_like(q)
    p[kept] = np.exp(logs - logsumexp(logs))
    return p


def _check(alpha: float, r: float) -> None:
    if isinstance(alpha, bool) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0 and 1, got {alpha}")
    if isinstance(r, bool) or not 0 <= r < math.inf:
        raise ValueError(f"r must be at least 0 and finite, got {r}")


def holistic_weights(losses: Tensor, alpha: float = 0.05, r: float = 0.1) -> Tensor:
    """Give the worst distribution near that of a batch: the weight of each loss, and that of the worst case.

    It maximises sum of p_i l_i + p_{N+1} max l over distributions p for which there is a q with KL(q || p) <= r that
    differs from 1/N each by at most ``alpha``, moved to the worst case.

    Args:
        losses: Losses, finite, (N,), N at least 1.
        alpha: Share of the batch that may be corrupted, within 0 and 1.
        r: Divergence, at least 0, in nats.

    Returns:
        Weights p, (N + 1,), at least 0 and of sum 1, with the dtype and device of the losses; they carry no gradient.

    Raises:
        ValueError: If a number is outside its range, or losses are not as above.

    Example:
        >>> holistic_weights(torch.tensor([0.0, 1.0, 2.0, 3.0]), alpha=0.25, r=0.0)
        tensor([0.0000, 0.2500, 0.2500, 0.2500, 0.2500])
    """
    _check(alpha, r)
    if losses.ndim != 1 or not len(losses) or not bool(losses.isfinite().all()):
        raise ValueError(f"losses must be finite, of shape (N,) with N at least 1, got shape {tuple(losses.shape)}")
    given = losses.detach().cpu().double().numpy()
    q = _corrupted(given, alpha)
    return torch.from_numpy(_worst(q, np.append(given.max() - given, 0.0), r)).to(losses)


@final
class HolisticRobustLoss(nn.Module):
    """Cross-entropy, in mean over the worst distribution near that of the batch.

    Weights are those of `holistic_weights`, and are held constant: the gradient is that of the largest mean itself. At
    ``alpha=0`` and ``r=0`` it is the mean cross-entropy, bit for bit; it grows with either, up to the largest loss.

    Args:
        alpha: Share of the batch that may be corrupted, within 0 and 1; the authors' example has 0.05.
        r: Divergence of what the batch is a sample of, at least 0, in nats; the authors' example has 0.1.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> logits, labels = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0])
        >>> [round(HolisticRobustLoss(alpha=alpha, r=0.0)(logits, labels).item(), 3) for alpha in (0.0, 0.5)]
        [0.371, 0.693]
    """

    def __init__(self, alpha: float = 0.05, r: float = 0.1) -> None:
        super().__init__()
        _check(alpha, r)
        self.alpha = alpha
        self.r = r

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: Logits, (N, classes), N at least 1.
            labels: Class numbers, int64, (N,).

        Returns:
            A scalar.
        """
        if self.alpha == 0 and self.r == 0:
            return F.cross_entropy(logits, labels)
        losses = F.cross_entropy(logits, labels, reduction="none")
        if not bool(losses.isfinite().all()):
            return losses.mean()
        weights = holistic_weights(losses, self.alpha, self.r)
        return (weights[:-1] * losses).sum() + weights[-1] * losses.amax()
