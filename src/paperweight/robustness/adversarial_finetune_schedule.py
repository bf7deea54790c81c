"""Slow start, fast decay: the learning rate of adversarial fine-tuning, which makes a trained network robust.

A network that was trained without attacks is trained on attacked images for a tenth of the usual time. The rate begins
so small that what the network knows is kept, rises smoothly, and then falls fast, so that there is no long tail of
small rates in which adversarial training overfits.
Cost: a few operations on plain numbers a step.

Fine-tuning is adversarial training of the trained network with this schedule, stepped after each update:
`paperweight.loops.fit_robust`, or any loop.

Source:
    A. Jeddi, M. J. Shafiee, A. Wong, "A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via
    Adversarial Fine-tuning", 2020, https://arxiv.org/abs/2012.13628. Implemented: a schedule of the kind that it
    describes, for fine-tuning on attacked images alone.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found. The form of the two parts, half a cosine up
      and an exponential down, where they meet, and all constants are ours: tune them.
"""

import math
from typing import final

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from paperweight.catalogue import Paper

__all__ = ["SlowStartFastDecay", "slow_start_fast_decay"]

PAPER = Paper(
    title="A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial Fine-tuning",
    authors=("Ahmadreza Jeddi", "Mohammad Javad Shafiee", "Alexander Wong"),
    year=2020,
    url="https://arxiv.org/abs/2012.13628",
    provides={"SlowStartFastDecay": "schedule", "slow_start_fast_decay": "function"},
    null={"base_lr": 0.1, "max_lr": 0.1},
    claim="Fine-tuning a trained network on attacks at this rate beats adversarial training at a tenth of its cost.",
)


def slow_start_fast_decay(
    step: int, steps: int, base_lr: float = 1e-4, max_lr: float = 0.01, warm: float = 0.5
) -> float:
    """Give the rate after a number of steps: half a cosine from the base up to the most, then an exponential to it.

    With t = step / steps it is base + (max - base) (1 - cos(pi t / warm)) / 2 up to t = warm, from there on
    max (base / max)^((t - warm) / (1 - warm)), and the base after all steps.

    Args:
        step: Number of steps taken, at least 0.
        steps: Number of steps of the training, at least 1.
        base_lr: The rate at both ends, above 0.
        max_lr: The largest rate, at least ``base_lr``; with the same it is constant.
        warm: Share of the steps in which the rate rises, above 0 and below 1.

    Returns:
        The rate.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [round(slow_start_fast_decay(step, 8, 0.01, 1.0, warm=0.5), 3) for step in range(9)]
        [0.01, 0.155, 0.505, 0.855, 1.0, 0.316, 0.1, 0.032, 0.01]
    """
    _check_count("step", step, 0)
    _check_shape(steps, base_lr, max_lr, warm)
    done = min(step / steps, 1.0)
    if done < warm:
        return base_lr + (max_lr - base_lr) * (1 - math.cos(math.pi * done / warm)) / 2
    return max_lr * (base_lr / max_lr) ** ((done - warm) / (1 - warm))


@final
class SlowStartFastDecay(LRScheduler):
    """Sets the learning rate of every group by `slow_start_fast_decay`, update by update.

    Args:
        optimizer: Any torch optimizer; step this object after it, once a batch.
        steps: Number of updates of the training, at least 1; afterwards the rate stays at ``base_lr``.
        base_lr: The rate at both ends, above 0.
        max_lr: The largest rate, at least ``base_lr``; to be tuned.
        warm: Share of the steps in which the rate rises, above 0 and below 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = SlowStartFastDecay(optimizer, steps=4, base_lr=0.01, max_lr=1.0)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates.append(round(schedule.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.01, 0.505, 1.0, 0.1]
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, base_lr: float = 1e-4, max_lr: float = 0.01, warm: float = 0.5
    ) -> None:
        _check_shape(steps, base_lr, max_lr, warm)
        self.steps, self.base_lr, self.max_lr, self.warm = steps, base_lr, max_lr, warm
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Give the rate of every group at the present step."""
        rate = slow_start_fast_decay(self.last_epoch, self.steps, self.base_lr, self.max_lr, self.warm)
        return [rate] * len(self.optimizer.param_groups)


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_shape(steps: int, base_lr: float, max_lr: float, warm: float) -> None:
    _check_count("steps", steps, 1)
    if isinstance(base_lr, bool) or not 0 < base_lr < math.inf:
        raise ValueError(f"base_lr must be above 0 and finite, got {base_lr}")
    if isinstance(max_lr, bool) or not base_lr <= max_lr < math.inf:
        raise ValueError(f"max_lr must be finite and at least base_lr={base_lr}, got {max_lr}")
    if isinstance(warm, bool) or not 0 < warm < 1:
        raise ValueError(f"warm must be above 0 and below 1, got {warm}")
