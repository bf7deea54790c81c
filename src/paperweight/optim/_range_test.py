"""The range test of learning rates: the loss at each of many rates, and the bounds that are read off it.

Source:
    L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV, 2017, https://arxiv.org/abs/1506.01186,
    section 3.3.

Deviations:
    those of `paperweight.optim.cyclical_lr`
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["losses_at", "suggest_bounds"]

Batch = TypeVar("Batch")


def losses_at(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    rates: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Train a copy, a step at each rate, until a loss is not finite; return rates and the loss before each step."""
    model, optimizer = copy.deepcopy((model, optimizer))
    losses: list[float] = []
    with torch.random.fork_rng({p.get_device() for p in model.parameters() if p.is_cuda}), torch.enable_grad():
        model.train()
        for rate, batch in zip(rates, _again(batches), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            value = loss(model, batch)
            if not value.isfinite():
                break
            losses.append(value.item())
            value.backward()
            optimizer.step()
    return torch.tensor(rates[: len(losses)], dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)


def _again(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Go through the batches without end."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("batches must last for all steps, got none; give a list or a data loader, or fewer steps")


def suggest_bounds(rates: Tensor, losses: Tensor) -> tuple[float, float]:
    """Read the bounds of a cycle off a range test: up to the rate at which the fall of the loss slows down.

    The losses are averaged over a twentieth of the steps. The upper bound is the rate at which the average has first
    gone three quarters of the way from its start to its minimum, since what comes later depends on chance; the lower
    bound is a quarter of it, the paper's rule of thumb. The paper's other choice, the rate at which the loss begins to
    fall, is too high for a network that needs some steps before it learns at any rate.

    Args:
        rates: The rates of a range test, in order, shape ``(n,)``.
        losses: The loss at each rate, finite, shape ``(n,)``.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: If the shapes are not ``(n,)`` with n of at least 1, or losses are not finite or never fall.

    Example:
        >>> suggest_bounds(torch.arange(11.0), torch.tensor([9.0, 9.0, 9.0, 7.0, 5.0, 3.0, 1.0, 0.5, 0.0, 4.0, 9.0]))
        (1.5, 6.0)
    """
    if rates.ndim != 1 or rates.shape != losses.shape or not len(rates):
        raise ValueError(f"rates and losses must have one shape (n,), got {rates.shape} and {losses.shape}")
    if not losses.isfinite().all():
        raise ValueError("losses must be finite; leave out all from the first that is not")
    width = max(1, len(rates) // 20)
    centre, average = (values.double().unfold(0, width, 1).mean(1) for values in (rates, losses))
    fall = average[0] - average.min()
    if fall <= 0:
        raise ValueError("losses must fall somewhere; begin the range test at a smaller rate, or take more steps")
    top = centre[average <= average[0] - 0.75 * fall][0].item()
    return top / 4, top
