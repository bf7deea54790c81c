"""Non-negative contrastive learning (NCL): features held at 0 or above, so that each dimension comes to mean something.

A contrastive loss does not change when features are rotated, so that no single dimension need mean anything. Held at 0
or above, which only a change of the projector's output takes, features cannot be rotated freely: as in non-negative
matrix factorisation they become sparse, and a dimension is active for few classes. `NonNegativeHead` does the same to a
classifier.
Cost: one activation function more; no parameters.

Source:
    Y. Wang, Q. Zhang, Y. Guo, Y. Wang, "Non-negative Contrastive Learning", ICLR, 2024,
    https://arxiv.org/abs/2403.12459. Implemented: the loss with ReLU and with reparametrised ReLU, non-negative
    cross-entropy (NCE), class consistency and feature sparsity. Activation and measures were compared with the authors'
    code, https://github.com/PKU-ML/non_neg.

Deviations:
    - The paper's section on supervised learning was not at hand, and its code has no supervised part: that the weights
      of the head are held at 0 or above as the features are, and its bias is free, is this project's reading.
    - A dimension is active where it is above ``eps`` in features as they are given; the authors normalise features of
      each sample first. Give normalised features for the same.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["NonNegativeHead", "class_consistency", "feature_sparsity", "ncl_loss", "rep_relu"]

PAPER = Paper(
    title="Non-negative Contrastive Learning",
    authors=("Yifei Wang", "Qi Zhang", "Yaoyu Guo", "Yisen Wang"),
    year=2024,
    url="https://arxiv.org/abs/2403.12459",
    provides={
        "NonNegativeHead": "layer",
        "class_consistency": "function",
        "feature_sparsity": "function",
        "ncl_loss": "function",
        "rep_relu": "function",
    },
    null={"activation": "none"},
    claim="Non-negative features are sparse, and their dimensions belong to single classes, unlike those of contrast.",
)

Activation = Literal["rep_relu", "relu", "none"]


def rep_relu(x: Tensor) -> Tensor:
    """Compute max(0, x), bit for bit, with the gradient of GELU, so that what is 0 can rise again.

    Args:
        x: Inputs, floating and finite, any shape.

    Returns:
        Activations, of the shape of ``x``.

    Raises:
        ValueError: If ``x`` is not floating.

    Example:
        >>> x = torch.tensor([-0.5, 2.0], requires_grad=True)
        >>> y = rep_relu(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad
        ([0.0, 2.0], tensor([0.1325, 1.0852]))
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    smooth = F.gelu(x)
    return F.relu(x).detach() + (smooth - smooth.detach())


def ncl_loss(first: Tensor, second: Tensor, temperature: float = 0.5, activation: Activation = "rep_relu") -> Tensor:
    """Compute the contrastive loss of features that an activation holds at 0 or above: each view finds its twin.

    Cosines are then from 0 to 1. With ``activation="none"`` it is the loss of SimCLR, bit for bit. Cosines have no
    gradient in a dimension that is 0 for the whole batch: not even `rep_relu` brings that back.

    Args:
        first: What the projector gives for the first views, (N, d), N at least 1; of one image the loss is 0.
        second: The same for the second views, in the same order, (N, d).
        temperature: What cosines are divided by, above 0; 0.5 is usual for small images.
        activation: ``"rep_relu"`` for `rep_relu`, ``"relu"``, or ``"none"``.

    Returns:
        The mean over all 2N views of the cross-entropy of the other view of the same image among the other views.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> codes = torch.eye(3)
        >>> bool(ncl_loss(codes, codes) < ncl_loss(codes, codes.flip(0)))
        True
    """
    if first.ndim != 2 or not first.numel() or first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape (N, d) without a 0, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be finite and above 0, got {temperature!r}")
    codes = F.normalize(_activated(torch.cat([first, second]), activation))
    scores = (codes @ codes.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(scores, torch.arange(len(codes), device=codes.device).roll(len(first)))


def _activated(x: Tensor, activation: Activation) -> Tensor:
    if activation == "rep_relu":
        return rep_relu(x)
    if activation == "relu":
        return F.relu(x)
    if activation == "none":
        return x
    raise ValueError(f"activation must be 'rep_relu', 'relu' or 'none', got {activation!r}")


class NonNegativeHead(nn.Module):
    """The last linear layer of a classifier, with features and weights held at 0 or above by `rep_relu`; its bias free.

    Cross-entropy of what it gives is non-negative cross-entropy (NCE). A class then has evidence in its favour only,
    from features that are sparse.

    Args:
        linear: The layer whose weights and bias it takes over, (classes, d) and (classes,).

    Raises:
        ValueError: If it is no linear layer.

    Example:
        >>> head = NonNegativeHead(nn.Linear(3, 2, bias=False))
        >>> bool((head(torch.randn(5, 3)) >= 0).all())
        True
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"linear must be a torch.nn.Linear, got {linear!r}")
        self.linear = linear

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            features: Features of any sign, (..., d).

        Returns:
            Logits, (..., classes).
        """
        return F.linear(rep_relu(features), rep_relu(self.linear.weight), self.linear.bias)


def class_consistency(features: Tensor, labels: Tensor, eps: float = 1e-5) -> float:
    """Compute how far a dimension belongs to one class: of the samples for which it is active, the most frequent class.

    The mean is over dimensions that are active for some sample. Features that are active for every sample have the
    share of the most frequent class.

    Args:
        features: Features of samples, (N, d).
        labels: Class numbers, int64, (N,).
        eps: Active is what is farther than this from 0, at least 0.

    Returns:
        The mean share, above 0 and at most 1; NaN where nothing is active.

    Raises:
        ValueError: If shapes do not fit, or ``eps`` is outside its range.

    Example:
        >>> class_consistency(torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 0.5]]), torch.tensor([0, 1, 1]))
        0.8333333333333333
    """
    active = _active(features, eps)
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.min() < 0:
        raise ValueError(
            f"labels must be whole numbers of at least 0 of shape ({len(features)},), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    counts = F.one_hot(labels.long()).double().T @ active.double()
    totals = counts.sum(dim=0)
    return (counts.max(dim=0).values / totals)[totals > 0].mean().item()


def feature_sparsity(features: Tensor, eps: float = 1e-5) -> float:
    """Compute the share of entries that are 0.

    Args:
        features: Features of samples, (N, d).
        eps: 0 is what is not farther than this from it, at least 0.

    Returns:
        The share, from 0 to 1.

    Raises:
        ValueError: If features are not of shape (N, d), or ``eps`` is outside its range.

    Example:
        >>> feature_sparsity(torch.tensor([[0.0, 1.0], [0.0, -2.0]]))
        0.5
    """
    return 1 - _active(features, eps).double().mean().item()


def _active(features: Tensor, eps: float) -> Tensor:
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"features must have shape (N, d) without a 0, got {tuple(features.shape)}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and at least 0, got {eps!r}")
    return features.abs() > eps
