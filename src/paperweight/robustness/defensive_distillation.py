"""Defensive distillation, and the two attacks that it is weighed with: FGSM and the Carlini-Wagner attack in norm 2.

A student learns the soft predictions that a teacher makes at a high temperature, and is deployed at temperature 1: its
saturated softmax hides the gradient from FGSM. The Carlini-Wagner attack descends on logits, which nothing saturates.
Cost: one forward and backward pass for FGSM, and for Carlini-Wagner one a step and input that is not done yet.

Source:
    T. R. Sarkar, N. Das, P. S. Maitra, B. Some, R. Saha, O. Adhikary, B. Bose, J. Sen, "Evaluating Adversarial
    Robustness: A Comparison Of FGSM, Carlini-Wagner Attacks, And The Role of Distillation as Defense Mechanism", 2024,
    https://arxiv.org/abs/2404.04245. Implemented: both attacks and the loss of the distillation. The search over `c`
    is that of N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    https://arxiv.org/abs/1608.04644.

Deviations:
    - Attacks drop inputs: one that is fooled from the start is returned unchanged, by FGSM too, so that no wrong
      prediction is made right. When Carlini-Wagner drops others is told there; its authors stop whole batches.
    - Each further `c` begins at the nearest success, or goes on where the descent is, and not at the input; a `c` is
      large enough if its descent ends fooled or made the squared distance of a success 2% smaller.
    - Inputs are shrunk by 0.999 before arctanh, not by 0.999999: black and white pixels, where tanh is flat, then
      begin to move within tens of steps, and not hundreds. The distance is measured from the input itself.
    - The report's networks and sizes of change are for large images; the study has its own, and temperatures.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["FGSM", "CarliniWagnerL2", "distillation_loss"]

PAPER = Paper(
    title="Evaluating Adversarial Robustness: A Comparison Of FGSM, Carlini-Wagner Attacks, "
    "And The Role of Distillation as Defense Mechanism",
    authors=("T. R. Sarkar", "N. Das", "P. S. Maitra", "B. Some", "R. Saha", "O. Adhikary", "B. Bose", "J. Sen"),
    year=2024,
    url="https://arxiv.org/abs/2404.04245",
    provides={"FGSM": "attack", "CarliniWagnerL2": "attack", "distillation_loss": "loss"},
    null={"eps": 0.0, "temperature": 1.0},
    claim="Defensive distillation stops FGSM, and does not stop the Carlini-Wagner attack.",
)

_SHRINK, _BETAS = 0.999, (0.9, 0.999)
_PROGRESS = 1e-3  # the relative fall, of squared distance or objective, that counts as progress
_WORTHWHILE = 0.02  # the relative fall of the squared distance for which another c is tried


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 100.0) -> Tensor:
    """Compare student and teacher at one temperature: the mean of -<softmax(teacher / T), log softmax(student / T)>.

    Train the teacher by the cross-entropy of logits / T, and deploy the student without T.

    Args:
        logits: The student's, shape (N, classes).
        teacher_logits: The teacher's, same shape; no gradient flows to them.
        temperature: T, above 0, commonly 20 to 100; at 1 this is the cross-entropy with the teacher's predictions.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If the temperature is not above 0 and finite, or the shapes differ.

    Example:
        >>> logits = torch.tensor([[0.0, 20.0]])
        >>> round(distillation_loss(logits, logits, temperature=10.0).item(), 4)
        0.3653
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    if logits.shape != teacher_logits.shape:
        raise ValueError(f"teacher_logits must have the shape of logits, {logits.shape}, got {teacher_logits.shape}")
    return F.cross_entropy(logits / temperature, (teacher_logits.detach() / temperature).softmax(dim=1))


def fgsm_step(inputs: Tensor, gradient: Tensor, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Take the step clip(x + eps sign(gradient)), to the bounds."""
    return (inputs + eps * gradient.sign()).clamp(*bounds)


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


@contextmanager
def _attacked(model: nn.Module) -> Iterator[None]:
    """Switch the model to eval mode and gradients on, and put both back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _check_bounds(bounds: tuple[float, float]) -> None:
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")


def _check_inputs(inputs: Tensor, labels: Tensor, bounds: tuple[float, float]) -> None:
    if len(inputs) != len(labels):
        raise ValueError(f"labels must be one for each of {len(inputs)} inputs, got {len(labels)}")
    if len(inputs) and not bool(((inputs >= bounds[0]) & (inputs <= bounds[1])).all()):
        found = f"{inputs.min().item():g} to {inputs.max().item():g}"
        raise ValueError(f"inputs must be within bounds, {bounds}, got {found}; give their bounds")


@final
class FGSM:
    """Moves every entry of an input by eps against the model: x + eps sign(gradient of the cross-entropy), clipped.

    An input that is misclassified already is returned unchanged; to leave it out of the one pass would need another.

    Args:
        eps: Size of the change of each entry, at least 0, in the unit of the inputs; at 0 the inputs are returned.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> FGSM(eps=0.25)(model, torch.tensor([[0.75, 0.5], [0.0, 1.0]]), torch.tensor([0, 0]))
        tensor([[0.5000, 0.7500],
                [0.0000, 1.0000]])
    """

    def __init__(self, eps: float = 0.1, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps must be at least 0 and finite, got {eps}")
        _check_bounds(bounds)
        self.eps, self.bounds = eps, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and their labels, int64, (N,)."""
        _check_inputs(inputs, labels, self.bounds)
        with _attacked(model):
            given = inputs.detach().clone().requires_grad_()
            logits = model(given)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), given)
        moved = fgsm_step(inputs.detach(), gradient, self.eps, self.bounds)
        return torch.where(_over(logits.argmax(dim=1) == labels, inputs), moved, inputs.detach())


def _over(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


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
        _check_bounds(bounds)
        self.c, self.kappa, self.steps, self.lr = c, kappa, steps, lr
        self.binary_search_steps, self.patience = binary_search_steps, patience
        self.targeted, self.bounds = targeted, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels, int64, (N,)."""
        _check_inputs(inputs, labels, self.bounds)
        results = inputs.detach().clone()
        with _attacked(model):
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
        bias = [_over(1 - beta ** search["step"].double(), w).to(w) for beta in _BETAS]
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
        following["w"] = torch.where(_over(nearest.isinf(), nearest_w), search["w"], nearest_w)
        for name, value in following.items():
            search[name] = torch.where(_over(ended, value), value, search[name])
