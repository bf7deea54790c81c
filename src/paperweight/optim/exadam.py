"""EXAdam: Adam with moments that correct each other, the present gradient beside its average, and a growing step.

Early estimates of both moments are too small for two reasons, and each is corrected by a factor that the other decides.
The gradient at hand is added to its average, which doubles the step in the long run and is eleven times the average
in the first step; and the step size grows as the logarithm of the number of steps.
Cost: the memory of Adam, and sixteen passes over it in each of the first 350 steps, then eleven; compiled, one pass.

Source:
    A. M. Adly, "EXAdam: The Power of Adaptive Cross-Moments", 2024, https://arxiv.org/abs/2412.20302. Implemented: the
    algorithm, with the growing step that the abstract describes as a switch.

Deviations:
    - The authors' later code has no growing step: it is ``log_step=False`` here.
    - The present gradient is divided by ``1 - betas[0] ** t``, as its average is, which is how the authors' code has
      it: the first step is then 15.95 times ``lr`` at the defaults, without the growing step's factor of 0.69.
    - `eps` must be above 0, since the factors divide by it where both moments are 0.
"""

# torch documents its foreach functions, and does not export them:
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.optim._elementwise import Number, Tensors, check_group, rows_by_step, update_rows

__all__ = ["EXAdam"]

PAPER = Paper(
    title="EXAdam: The Power of Adaptive Cross-Moments",
    authors=("Ahmed M. Adly",),
    year=2024,
    url="https://arxiv.org/abs/2412.20302",
    provides={"EXAdam": "optimizer"},
    null={"betas": (0.0, 0.0), "log_step": False},
    claim="It converges faster than Adam and reaches a higher accuracy.",
)


def _update(columns: list[Tensors], numbers: tuple[Number, ...], group: dict[str, Any]) -> None:
    """Take a step with parameters, gradients and averages of gradients and squares as columns."""
    params, gradients, averages, squares = columns
    kept, first, second, root, rate = numbers
    beta1, beta2 = group["betas"]
    if group["weight_decay"]:
        torch._foreach_mul_(params, kept)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    sums = torch._foreach_add(averages, gradients)
    if isinstance(rate, Tensor):  # compiled; foreach functions would make constants of tensors that are numbers
        for x, u, m, v in zip(params, sums, averages, squares, strict=True):
            d1, d2 = (1 + share * (a / (a + group["eps"])) for share, a in ((second, v), (first, m * m)))
            x.sub_(rate * u * d1 / ((v * d2).sqrt() / root + group["eps"]))
        return
    first, second = float(first), float(second)
    if 1 + second > 1:
        _correct(sums, squares, second, group["eps"])
    if 1 + first > 1:
        squares = tuple(v.clone() for v in squares)
        _correct(squares, torch._foreach_mul(averages, averages), first, group["eps"])
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, root)
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(params, sums, roots, value=-rate)


def _correct(estimates: Tensors, moments: Tensors, share: float, eps: float) -> None:
    """Update e = e (1 + share a / (a + eps)) in place: e d1 with a = v and b2^t, e d2 with a = m^2 and b1^t."""
    ratios = torch._foreach_div(moments, torch._foreach_add(moments, eps))  # first, so that no product overflows
    torch._foreach_addcmul_(estimates, estimates, ratios, value=share)


def _numbers(step: int, group: dict[str, Any]) -> tuple[float, ...]:
    """Give the share of a weight that decay keeps, b1^t, b2^t, sqrt(1 - b2^t) and the rate over 1 - b1^t.

    The rate is lr, times log(2 (t + 1)) / 2 where it grows.
    """
    first, second = (beta**step for beta in group["betas"])
    growth = math.log(2 * (step + 1)) / 2 if group["log_step"] else 1.0
    kept = 1 - group["lr"] * group["weight_decay"]
    return kept, first, second, (1 - second) ** 0.5, group["lr"] * growth / (1 - first)


@final
class EXAdam(torch.optim.Optimizer):
    """Adam with cross-corrected moments, the present gradient added to its average, and a step that may grow.

    At ``betas = (0, 0)`` and ``log_step=False``, where both moments are those of the gradient at hand, it is
    `torch.optim.Adam` at twice the rate, bit for bit. Rates are not those of Adam: in the long run a step is twice as
    large, and in the first ones much larger, so that half of Adam's rate or less is where to begin. Parameter groups
    may differ in every argument.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Step size, at least 0.
        betas: Weights of the past in the averages of gradients and of their squares, each in [0, 1).
        eps: Added to the root, and to the moments where factors divide by them, above 0.
        weight_decay: Strength of weight decay, at least 0: weights are multiplied by ``1 - lr * weight_decay``.
        log_step: Whether the step size is ``lr * log(2 * (t + 1)) / 2`` in step t, as in the paper, and not ``lr``.
        compiled: Whether `torch.compile` makes one pass of each step, at results that differ by rounding. The first
            step then takes seconds, with hundreds of parameters minutes, and on a CPU needs a C++ compiler; other
            parameters with gradients, or other hyper-parameters than ``lr``, compile again.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.tensor([10.0])
        >>> EXAdam([weight], lr=0.1, log_step=False).step()
        >>> round(weight.item(), 2)
        -1.6
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        log_step: bool = True,
        compiled: bool = False,
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "log_step": log_step, "compiled": compiled})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with the optimizer's own numbers where the group names none.

        Raises:
            ValueError: If a number is outside its range.
        """
        check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure``, if given, makes the gradients, and the loss it returns is returned.

        Raises:
            ValueError: If a gradient is sparse or complex.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for step, rows in rows_by_step(self, group, ("exp_avg", "exp_avg_sq")).items():
                update_rows(_update, rows, _numbers(step, group), group, compiled=group["compiled"])
        return loss
