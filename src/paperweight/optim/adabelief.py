"""AdaBelief: Adam with each step divided by how far the gradient departs from its prediction.

The prediction is the moving average of past gradients: an entry whose gradients agree with it is believed and takes a
large step, one whose gradients scatter round it a small one. In Adam it is the size of the gradient that counts.
Cost: the memory of Adam and eight passes over it a step; on a CPU two to five times the time of torch's fused AdamW,
which needs one pass, and less than that of its foreach AdamW. Compiled, one pass, and about the time of fused AdamW.

Source:
    J. Zhuang, T. Tang, Y. Ding, S. Tatikonda, N. Dvornek, X. Papademetris, J. S. Duncan, "AdaBelief Optimizer: Adapting
    Stepsizes by the Belief in Observed Gradients", NeurIPS, 2020, https://arxiv.org/abs/2010.07468. Implemented:
    algorithm 2 of the main text, with AMSGrad, and weight decay of either sort as in the experiments.

Deviations:
    - `eps` joins the deviation in every step, where it adds up, as in the main text's algorithm and the authors' code;
      the appendix adds it only to the average that is divided by. It is added once more after the root.
    - AMSGrad keeps the running maximum beside the deviation, as in the authors' code, and does not feed it back.
    - Decoupled decay is scaled by `lr`; the authors' switch for decay that is not, and their rectified variant, are
      left out: neither has a part in the paper's results. Theory's projection onto a feasible set is left out, too.
    - The default `eps` is that of the authors' later code, for models that Adam trains better than SGD does; for image
      classifiers the paper has 1e-8.
"""

# torch documents its foreach functions, and does not export them:
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.optim._elementwise import Number, Tensors, check_group, rows_by_step, subtract_ratios, update_rows

__all__ = ["AdaBelief"]

PAPER = Paper(
    title="AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    authors=(
        "Juntang Zhuang",
        "Tommy Tang",
        "Yifan Ding",
        "Sekhar Tatikonda",
        "Nicha Dvornek",
        "Xenophon Papademetris",
        "James S. Duncan",
    ),
    year=2020,
    url="https://arxiv.org/abs/2010.07468",
    provides={"AdaBelief": "optimizer"},
    null={"betas": (0.0, 0.0), "eps": 1.0},
    claim="It converges as fast as Adam and generalises as well as SGD.",
)


def _update(columns: list[Tensors], numbers: tuple[Number, ...], group: dict[str, Any]) -> None:
    """Take a step with parameters, gradients and states as columns, and the numbers of `_numbers`."""
    params, gradients, predictions, deviations, *peaks = columns
    kept, offset, rate = numbers
    if group["weight_decay"] and group["weight_decouple"]:
        torch._foreach_mul_(params, kept)
    elif group["weight_decay"]:
        gradients = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
    _observe(gradients, predictions, deviations, group)
    if peaks:
        torch._foreach_maximum_(peaks[0], deviations)
    subtract_ratios(params, predictions, peaks[0] if peaks else deviations, offset, rate)


def _observe(gradients: Tensors, predictions: Tensors, deviations: Tensors, group: dict[str, Any]) -> None:
    """Update m = b1 m + (1 - b1) g, then s = b2 s + (1 - b2) (g - m)^2 + eps, in place."""
    beta1, beta2 = group["betas"]
    torch._foreach_lerp_(predictions, gradients, 1 - beta1)
    squares = torch._foreach_sub(gradients, predictions)
    torch._foreach_mul_(squares, squares)
    torch._foreach_lerp_(deviations, squares, 1 - beta2)
    torch._foreach_add_(deviations, group["eps"])


def _numbers(step: int, group: dict[str, Any]) -> tuple[float, float, float]:
    """Give the share of a weight that decay keeps, and offset and rate of `subtract_ratios`, corrected by c = 1 - b^t.

    x = x - lr (m / c1) / (sqrt(s / c2) + eps), with quotient and root multiplied by sqrt(c2).
    """
    beta1, beta2 = group["betas"]
    root = math.sqrt(1 - beta2**step)
    return 1 - group["lr"] * group["weight_decay"], group["eps"] * root, group["lr"] * root / (1 - beta1**step)


@final
class AdaBelief(torch.optim.Optimizer):
    """Adam with the squared departure of the gradient from its moving average in place of its square.

    At ``betas=(0, 0)`` and ``eps=1`` it is `torch.optim.SGD` at half the rate, since a prediction without memory is
    always right; bit for bit where ``lr`` is a power of two. No setting makes it Adam. Where gradients are constant,
    steps grow towards ``lr * abs(g) / (sqrt(eps / (1 - betas[1])) + eps)``. The result depends on ``eps`` more than
    Adam's does; the authors say to square what one would give Adam. Parameter groups may differ in every argument.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Step size, at least 0; the paper's is 1e-3 for images and 2e-4 for adversarial networks.
        betas: Weights of the past in the averages of gradients and of squared departures, each in [0, 1).
        eps: Added to the average of squared departures in every step, and to its root, above 0; the paper has 1e-8 for
            image classifiers, the authors later 1e-16 for transformers and 1e-12 for small adversarial networks.
        weight_decay: Strength of weight decay, at least 0.
        amsgrad: Whether to divide by the largest average so far, as the paper's proofs ask; its experiments do not.
        weight_decouple: Whether weights are multiplied by ``1 - lr * weight_decay``, as in the paper's ImageNet runs;
            otherwise ``weight_decay`` times the weight is added to its gradient, as in its CIFAR runs.
        compiled: Whether `torch.compile` makes one pass of each step, at results that differ by rounding. The first
            step then takes seconds, with hundreds of parameters minutes, and on a CPU needs a C++ compiler; other
            parameters with gradients, or other hyper-parameters than ``lr``, compile again.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([-0.2, 5.0])
        >>> AdaBelief([weight], lr=0.9).step()
        >>> weight.detach()
        tensor([ 1., -1.])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        weight_decouple: bool = True,
        compiled: bool = False,
    ) -> None:
        rates = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        switches = {"amsgrad": amsgrad, "weight_decouple": weight_decouple, "compiled": compiled}
        super().__init__(params, {**rates, **switches})

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
            ValueError: If a gradient is sparse or complex, or ``eps`` is 0 in the format of a parameter.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            self._check_eps(group)
            names = ("exp_avg", "exp_avg_var", "max_exp_avg_var")[: 3 if group["amsgrad"] else 2]
            for step, rows in rows_by_step(self, group, names).items():
                update_rows(_update, rows, _numbers(step, group), group, compiled=group["compiled"])
        return loss

    def _check_eps(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            new = p.grad is not None and p not in self.state
            if new and not p.is_complex() and not torch.tensor(group["eps"], dtype=p.dtype).item():
                raise ValueError(f"eps must not vanish in {p.dtype}, got {group['eps']}; take a larger one, or float32")
