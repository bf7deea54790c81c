"""Learning-rate schedules that studies share."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["warmed_cosine"]


def warmed_cosine(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Make a schedule whose rate rises over a tenth of the steps and then falls along a cosine, to 0 after the last.

    Args:
        optimizer: Its learning rate is the largest.
        steps: Number of steps, at least 1.

    Raises:
        ValueError: If ``steps`` is below 1.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = warmed_cosine(sgd, 20), []
        >>> for _ in range(20):
        ...     rates.append(sgd.param_groups[0]["lr"])
        ...     sgd.step()
        ...     schedule.step()
        >>> rates[:3], round(rates[11], 3)
        ([0.5, 1.0, 1.0], 0.5)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    warm = max(1, steps // 10)

    def factor(step: int) -> float:
        rest = max(0, step - warm) / max(1, steps - warm)
        return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * rest))

    return LambdaLR(optimizer, factor)
