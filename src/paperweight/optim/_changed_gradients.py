"""A step of any optimizer on changed gradients, after which the original ones are back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["step_on_changed"]


def step_on_changed(
    optimizer: torch.optim.Optimizer,
    change: Callable[[Tensor, dict[str, Any]], Tensor],
    closure: Callable[[], float] | None = None,
) -> float | None:
    """Step an optimizer on changed gradients; each time it calls ``closure``, that finds the original ones.

    Args:
        optimizer: The optimizer.
        change: Maps a gradient and the group of its parameter to the gradient to step on.
        closure: Makes the gradients and returns the loss, for optimizers that call one.

    Returns:
        What the optimizer returns.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([-1.0, -3.0])
        >>> step_on_changed(torch.optim.SGD([weight], lr=1.0), lambda gradient, group: gradient.sign())
        >>> weight.detach(), weight.grad
        (tensor([1., 1.]), tensor([-1., -3.]))
    """
    originals: list[tuple[Tensor, Tensor]] = []

    def put_in() -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    originals.append((p, p.grad))
                    p.grad = change(p.grad.detach(), group)

    def restore() -> None:
        while originals:
            p, gradient = originals.pop()
            p.grad = gradient

    def changed(evaluate: Callable[[], float]) -> float:
        restore()
        loss = evaluate()
        put_in()
        return loss

    try:
        put_in()
        return optimizer.step(closure and partial(changed, closure))
    finally:
        restore()
