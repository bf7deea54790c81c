"""Lookahead: let any optimizer take k steps, then go back part of the way to where it started.

The weights in training are the fast ones; the slow weights, to which they return after every k steps, move a share
alpha of the way that the fast ones went. This averages out noise and oscillation, and permits larger inner steps.
Cost: one copy of the weights and, every k steps, two passes over them; no gradient more.

Source:
    M. R. Zhang, J. Lucas, G. Hinton, J. Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS, 2019,
    https://arxiv.org/abs/1907.08610. Implemented: algorithm 1, the three treatments of the inner optimizer's state,
    the variance on the noisy quadratic. Left out: the adaptive alpha of the analysis of quadratics.

Deviations:
    - The default of `alpha` is 0.5, the lowest that the paper trains with; that of the authors' code is 0.8.
    - Inner state that is reset is dropped, so that any inner optimizer starts afresh; the authors' code sets SGD's
      momentum to zero, which without dampening is the same. What is interpolated is every tensor of the parameter's
      shape, the averages of Adam too, with a copy from the last time. The authors' code interpolates momentum alone,
      and what it keeps is no copy but the buffer itself, which from the second time on is just multiplied by
      alpha (2 - alpha).
    - Slow weights, copies of the inner state and the place in the cycle are in the state dictionary; the authors' code
      saves the inner state alone, so that a resumed run begins a new cycle.
    - A group that is added later begins a cycle of its own.
    - The variance is computed from the recursion, and so holds where plain SGD has none; see its function.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = ["Lookahead", "noisy_quadratic_variance"]

PAPER = Paper(
    title="Lookahead Optimizer: k steps forward, 1 step back",
    authors=("Michael R. Zhang", "James Lucas", "Geoffrey Hinton", "Jimmy Ba"),
    year=2019,
    url="https://arxiv.org/abs/1907.08610",
    provides={"Lookahead": "optimizer", "noisy_quadratic_variance": "function"},
    null={"alpha": 1.0},
    claim="It improves SGD and Adam, lowers their variance and is robust to the inner learning rate.",
)

_INNER_STATES = ("maintain", "interpolate", "reset")


def _check(k: int, alpha: float, inner_state: str = "maintain") -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k}; the paper has 5 to 20")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}; 1 is the inner optimizer alone")
    if inner_state not in _INNER_STATES:
        raise ValueError(f"inner_state must be one of {', '.join(_INNER_STATES)}; got {inner_state!r}")


def noisy_quadratic_variance(
    curvature: float, noise_variance: float, lr: float, k: int = 5, alpha: float = 0.5
) -> float:
    """Give the variance that the slow weight keeps, with SGD inside, on the loss a (x - c)^2 / 2 with random c.

    With r = 1 - lr a, the fast weight after k steps is r^k times the slow one, plus noise of variance
    s = (lr a)^2 v (1 + r^2 + ... + r^(2k - 2)). A synchronisation multiplies the slow weight by m = 1 - alpha +
    alpha r^k and adds alpha times that noise, so that the variance settles at alpha^2 s / (1 - m^2). Where SGD itself
    is stable, this is the paper's multiple of SGD's variance, alpha (1 + r^k) / (2 - alpha + alpha r^k), at most 1.

    Args:
        curvature: The curvature a, above 0.
        noise_variance: The variance v of the minimiser c, which is drawn anew in each step; at least 0.
        lr: Step size of SGD, above 0.
        k: Steps of SGD between synchronisations, at least 1.
        alpha: Share of the way that the slow weight moves, above 0 and at most 1.

    Returns:
        The variance just after a synchronisation, at least 0.

    Raises:
        ValueError: If a number is outside its range, or the slow weight does not settle at this step size.

    Example:
        >>> sgd = noisy_quadratic_variance(1.0, 1.0, lr=0.5, alpha=1.0)
        >>> round(sgd, 4), round(noisy_quadratic_variance(1.0, 1.0, lr=0.5) / sgd, 4)
        (0.3333, 0.3402)
    """
    _check(k, alpha)
    for name, value in {"curvature": curvature, "lr": lr}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {value}")
    if not 0 <= noise_variance < math.inf:
        raise ValueError(f"noise_variance must be finite and at least 0, got {noise_variance}")
    shrink = 1 - lr * curvature
    slow_shrink = 1 - alpha + alpha * shrink**k
    if not abs(slow_shrink) < 1:
        raise ValueError(
            f"lr must be small enough for the weights to settle, got {lr}; take one below {2 / curvature:g}"
        )
    fast_variance = (lr * curvature) ** 2 * noise_variance * sum(shrink ** (2 * i) for i in range(k))
    return alpha**2 * fast_variance / (1 - slow_shrink**2)


@final
class Lookahead(torch.optim.Optimizer):
    """Any torch optimizer, pulled back after every k steps towards the weights from which it started.

    At ``alpha=1`` it is the wrapped optimizer, whatever ``k``, unless the inner state is reset. Groups and state are
    the wrapped optimizer's. A group has settings of its own where it names ``lookahead_k``, ``lookahead_alpha`` or
    ``lookahead_inner_state``. The paper evaluates at the slow weights: see `slow_weights`.

    Args:
        optimizer: The optimizer to wrap; from here on step this object, and not the wrapped one. Its learning rate may
            be higher than it would be alone.
        k: Inner steps between synchronisations, at least 1; the paper has 5 to 20.
        alpha: Share of the way that the slow weights move, above 0 and at most 1; the paper has 0.5 to 0.8.
        inner_state: What a synchronisation does with momentum and other averages of the inner optimizer: "maintain",
            as by default in the authors' code, "interpolate" as it does the weights, or "reset".

    Raises:
        ValueError: If an argument is outside its range, or ``optimizer`` looks ahead already.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
        >>> for _ in range(3):
        ...     weight.grad = torch.tensor([-1.0])
        ...     optimizer.step()
        >>> weight.item()
        2.0
        >>> with optimizer.slow_weights():
        ...     weight.item()
        1.0
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        k: int = 5,
        alpha: float = 0.5,
        inner_state: Literal["maintain", "interpolate", "reset"] = "maintain",
    ) -> None:
        _check(k, alpha, inner_state)
        if "lookahead_k" in optimizer.defaults:
            raise ValueError("optimizer must not look ahead already; wrap it only once")
        settings = {"lookahead_k": k, "lookahead_alpha": alpha, "lookahead_inner_state": inner_state}
        super().__init__(optimizer.param_groups, {**optimizer.defaults, **settings, "lookahead_steps": 0})
        self.optimizer, self.k, self.alpha, self.inner_state = optimizer, k, alpha, inner_state
        self.param_groups, self.state = optimizer.param_groups, optimizer.state
        self._slow: dict[Tensor, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        own = ("optimizer", "k", "alpha", "inner_state", "_slow")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own where the group names them; they begin a cycle of their own."""
        settings = {**self.defaults, **param_group}
        _check(settings["lookahead_k"], settings["lookahead_alpha"], settings["lookahead_inner_state"])
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the wrapped optimizer, with the slow weights and, in each group, the place in its cycle."""
        packed = self.optimizer.state_dict()
        for group, named in zip(self.param_groups, packed["param_groups"], strict=True):
            for p, index in zip(group["params"], named["params"], strict=True):
                if p in self._slow:
                    packed["state"][index] = {**packed["state"].get(index, {}), "lookahead": self._slow[p]}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back the state that `state_dict` gave; that of an unwrapped optimizer begins a cycle."""
        inner, slow = dict[int, dict[str, Any]](), dict[int, dict[str, Tensor]]()
        for index, state in state_dict["state"].items():
            slow[index] = state.get("lookahead", {})
            if rest := {name: value for name, value in state.items() if name != "lookahead"}:
                inner[index] = rest
        self.optimizer.load_state_dict({**state_dict, "state": inner})
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
        self._slow = {}
        for group, named in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for name in ("lookahead_k", "lookahead_alpha", "lookahead_inner_state", "lookahead_steps"):
                group.setdefault(name, self.defaults[name])
            for p, index in zip(group["params"], named["params"], strict=True):
                if copies := slow.get(index):
                    self._slow[p] = {name: value.to(p, copy=True) for name, value in copies.items()}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the wrapped optimizer, and synchronise each group whose cycle this step ends."""
        self._remember()
        loss = self.optimizer.step(closure and partial(self._evaluate, closure))
        for group in self.param_groups:
            group["lookahead_steps"] += 1
            if group["lookahead_steps"] >= group["lookahead_k"]:
                group["lookahead_steps"] = 0
                self._synchronise(group)
        return loss

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """Put the slow weights into the parameters, and at the end of the block the fast ones back.

        Take no step inside the block. Just after a synchronisation both are the same.

        Yields:
            Nothing.
        """
        fast = {p: p.detach().clone() for p in self._slow}
        try:
            for p, slow in self._slow.items():
                p.detach().copy_(slow["weight"])
            yield
        finally:
            for p, weight in fast.items():
                p.detach().copy_(weight)

    def _evaluate(self, closure: Callable[[], float]) -> float:
        loss = closure()
        self._remember()
        return loss

    def _remember(self) -> None:
        """Copy the weights that are about to move for the first time."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p not in self._slow:
                    self._slow[p] = {"weight": p.detach().clone()}

    @torch.no_grad()
    def _synchronise(self, group: dict[str, Any]) -> None:
        alpha, inner_state = group["lookahead_alpha"], group["lookahead_inner_state"]
        for p in group["params"]:
            if p not in self._slow:
                continue
            slow = self._slow[p]
            p.copy_(slow["weight"].lerp_(p, alpha))
            if inner_state == "reset":
                self.state.pop(p, None)
            elif inner_state == "interpolate":
                for name, value in self.state.get(p, {}).items():
                    if name != "step" and isinstance(value, Tensor) and value.shape == p.shape:
                        value.copy_(slow.setdefault(name, torch.zeros_like(value)).lerp_(value, alpha))
