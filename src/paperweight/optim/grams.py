"""Grams (gradient descent with adaptive momentum scaling): Adam's step sizes in the direction of the gradient alone.

Each entry moves as far as AdamW would move it, but always against the sign of the present gradient: where momentum and
gradient agree it is AdamW, and where they do not, momentum no longer carries the weight uphill.
Cost: the memory of Adam, and ten passes over it a step; compiled, one pass, as fused AdamW.

Source:
    Y. Cao, X. Li, Z. Song, "Grams: Gradient Descent with Adaptive Momentum Scaling", ICLR Workshop on Scalable
    Optimization for Efficient and Adaptive Foundation Models, 2025, https://arxiv.org/abs/2412.17107. Implemented: the
    algorithm for AdamW with its decoupled weight decay.

Deviations:
    - `eps` joins the root after its correction, as in the paper's algorithm and in torch's AdamW; the authors' package
      adds it before, so that in the first steps it counts up to 1 / sqrt(1 - betas[1]) times as much.
    - The authors' package overwrites the gradients of the model and has a switch for steps without bias correction.
      Here gradients stay, and there is no switch.
    - The same rule on top of Lion is left out.
"""

# torch documents its foreach functions, and does not export them:
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.optim._elementwise import Number, Tensors, check_group, rows_by_step, update_rows

__all__ = ["Grams"]

PAPER = Paper(
    title="Grams: Gradient Descent with Adaptive Momentum Scaling",
    authors=("Yang Cao", "Xiaoyu Li", "Zhao Song"),
    year=2024,
    url="https://arxiv.org/abs/2412.17107",
    provides={"Grams": "optimizer"},
    null={"betas": (0.0, 0.999)},
    claim="It descends faster than Adam and Lion and their cautious versions, and generalises better.",
)


def _update(columns: list[Tensors], numbers: tuple[Number, ...], group: dict[str, Any]) -> None:
    """Take a step with parameters, gradients and averages of gradients and squares as columns."""
    params, gradients, averages, squares = columns
    kept, root, rate = numbers
    beta1, beta2 = group["betas"]
    if group["weight_decay"]:
        torch._foreach_mul_(params, kept)
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    steps = torch._foreach_abs(averages)
    torch._foreach_mul_(steps, torch._foreach_sign(gradients))
    _move(params, steps, squares, root, rate, group["eps"])


def _move(params: Tensors, steps: Tensors, squares: Tensors, root: Number, rate: Number, eps: float) -> None:
    """Update x = x - rate u / (sqrt(v) / root + eps) in place, by torch's operations for AdamW where not compiled."""
    if isinstance(rate, Tensor):
        for x, u, v in zip(params, steps, squares, strict=True):
            x.sub_(rate * u / (v.sqrt() / root + eps))
        return
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, root)
    torch._foreach_add_(roots, eps)
    torch._foreach_addcdiv_(params, steps, roots, value=-rate)


def _numbers(step: int, group: dict[str, Any]) -> tuple[float, float, float]:
    """Give the share of a weight that decay keeps, sqrt(1 - b2^t), and lr / (1 - b1^t)."""
    beta1, beta2 = group["betas"]
    kept = 1 - group["lr"] * group["weight_decay"]
    return kept, (1 - beta2**step) ** 0.5, group["lr"] / (1 - beta1**step)


@final
class Grams(torch.optim.Optimizer):
    """AdamW whose steps keep their sizes and take the direction of the present gradient, entry by entry.

    At ``betas[0] = 0``, where the average is the gradient itself, it is `torch.optim.AdamW` bit for bit. An entry whose
    gradient is 0 stays, but for weight decay, whatever its momentum. Parameter groups may differ in every argument.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Step size, at least 0.
        betas: Weights of the past in the averages of gradients and of their squares, each in [0, 1).
        eps: Added to the corrected root of the average of squares, above 0.
        weight_decay: Strength of weight decay, at least 0: weights are multiplied by ``1 - lr * weight_decay``.
        compiled: Whether `torch.compile` makes one pass of each step, at results that differ by rounding. The first
            step then takes seconds, with hundreds of parameters minutes, and on a CPU needs a C++ compiler; other
            parameters with gradients, or other hyper-parameters than ``lr``, compile again.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> grams = Grams([weight], lr=1.0)
        >>> for gradient in ([4.0, 4.0], [4.0, -1.0]):
        ...     weight.grad = torch.tensor(gradient)
        ...     grams.step()
        >>> weight.detach()[0].item() < -1.9, weight.detach()[1].item() > -0.6
        (True, True)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        compiled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "compiled": compiled}
        super().__init__(params, defaults)

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
