"""The Carlini-Wagner attack in norm 2.

Source:
    N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    https://arxiv.org/abs/1608.04644.

Deviations:
    those of `paperweight.robustness.defensive_distillation`
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from paperweight.robustness._attacking import attacked, check_bounds, check_inputs, over

__all__ = ["CarliniWagnerL2", "cw_objective", "from_tanh_space", "margins", "to_tanh_space"]

_SHRINK, _BETAS = 0.999, (0.9, 0.999)
_PROGRESS = 1e-3  # the relative fall, of squared distance or objective, that counts as progress
_WORTHWHILE = 0.02  # the relative fall of the squared distance for which another c is tried


def to_tanh_space(inputs: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Give w = arctanh(0.999 u), where u is x scaled from the bounds to [-1, 1]; short types shrink more."""
    low, high = bounds
    shrink = min(_SHRINK, 1 - torch.finfo(inputs.dtype).eps)
    return torch.atanh(shrink * (2 * (inputs - low) / (high - low) - 1))


def from_tanh_space(w: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Give x = low + (high - low) (tanh(w) + 1) / 2, within the bounds whatever w."""
    low, high = bounds
    return (low + (high - low) * (torch.tanh(w) + 1) / 2).clamp(low, high)


def margins(logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """Give Z_y - max over j != y of Z_j, or its negative if targeted, shape (N,); below 0 the model is fooled."""
    chosen = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
    return others - chosen if targeted else chosen - others


def cw_objective(squares: Tensor, margin: Tensor, c: Tensor | float, kappa: float = 0.0) -> Tensor:
    """Give ||x' - x||^2 + c max(margin, -kappa) of each input, shape (N,), from squared distances and margins."""
    return squares + c * margin.clamp(min=-kappa)


@final
class CarliniWagnerL2:
    """Looks for the nearest input, in norm 2, that fools a model: Adam on x' = tanh(w), scaled to the range of inputs.

    An input takes part in forward and backward passes until it is done, each at its own step and ``c``:

    - One that fools the model from the start is done before the first step, at distance 0.
    - Its descent at one ``c`` ends after ``steps`` steps, or after ``patience`` in which neither the squared distance
      of its nearest success fell by 0.1% nor, before there was one, the objective.
    - It is done after the last ``c``, or once a ``c`` was too small and one after a success made its squared distance
      less than 2% smaller.

    The batch gets smaller whenever an eighth of it is done, since each new size costs a network some preparation. An
    input without a success is returned unchanged.

    Args:
        c: Weight of the margin against the squared distance, above 0; where there is a search, the first.
        kappa: Margin by which the model must be fooled, in logits, at least 0.
        steps: Largest number of steps for one ``c``.
        lr: Learning rate of Adam, above 0, in the unit of w.
        binary_search_steps: How many further values of ``c`` are tried, each 10 times the last before any success and
            then by bisection; 0 for ``c`` alone.
        patience: Steps without progress after which a descent ends, at least 1; ``steps`` for never.
        targeted: Whether the labels are those that the model shall give.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> near = CarliniWagnerL2(steps=200, patience=50)(model, torch.tensor([[0.7, 0.5]]), torch.tensor([0]))
        >>> model(near).argmax().item(), (near - 0.6).abs().max().item() < 0.002
        (1, True)
    """

    def __init__(
        self,
        c: float = 1.0,
        kappa: float = 0.0,
        steps: int = 100,
        lr: float = 0.01,
        binary_search_steps: int = 0,
        patience: int = 20,
        targeted: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        for name, value in (("c", c), ("lr", lr)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        least = {"kappa": (kappa, 0), "steps": (steps, 1), "patience": (patience, 1)}
        for name, (count, lowest) in (least | {"binary_search_steps": (binary_search_steps, 0)}).items():
            if not lowest <= count < math.inf:
                raise ValueError(f"{name} must be at least {lowest} and finite, got {count}")
        check_bounds(bounds)
        self.c, self.kappa, self.steps, self.lr = c, kappa, steps, lr
        self.binary_search_steps, self.patience = binary_search_steps, patience
        self.targeted, self.bounds = targeted, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels, int64, (N,)."""
        check_inputs(inputs, labels, self.bounds)
        results = inputs.detach().clone()
        with attacked(model):
            with torch.no_grad():
                fooled = margins(model(results), labels, self.targeted) < -self.kappa
            place = (~fooled).nonzero().squeeze(1)
            given, w = results[place], to_tanh_space(results[place], self.bounds)
            none, zero, still = torch.zeros_like(place), w.new_zeros(len(place)), torch.zeros_like(w)
            search = {"place": place, "given": given, "labels": labels[place], "rounds": none}
            search |= {"w": w, "mean": still, "square": still, "step": none, "waited": none}
            search |= dict.fromkeys(("over", "fooled"), none.bool())
            search |= {"c": zero + self.c, "least_c": zero, "most_c": zero + math.inf}
            search |= dict.fromkeys(("nearest", "before", "mark"), zero + math.inf)
            while len(search["over"]):
                self._step(model, search, results)
                if 8 * search["over"].sum() >= len(search["over"]):
                    search = {name: rows[~search["over"]] for name, rows in search.items()}
        return results

    def _step(self, model: nn.Module, search: dict[str, Tensor], results: Tensor) -> None:
        """Take a step of Adam on every row, an input each; note nearer successes, and end descents that stall."""
        w = search["w"].detach().requires_grad_()
        tried = from_tanh_space(w, self.bounds)
        squares = (tried - search["given"]).flatten(1).square().sum(dim=1)
        margin = margins(model(tried), search["labels"], self.targeted)
        objective = cw_objective(squares, margin, search["c"], self.kappa)
        (gradient,) = torch.autograd.grad(objective.sum(), w)
        search["fooled"] = margin < -self.kappa
        nearer = search["fooled"] & (squares < search["nearest"]) & ~search["over"]
        results[search["place"][nearer]] = tried[nearer].detach()
        first = nearer & search["nearest"].isinf()
        search["nearest"] = torch.where(nearer, squares, search["nearest"]).detach()
        score = torch.where(search["nearest"].isinf(), objective.detach(), search["nearest"])
        progress = first | search["mark"].isinf() | (score < search["mark"] - _PROGRESS * search["mark"].abs())
        search["mark"] = torch.where(progress, score, search["mark"])
        search["waited"] = torch.where(progress, 0, search["waited"] + 1)
        search["step"] = search["step"] + 1
        search["mean"] = torch.lerp(gradient, search["mean"], _BETAS[0])
        search["square"] = torch.lerp(gradient.square(), search["square"], _BETAS[1])
        bias = [over(1 - beta ** search["step"].double(), w).to(w) for beta in _BETAS]
        search["w"] = w.detach() - self.lr * (search["mean"] / bias[0]) / ((search["square"] / bias[1]).sqrt() + 1e-8)
        ended = ~search["over"] & ((search["waited"] >= self.patience) | (search["step"] >= self.steps))
        if ended.any():
            self._next_c(search, ended, to_tanh_space(results[search["place"]], self.bounds))

    def _next_c(self, search: dict[str, Tensor], ended: Tensor, nearest_w: Tensor) -> None:
        """Bisect c, or raise it while there is no success; begin the next descent at the nearest success."""
        nearest, before, c = search["nearest"], search["before"], search["c"]
        gained = nearest < (1 - _WORTHWHILE) * before
        search["most_c"] = torch.where(ended & (search["fooled"] | gained), c, search["most_c"])
        search["least_c"] = torch.where(ended & ~(search["fooled"] | gained), c, search["least_c"])
        search["rounds"] = search["rounds"] + ended
        converged = ~gained & before.isfinite() & (search["least_c"] > 0)
        search["over"] = search["over"] | (ended & (converged | (search["rounds"] > self.binary_search_steps)))
        following = {name: torch.zeros_like(search[name]) for name in ("mean", "square", "step", "waited")}
        following |= {"before": nearest, "mark": torch.full_like(c, math.inf)}
        following["c"] = torch.where(search["most_c"].isinf(), 10 * c, (search["least_c"] + search["most_c"]) / 2)
        following["w"] = torch.where(over(nearest.isinf(), nearest_w), search["w"], nearest_w)
        for name, value in following.items():
            search[name] = torch.where(over(ended, value), value, search[name])
