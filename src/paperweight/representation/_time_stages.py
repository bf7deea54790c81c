"""Features in groups, and the times of diffusion that each group belongs to.

Source:
    Z. Yue, J. Wang, Q. Sun, L. Ji, E. I-C. Chang, H. Zhang, "Exploring Diffusion Time-steps for Unsupervised
    Representation Learning", ICLR, 2024, https://arxiv.org/abs/2401.11430, by the authors' code,
    https://github.com/yue-zhongqi/diti.

Deviations:
    - Sizes and times of groups are given one by one. The authors spread features evenly over the groups of a stage.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_places", "is_whole", "masked_features", "stage_masks", "time_groups"]


def stage_masks(dims: Sequence[int]) -> Tensor:
    """Make nested masks of features: row i keeps the first i + 1 groups of them.

    Args:
        dims: How many features each group has, whole numbers of at least 1; at least one group.

    Returns:
        Zeros and ones, float32, (len(dims), sum(dims)); the last row is all ones.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> stage_masks((1, 2)).tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    if not dims or not all(is_whole(each) and each >= 1 for each in dims):
        raise ValueError(f"dims must hold at least one, each a whole number of at least 1, got {dims!r}")
    ends = torch.tensor(list(dims)).cumsum(dim=0)
    return (torch.arange(sum(dims)) < ends[:, None]).float()


def time_groups(steps: int, groups: int, bounds: Sequence[int] | None = None) -> Tensor:
    """Tell which group each time of diffusion belongs to, in order from 0.

    Args:
        steps: How many times there are, at least 1.
        groups: How many groups there are, from 1 to ``steps``.
        bounds: The first time after each group, rising, from at least 1 to ``steps``; by default groups of equal
            length, up to rounding.

    Returns:
        Numbers of groups, int64, (steps,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> time_groups(6, 3).tolist(), time_groups(6, 3, bounds=(1, 2, 6)).tolist()
        ([0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 2, 2])
    """
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    if not is_whole(groups) or not 1 <= groups <= steps:
        raise ValueError(f"groups must be a whole number from 1 to {steps}, got {groups!r}")
    times = torch.arange(steps)
    if bounds is None:
        return times * groups // steps
    ends = list(bounds)
    rising = all(is_whole(end) for end in ends) and all(a < b for a, b in zip([0, *ends], ends, strict=False))
    if len(ends) != groups or not rising or ends[-1] != steps:
        raise ValueError(f"bounds must be {groups} whole numbers that rise from at least 1 to {steps}, got {bounds!r}")
    return torch.bucketize(times, torch.tensor(ends), right=True)


def masked_features(features: Tensor, masks: Tensor, groups: Tensor, detach_earlier: bool = False) -> Tensor:
    """Keep the features of each sample's group and of those before it; the rest is 0.

    Args:
        features: Features, (N, d).
        masks: Nested masks, (k, d), as `stage_masks` gives them.
        groups: The group of each sample, int64, from 0 to k - 1, (N,).
        detach_earlier: Whether groups before a sample's own get no gradient from it; what is computed is the same.

    Returns:
        The features that are kept, (N, d).

    Raises:
        ValueError: If shapes do not fit, or a group is outside its range.

    Example:
        >>> masked_features(torch.ones(2, 3), stage_masks((1, 2)), torch.tensor([0, 1])).tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    if features.ndim != 2 or masks.ndim != 2 or not len(masks) or masks.shape[1] != features.shape[1]:
        raise ValueError(f"masks must be (k, d) for features (N, d), got {masks.shape} and {features.shape}")
    if groups.shape != features.shape[:1]:
        raise ValueError(f"features must be (N, d) for groups (N,), got {features.shape} and {groups.shape}")
    check_places("groups", groups, len(features), len(masks))
    kept = masks.to(features)[groups.to(features.device)]
    if not detach_earlier:
        return features * kept
    earlier = torch.cat([torch.zeros_like(masks[:1]), masks[:-1]]).to(features)[groups.to(features.device)]
    return features.detach() * earlier + features * (kept - earlier)


def is_whole(value: object) -> bool:
    """Say whether something is a whole number, which a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_places(name: str, given: Tensor, count: int, end: int) -> None:
    """Refuse what is not int64 of shape (count,), from 0 to below ``end``."""
    if given.shape != (count,) or given.dtype != torch.int64 or not bool(((given >= 0) & (given < end)).all()):
        raise ValueError(f"{name} must be int64 from 0 to {end - 1} of shape ({count},), got {given!r}")
