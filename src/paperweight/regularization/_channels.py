"""Which channels tell the domain of an example, masks that drop them, and gradients that go back reversed.

Source:
    J. Guo, L. Qi, Y. Shi, "DomainDrop", ICCV 2023, https://arxiv.org/abs/2308.10285: see `domaindrop`.

Deviations:
    - Where all channels speak alike, at a pixel or on the whole, their scores are 0. The authors' code divides 0 by 0
      there, and then drops nothing of that example.
    - Exactly the share is dropped; the authors' threshold drops none of the channels that are equal at it.
"""

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["check_drop", "domain_sensitivity", "drop_mask", "reverse_gradient"]


def domain_sensitivity(features: Tensor, weights: Tensor) -> Tensor:
    """Compute how much each channel speaks for the domain of its example, from 0 to 1.

    At each pixel the features are multiplied by the discriminator's weights for the domain, and the products scaled
    so that the least channel is at 0 and the largest at 1; of each channel the mean over the pixels is taken, and
    scaled in the same way.

    Args:
        features: (N, C, ...), C at least 1.
        weights: For each example the row of its domain, (N, C).

    Returns:
        (N, C).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> domain_sensitivity(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, -1.0, 1.0]]))
        tensor([[0.5000, 0.0000, 1.0000]])
    """
    if features.ndim < 2 or weights.shape != features.shape[:2] or not features.shape[1]:
        raise ValueError(
            f"weights must have shape (N, C) of features (N, C, ...), got {tuple(weights.shape)} for "
            f"{tuple(features.shape)}"
        )
    products = features * weights.view(*weights.shape, *[1] * (features.ndim - 2))
    return _scaled(_scaled(products).flatten(2).mean(2) if features.ndim > 2 else _scaled(products))


def _scaled(values: Tensor) -> Tensor:
    """Scale to 0 to 1 along the channels; to 0 where all are equal."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1)


def drop_mask(scores: Tensor, drop: float = 0.33, generator: torch.Generator | None = None) -> Tensor:
    """Draw which channels of each example are dropped, those with high scores more often.

    Each channel has the key r^(1 / score) with r uniform, and those with the largest keys are dropped: a weighted draw
    without replacement. What is kept is scaled so that the mean of the mask is 1.

    Args:
        scores: From 0 to 1, (N, C).
        drop: Share of the channels, at least 0 and below 1; 0.33 in the authors' code. The number is rounded down.
        generator: Source of r; the global random state if left out.

    Returns:
        (N, C): 0 for int(drop * C) channels of each example, C / (C - int(drop * C)) for the others.

    Raises:
        ValueError: If ``drop`` is outside its range, or the scores have another shape.

    Example:
        >>> drop_mask(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), drop=0.25)
        tensor([[1.3333, 1.3333, 0.0000, 1.3333]])
    """
    check_drop(drop)
    if scores.ndim != 2:
        raise ValueError(f"scores must have shape (N, C), got {tuple(scores.shape)}")
    channels = scores.shape[1]
    count = int(drop * channels)
    device = scores.device if generator is None else generator.device
    r = torch.rand(scores.shape, generator=generator, dtype=scores.dtype, device=device).to(scores.device)
    keys = r.log() / scores  # of the order of r^(1 / score), and exact where that would be 0
    mask = torch.full_like(scores, channels / (channels - count))
    return mask.scatter(1, keys.topk(count, dim=1).indices, 0.0)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: Tensor, weight: float) -> Tensor:
    """Give x, through which a gradient goes back reversed and times a weight."""
    return cast(Tensor, _Reversal.apply(x, weight))


def check_drop(drop: float) -> None:
    if not 0 <= drop < 1:
        raise ValueError(f"drop must be at least 0 and below 1, got {drop}")
