"""Optimizers whose step is the mean of a few inner steps that are all held near one point.

Source:
    P. Yin, M. Pham, A. Oberman, S. Osher, "Stochastic Backward Euler: An Implicit Gradient Descent Algorithm for
    k-Means Clustering", Journal of Scientific Computing, 2018, https://arxiv.org/abs/1710.07746, for `BackwardEuler`;
    P. Chaudhari et al., "Entropy-SGD: Biasing Gradient Descent Into Wide Valleys", ICLR, 2017,
    https://arxiv.org/abs/1611.01838, algorithm 1, for `EntropySGD`.

Deviations:
    those of `paperweight.representation.backward_euler_kmeans`
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["BackwardEuler", "EntropySGD", "check_averaging"]

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


def check_averaging(inner: int, alpha: float) -> None:
    """Check how many inner steps there are, and how their mean forgets.

    Raises:
        ValueError: If one is outside its range.

    Example:
        >>> check_averaging(5, 0.75)
    """
    if not isinstance(inner, int) or isinstance(inner, bool) or inner < 1:
        raise ValueError(f"inner must be a whole number of at least 1, got {inner!r}")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1, got {alpha!r}; 0 takes the last inner step alone")


def _check_lr(lr: float) -> None:
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and at least 0, got {lr!r}")


def _evaluated(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class _InnerSteps:
    """The start and the mean of the inner steps of each parameter, which stand in an optimizer's state."""

    def __init__(self, state: dict[str, Any], p: Tensor) -> None:
        if not state:
            state.update(start=p.clone(), average=p.clone())
        self.start: Tensor = state["start"]
        self.average: Tensor = state["average"]

    def add(self, p: Tensor, alpha: float) -> None:
        self.average.lerp_(p, 1 - alpha)

    def end(self, p: Tensor, share: float) -> None:
        """Move the start a share of the way to the mean, and the parameter there."""
        p.copy_(self.start.lerp_(self.average, share))


def _begin(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Have a cycle begin where the parameters are now, and leave those alone that get no gradient in it."""
    if group["inner_steps"] == 0:
        for p in group["params"]:
            optimizer.state.pop(p, None)


def _ends(group: dict[str, Any]) -> bool:
    """Count an inner step of a group, and say whether it is the last one."""
    group["inner_steps"] += 1
    if group["inner_steps"] < group["inner"]:
        return False
    group["inner_steps"] = 0
    group["outer_steps"] += 1
    return True


def _draws(*numbers: int) -> torch.Generator:
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed) % 2**63)


@final
class BackwardEuler(torch.optim.Optimizer):
    """Implicit steps c <- c - lr * gradient(c), with the gradient at the new c, each found by stochastic iteration.

    Each call of ``step`` is an inner step y <- c - lr * gradient(y), always from the same c; after ``inner`` of them
    c becomes their exponential mean, and lr is divided by ``beta``. Between, parameters hold y: evaluate after a
    multiple of ``inner`` steps. With ``inner=1``, ``alpha=0`` and ``beta=1`` it is plain SGD.

    Args:
        params: Parameters, or groups of them.
        lr: The step size, at least 0, gamma in the paper: that of an outer step, and so larger than that of SGD.
        inner: Inner steps for one outer step, at least 1.
        alpha: Weight of the past in the mean, at least 0 and below 1.
        beta: By what the step size is divided after each outer step, at least 1; the paper has 1.01 for clustering.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = BackwardEuler([weight], lr=0.5, inner=2, alpha=0.0)
        >>> for _ in range(2):
        ...     weight.grad = weight.detach().clone()
        ...     optimizer.step()
        >>> weight.item()
        0.75
    """

    def __init__(
        self, params: Parameters, lr: float = 0.1, inner: int = 5, alpha: float = 0.75, beta: float = 1.0
    ) -> None:
        _check_lr(lr)
        check_averaging(inner, alpha)
        if not 1 <= beta < math.inf:
            raise ValueError(f"beta must be finite and at least 1, got {beta!r}; 1 keeps the step size")
        settings = {"lr": lr, "inner": inner, "alpha": alpha, "beta": beta}
        super().__init__(params, {**settings, "inner_steps": 0, "outer_steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one inner step, and where it is the last one of a group the outer step.

        Args:
            closure: Makes the gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = _evaluated(closure)
        for group in self.param_groups:
            _begin(self, group)
            lr = group["lr"] * (1 / group["beta"]) ** group["outer_steps"]
            for p in group["params"]:
                if p.grad is not None:
                    steps = _InnerSteps(self.state[p], p)
                    p.copy_(steps.start).add_(p.grad, alpha=-lr)
                    steps.add(p, group["alpha"])
            if _ends(group):
                for p in group["params"]:
                    if p in self.state:
                        _InnerSteps(self.state[p], p).end(p, 1.0)
        return loss


@final
class EntropySGD(torch.optim.Optimizer):
    """Gradient descent on local entropy: Langevin steps near a point, which then moves towards their mean.

    Each call of ``step`` is an inner step y <- y - lr * (gradient(y) + scope * (y - x)) + sqrt(lr) * noise; after
    ``inner`` of them x moves the share ``outer_lr`` of the way to their exponential mean. Between, parameters hold y:
    evaluate after a multiple of ``inner`` steps.

    Args:
        params: Parameters, or groups of them.
        lr: Step size of the inner steps, at least 0.
        scope: How strongly they are held near x, at least 0; gamma in the paper.
        inner: Inner steps for one outer step, at least 1; the paper has 20.
        alpha: Weight of the past in the mean, at least 0 and below 1; the paper has 0.25, written as 0.75 of the new.
        outer_lr: The share, above 0 and at most 1; the paper's outer rate times its scope.
        noise: Standard deviation of the noise, at least 0; the paper has 0.0001.
        seed: Seed of the noise, of which each step and parameter has its own part.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = EntropySGD([weight], lr=0.5, scope=1.0, inner=2, alpha=0.0, noise=0.0)
        >>> for _ in range(2):
        ...     weight.grad = weight.detach().clone()
        ...     optimizer.step()
        >>> weight.item()
        0.5
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 0.1,
        scope: float = 0.01,
        inner: int = 20,
        alpha: float = 0.25,
        outer_lr: float = 1.0,
        noise: float = 1e-4,
        seed: int = 0,
    ) -> None:
        _check_lr(lr)
        check_averaging(inner, alpha)
        for name, value in (("scope", scope), ("noise", noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
        if not 0 < outer_lr <= 1:
            raise ValueError(f"outer_lr must be above 0 and at most 1, got {outer_lr!r}")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
        settings = {"lr": lr, "scope": scope, "inner": inner, "alpha": alpha, "outer_lr": outer_lr, "noise": noise}
        super().__init__(params, {**settings, "seed": seed, "inner_steps": 0, "outer_steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one inner step, and where it is the last one of a group the outer step.

        Args:
            closure: Makes the gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = _evaluated(closure)
        for at, group in enumerate(self.param_groups):
            _begin(self, group)
            taken = group["outer_steps"] * group["inner"] + group["inner_steps"]
            for position, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                steps = _InnerSteps(self.state[p], p)
                pull = (p - steps.start).mul_(group["scope"]).add_(p.grad)
                p.add_(pull, alpha=-group["lr"])
                if group["noise"]:
                    draws = _draws(group["seed"], at, position, taken)
                    drawn = torch.randn(p.shape, generator=draws, dtype=torch.float32).to(p)
                    p.add_(drawn, alpha=math.sqrt(group["lr"]) * group["noise"])
                steps.add(p, group["alpha"])
            if _ends(group):
                for p in group["params"]:
                    if p in self.state:
                        _InnerSteps(self.state[p], p).end(p, group["outer_lr"])
        return loss
