"""Whether a classifier's confidence can be trusted: how often it is right when it is sure, and in which order."""

import torch
from torch import Tensor

__all__ = ["area_under_risk_coverage", "expected_calibration_error"]


def expected_calibration_error(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Compute the mean distance of confidence and accuracy over bins of confidence of equal width.

    The confidence of an example is its largest probability; bin b of B holds those in (b / B, (b + 1) / B], the first
    one 0 as well, and each bin counts by the share of examples in it (Guo et al., ICML 2017,
    https://arxiv.org/abs/1706.04599, equation 3). The estimate is biased upward where bins hold few examples.

    Args:
        probabilities: Of the classes, (N, classes), rows with sum 1.
        labels: Class numbers, int64, (N,).
        bins: Number of bins, at least 1; 15 in the paper.

    Returns:
        The error, in [0, 1]; 0 is best.

    Raises:
        ValueError: If shapes do not fit, there is no example, rows do not sum to 1 within 0.01, a label is no
            class number, or ``bins`` is below 1.

    Example:
        >>> probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
        >>> round(expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1])), 6)
        0.05
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, right = _judged(probabilities, labels)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    number = torch.bucketize(confidence, edges)
    surplus = torch.zeros(bins, dtype=torch.float64, device=number.device).index_add(0, number, confidence - right)
    return surplus.abs().sum().item() / len(right)


def area_under_risk_coverage(probabilities: Tensor, labels: Tensor) -> float:
    """Compute the mean error rate among the most confident k of N examples, over k from 1 to N.

    Examples of equal confidence have no order, so that each counts with the error rate of all of them. Small values
    need few errors, and those at low confidence (Geifman et al., ICLR 2019, https://arxiv.org/abs/1805.08206).

    Args:
        probabilities: Of the classes, (N, classes), rows with sum 1.
        labels: Class numbers, int64, (N,).

    Returns:
        The area, in [0, 1]; 0 is best, and the error rate is what a confidence without meaning gives on average.

    Raises:
        ValueError: If shapes do not fit, there is no example, rows do not sum to 1 within 0.01, or a label is no class
            number.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> area_under_risk_coverage(probabilities, torch.tensor([0, 1]))
        0.25
    """
    confidence, right = _judged(probabilities, labels)
    _, group, sizes = torch.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(sizes), dtype=torch.float64, device=group.device).index_add(0, group, 1 - right) / sizes
    risks = wrong[group.sort().values].cumsum(0)
    return (risks / torch.arange(1, len(right) + 1, device=risks.device)).mean().item()


def _judged(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Give the confidence of each prediction and whether it is right, float64."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities and labels must have shapes (N, classes) and (N,) with N at least 1, got "
            f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    precise = probabilities.to(torch.float64)
    classes = precise.shape[1]
    if not torch.allclose(precise.sum(dim=1), torch.ones_like(precise[:, 0]), atol=1e-2) or precise.min() < 0:
        raise ValueError(
            "probabilities must be at least 0 in rows with sum 1, got others; apply softmax to logits first"
        )
    if labels.dtype != torch.int64 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be int64 in [0, {classes}), got {labels.dtype} from {labels.min().item()} to "
            f"{labels.max().item()}"
        )
    confidence, predicted = precise.max(dim=1)
    return confidence, (predicted == labels).to(torch.float64)
