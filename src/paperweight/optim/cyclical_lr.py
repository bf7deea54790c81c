"""Cyclical learning rates (CLR): the rate rises and falls linearly between two bounds, over and over.

A run with a steadily growing rate, the range test, shows between which bounds a model learns; cycling between them is
to take the place of a search for the one best rate.
Cost: a few operations on plain numbers a step; the range test is a short training run on a copy of the model.

torch has the cycle as `torch.optim.lr_scheduler.CyclicLR`; this adds the range test, a rule that reads it, and the
policies as pure functions of the step. The rates are the same, but torch moves the momentum, too, unless told not to.

Source:
    L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV, 2017, https://arxiv.org/abs/1506.01186.
    Implemented: the policies triangular, triangular2 and exp_range of section 3.1, the range test of section 3.3.

Deviations:
    - exp_range shrinks the distance to the lower bound, as bckenstler/CLR and torch do; the paper shrinks both bounds.
    - The range test records the loss of each batch, where the paper plots accuracy on held-out images, and the bounds
      are read off by a rule, where the paper's author looks at the plot.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, TypeVar, final, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from paperweight.catalogue import Paper
from paperweight.optim._range_test import losses_at, suggest_bounds

__all__ = ["CyclicalLR", "exp_range", "lr_range_test", "suggest_bounds", "triangular", "triangular2"]

PAPER = Paper(
    title="Cyclical Learning Rates for Training Neural Networks",
    authors=("Leslie N. Smith",),
    year=2017,
    url="https://arxiv.org/abs/1506.01186",
    provides={
        "CyclicalLR": "schedule",
        "triangular": "function",
        "triangular2": "function",
        "exp_range": "function",
        "lr_range_test": "function",
        "suggest_bounds": "function",
    },
    null={"base_lr": 0.1, "max_lr": 0.1},
    claim="Cycling the rate between the bounds of one range test needs no tuning and often fewer steps to an accuracy.",
)

Batch = TypeVar("Batch")
Mode = Literal["triangular", "triangular2", "exp_range"]


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def _check_cycle(base_lr: float, max_lr: float, step_size: int, gamma: float = 1.0) -> None:
    if not 0 <= base_lr < math.inf:
        raise ValueError(f"base_lr must be finite and at least 0, got {base_lr}")
    if not base_lr <= max_lr < math.inf:
        raise ValueError(f"max_lr must be finite and at least base_lr={base_lr}, got {max_lr}")
    _check_count("step_size", step_size, 1)
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], got {gamma}; 1 keeps every cycle as high as the first")


def _height(step: int, step_size: int) -> float:
    """Give max(0, 1 - x) of section 3.1: 0 at the ends of a cycle of ``2 * step_size`` steps, 1 in its middle."""
    _check_count("step", step, 0)
    return 1 - abs(step % (2 * step_size) / step_size - 1)


def triangular(step: int, base_lr: float, max_lr: float, step_size: int) -> float:
    """Give the rate of the policy triangular, which cycles between the bounds.

    Args:
        step: Number of steps taken, at least 0.
        base_lr: The lower bound, at least 0; it is met at the start and end of each cycle.
        max_lr: The upper bound, at least ``base_lr``; it is met in the middle.
        step_size: Half of the steps of a cycle, at least 1; the paper has 2 to 10 epochs.

    Returns:
        The rate.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [triangular(step, 1.0, 3.0, step_size=2) for step in range(6)]
        [1.0, 2.0, 3.0, 2.0, 1.0, 2.0]
    """
    _check_cycle(base_lr, max_lr, step_size)
    return base_lr + (max_lr - base_lr) * _height(step, step_size)


def triangular2(step: int, base_lr: float, max_lr: float, step_size: int) -> float:
    """Give the rate of the policy triangular2, each of whose cycles is half as high as the one before.

    Args:
        step: Number of steps taken, at least 0.
        base_lr: The lower bound, at least 0; it is met at the start and end of each cycle.
        max_lr: The upper bound, at least ``base_lr``; it is met in the middle of the first cycle.
        step_size: Half of the steps of a cycle, at least 1; the paper has 2 to 10 epochs.

    Returns:
        The rate.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [triangular2(step, 1.0, 3.0, step_size=2) for step in (0, 2, 4, 6, 8, 10)]
        [1.0, 3.0, 1.0, 2.0, 1.0, 1.5]
    """
    _check_cycle(base_lr, max_lr, step_size)
    return base_lr + (max_lr - base_lr) * _height(step, step_size) * 0.5 ** (step // (2 * step_size))


def exp_range(step: int, base_lr: float, max_lr: float, step_size: int, gamma: float = 0.99994) -> float:
    """Give the rate of the policy exp_range, whose distance to the lower bound shrinks by a factor in every step.

    Args:
        step: Number of steps taken, at least 0.
        base_lr: The lower bound, at least 0; it is met at the start and end of each cycle.
        max_lr: What the middle of the first cycle would meet without the factor, at least ``base_lr``.
        step_size: Half of the steps of a cycle, at least 1; the paper has 2 to 10 epochs.
        gamma: The factor, in (0, 1]; the paper's 0.99994 is for 70,000 steps.

    Returns:
        The rate.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [exp_range(step, 1.0, 3.0, step_size=2, gamma=0.5) for step in range(5)]
        [1.0, 1.5, 1.5, 1.125, 1.0]
    """
    _check_cycle(base_lr, max_lr, step_size, gamma)
    return base_lr + (max_lr - base_lr) * _height(step, step_size) * gamma**step


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    max_lr: float,
    steps: int,
    base_lr: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Train a copy while the rate grows linearly, and record the loss at each rate.

    Model, optimizer and random state stay as they are. The run ends early at a loss that is not finite.

    Args:
        model: What is to be trained; its copy is put into train mode.
        optimizer: Holds the model's parameters; hooks on it are not copied.
        loss: Maps a model and a batch to the mean loss, a scalar with a gradient.
        batches: One batch a step; gone through again where it ends before the steps do, as a data loader can be.
        max_lr: The rate that would follow the last step, at least ``base_lr``, so large that learning stops before it.
        steps: Number of steps, at least 1; the paper has those of several epochs.
        base_lr: The rate of the first step, at least 0.

    Returns:
        The rates, and for each the loss of its batch before the step at that rate, both in float64 on the CPU, shape
        ``(steps,)``, or shorter where the run ended early.

    Raises:
        ValueError: If a number is outside its range, or ``batches`` ends too early and has no more.

    Example:
        >>> model = nn.PReLU(init=1.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> half_square = lambda model, batch: model(batch).square().sum() / 2
        >>> rates, losses = lr_range_test(model, optimizer, half_square, [-torch.ones(1)], max_lr=2.0, steps=4)
        >>> rates.tolist(), losses.tolist()
        ([0.0, 0.5, 1.0, 1.5], [0.5, 0.5, 0.125, 0.0])
    """
    _check_count("steps", steps, 1)
    _check_cycle(base_lr, max_lr, steps)
    rates = [triangular(step, base_lr, max_lr, step_size=steps) for step in range(steps)]
    return losses_at(model, optimizer, loss, batches, rates)


@final
class CyclicalLR(LRScheduler):
    """Cycles the learning rate of every group between two bounds, step by step.

    Training best stops at the end of a cycle, after a multiple of ``2 * step_size`` steps. With equal bounds the rate
    is constant.

    Args:
        optimizer: Any torch optimizer; step this object after it, once a batch.
        base_lr: The lower bound, at least 0; the paper has 0.001 for a small convolutional network.
        max_lr: The upper bound, at least ``base_lr``; the paper has 0.006 for the same, found by a range test.
        step_size: Half of the steps of a cycle, at least 1; the paper has 2 to 10 epochs.
        mode: The policy: the name of one of the functions `triangular`, `triangular2` and `exp_range`.
        gamma: The factor of exp_range, in (0, 1]; the others leave it out.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = CyclicalLR(optimizer, base_lr=0.001, max_lr=0.006, step_size=2)
        >>> optimizer.step()
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.0035]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        base_lr: float,
        max_lr: float,
        step_size: int,
        mode: Mode = "triangular",
        gamma: float = 0.99994,
    ) -> None:
        _check_cycle(base_lr, max_lr, step_size, gamma)
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
        self.base_lr, self.max_lr, self.step_size = base_lr, max_lr, step_size
        self.mode, self.gamma = mode, gamma
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Give the rate of every group at the present step."""
        decaying = partial(exp_range, gamma=self.gamma)
        policies = {"triangular": triangular, "triangular2": triangular2, "exp_range": decaying}
        rate = policies[self.mode](self.last_epoch, self.base_lr, self.max_lr, self.step_size)
        return [rate] * len(self.optimizer.param_groups)
