"""XGrad (weight prediction): take each gradient at the weights that momentum is about to reach.

Before a batch is seen, the weights are moved on by s steps of the optimizer's own momentum; forward and backward pass
run there, and the gradient that they give updates the weights from which the prediction began. On SGD with momentum it
is Nesterov's method, but for how far it looks ahead.
Cost: one copy of the weights, and two to six passes over them a step; no gradient more.

Source:
    L. Guan, D. Li, Y. Shi, J. Meng, "XGrad: Boosting Gradient-Based Optimizers With Weight Prediction", 2023,
    https://arxiv.org/abs/2305.18240. Implemented: the prediction for SGD with momentum, Adam and AdamW.

Deviations:
    - The paper predicts before the forward pass. Here ``step`` does so at its end, so that a plain loop needs nothing
      more; where a schedule moves the rate afterwards, the prediction is one step behind it.
    - s may be any number of at least 0, not whole ones only: at s equal to the momentum it is Nesterov's method.
    - A weight that has got no gradient in a step is not predicted, as the optimizer will not move it either.
    - Adam with ``amsgrad`` divides by its largest average of squares, as its steps do. NAdam is predicted as Adam is.
      AdaBelief, AdaM3 and RMSprop, to which the paper also adds a prediction, are left out.
    - Decoupled weight decay is left out of the prediction, and Adam's averages are corrected by the number of steps
      taken; whether the paper does so, too, is uncertain, as its authors' code has no licence and was not read.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import SGD, Adam, NAdam

from paperweight.catalogue import Paper

__all__ = ["XGrad"]

PAPER = Paper(
    title="XGrad: Boosting Gradient-Based Optimizers With Weight Prediction",
    authors=("Lei Guan", "Dongsheng Li", "Yanqi Shi", "Jian Meng"),
    year=2023,
    url="https://arxiv.org/abs/2305.18240",
    provides={"XGrad": "optimizer"},
    null={"steps": 0},
    claim="SGD with momentum, Adam and AdamW converge faster and to a higher accuracy with it.",
)


def _adam_direction(average: Tensor, squares: Tensor, step: float, betas: tuple[float, float], eps: float) -> Tensor:
    """Give m^ / (sqrt(v^) + eps) with m^ = m / (1 - b1^t) and v^ = v / (1 - b2^t)."""
    beta1, beta2 = betas
    root = (squares / (1 - beta2**step)).sqrt_().add_(eps)
    return (average / (1 - beta1**step)).div_(root)


def _direction(optimizer: torch.optim.Optimizer, group: dict[str, Any], state: dict[str, Any]) -> Tensor | None:
    """Give what the optimizer, by its state alone, would subtract from a parameter at a rate of 1; None if nothing."""
    if isinstance(optimizer, SGD):
        return state.get("momentum_buffer")
    squares = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return _adam_direction(state["exp_avg"], squares, float(state["step"]), group["betas"], group["eps"])


def _check_steps(steps: float) -> None:
    if isinstance(steps, bool) or not 0 <= steps < math.inf:
        raise ValueError(f"steps must be finite and at least 0, got {steps}; 0 is the wrapped optimizer alone")


@final
class XGrad(torch.optim.Optimizer):
    """SGD with momentum, Adam, AdamW or NAdam, with every gradient taken at predicted weights.

    Train by a plain loop. After each ``step`` the model holds predicted weights, where the next gradient belongs; the
    next ``step`` begins by putting the true ones back. The true ones are the result of training: evaluate, average and
    publish the model inside `true_weights`, or call `restore` after the last step. To go on later, save the model as it
    is, outside `true_weights`, along with `state_dict`, which holds the true weights. What is written into the
    parameters between two steps is lost, unless `restore` was called before.

    At ``steps=0``, or without momentum, it is the wrapped optimizer. Groups and state are the wrapped optimizer's. A
    group has a setting of its own where it names ``xgrad_steps``. An optimizer that changes weights by itself, such as
    Lookahead, must not be wrapped around this one.

    Args:
        optimizer: The optimizer to wrap; from here on step this object, and not the wrapped one.
        steps: How many steps ahead weights are predicted, at least 0; the paper has whole numbers.

    Raises:
        ValueError: If ``steps`` is outside its range, or how ``optimizer`` moves does not show in its state.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = XGrad(torch.optim.SGD([weight], lr=1.0, momentum=0.5))
        >>> weight.grad = torch.tensor([-1.0])
        >>> optimizer.step()
        >>> weight.item()
        2.0
        >>> with optimizer.true_weights():
        ...     weight.item()
        1.0
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: float = 1) -> None:
        _check_steps(steps)
        if not isinstance(optimizer, SGD | Adam | NAdam):
            raise ValueError(
                f"optimizer must be SGD, Adam, AdamW or NAdam of torch, got {type(optimizer).__name__}, whose state "
                "does not tell its next step"
            )
        super().__init__(optimizer.param_groups, {**optimizer.defaults, "xgrad_steps": steps})
        self.optimizer, self.steps = optimizer, steps
        self.param_groups, self.state = optimizer.param_groups, optimizer.state
        self._true: dict[Tensor, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in ("optimizer", "steps", "_true")}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which are predicted ``xgrad_steps`` ahead where the group names them."""
        _check_steps(param_group.get("xgrad_steps", self.defaults["xgrad_steps"]))
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the wrapped optimizer, with the true weights of parameters that hold predicted ones."""
        packed = self.optimizer.state_dict()
        for group, named in zip(self.param_groups, packed["param_groups"], strict=True):
            for p, index in zip(group["params"], named["params"], strict=True):
                if p in self._true:
                    packed["state"][index] = {**packed["state"][index], "xgrad": self._true[p]}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back the state that `state_dict` gave, or that of an unwrapped optimizer; parameters stay as they are."""
        inner = {
            index: {name: value for name, value in state.items() if name != "xgrad"}
            for index, state in state_dict["state"].items()
        }
        self.optimizer.load_state_dict({**state_dict, "state": inner})
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
        self._true = {}
        for group, named in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.setdefault("xgrad_steps", self.defaults["xgrad_steps"])
            for p, index in zip(group["params"], named["params"], strict=True):
                if "xgrad" in state_dict["state"].get(index, {}):
                    self._true[p] = state_dict["state"][index]["xgrad"].to(p)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the wrapped optimizer from the true weights, and leave the next predicted ones in the parameters.

        A ``closure`` is called once, at the predicted weights, and its loss is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.restore()
        self.optimizer.step()
        self._predict()
        return loss

    @torch.no_grad()
    def restore(self) -> None:
        """Put the true weights into the parameters, and keep them there; the next step predicts again."""
        for p, weight in self._true.items():
            p.copy_(weight)
        self._true = {}

    @contextmanager
    def true_weights(self) -> Iterator[None]:
        """Put the true weights into the parameters, and at the end of the block the predicted ones back.

        Take no step inside the block.

        Yields:
            Nothing.
        """
        predicted = {p: p.detach().clone() for p in self._true}
        try:
            for p, weight in self._true.items():
                p.detach().copy_(weight)
            yield
        finally:
            for p, weight in predicted.items():
                if p in self._true:  # and not restored inside the block
                    p.detach().copy_(weight)

    @torch.no_grad()
    def _predict(self) -> None:
        """Move every weight that has a gradient and momentum to x - s lr d."""
        for group in self.param_groups:
            if group["xgrad_steps"] == 0:
                continue
            for p in group["params"]:
                direction = None if p.grad is None else _direction(self.optimizer, group, self.state[p])
                if direction is not None:
                    self._true[p] = p.detach().clone()
                    p.sub_(direction * (group["xgrad_steps"] * group["lr"]))
