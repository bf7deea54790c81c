"""IGNITE: a surrogate that is searched for better designs is kept from changing much when its weights change a little.

Offline optimization fits a surrogate to designs and their scores, and climbs it to designs that nobody has scored,
where it errs. IGNITE adds to the loss the norm of the gradient of the mean prediction by the weights, its sharpness,
with a weight that grows while the sharpness is above a bound, and falls below it.
Cost: two more forward and backward passes of the surrogate in each step; the search costs nothing more.

Source:
    M. C. Dao, P. L. Nguyen, T. N. Truong, T. N. Hoang, "Incorporating Surrogate Gradient Norm to Improve Offline
    Optimization Techniques", NeurIPS 2024, https://arxiv.org/abs/2503.04242, and the authors' code,
    https://github.com/cuong-dm/IGNITE, for the order of a step and the defaults. Implemented: the sharpness, its
    gradient by a finite difference, training with a multiplier, and with a fixed weight (their IGNITE-2: eta 0).

Deviations:
    - The multiplier stays at least 0, as of an inequality; the authors' code lets it fall below, and rewards sharpness.
    - The passes for the sharpness are in eval mode, so that both drop nothing and running statistics stay as they
      were; the authors' are in train mode, of networks in which that makes no difference.
    - Surrogates give one number a design and are fitted by squared errors, unless told otherwise; in the authors' code
      for gradient ascent they give mean and spread of a normal distribution, and the sharpness is of the mean.
    - The weights are not changed and changed back: the second pass is computed with others.
"""

import math
from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["SurrogateTraining", "ascend", "prediction_gradient", "sharpness_gradient"]

PAPER = Paper(
    title="Incorporating Surrogate Gradient Norm to Improve Offline Optimization Techniques",
    authors=("Manh Cuong Dao", "Phi Le Nguyen", "Thao Nguyen Truong", "Trong Nghia Hoang"),
    year=2024,
    url="https://arxiv.org/abs/2503.04242",
    provides={
        "SurrogateTraining": "training-procedure",
        "sharpness_gradient": "function",
        "prediction_gradient": "function",
        "ascend": "function",
    },
    null={"rho": 0.0},
    claim="Surrogates of low sharpness make offline optimizers of many kinds find better designs.",
)


def prediction_gradient(
    model: nn.Module, inputs: Tensor, weights: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Compute the gradient of the mean prediction G, the mean of all outputs, by the weights.

    Args:
        model: The surrogate; run in eval mode, and left as it was.
        inputs: Designs, (N, ...), N at least 1.
        weights: At which weights, by name; at those of the model that are trained, if left out.

    Returns:
        The gradient by name, of the shapes of the weights.

    Raises:
        ValueError: If there is no design, or no weight.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> gradient = prediction_gradient(model, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> gradient["weight"], gradient["bias"]
        (tensor([[2., 3.]]), tensor([1.]))
    """
    if not len(inputs):
        raise ValueError(f"inputs must hold at least one design, got shape {tuple(inputs.shape)}")
    at = {name: p for name, p in model.named_parameters() if p.requires_grad} if weights is None else weights
    if not at:
        raise ValueError("model must have a weight that is trained, got none")
    at = {name: weight.detach().requires_grad_() for name, weight in at.items()}
    with evaluating(model), torch.enable_grad():
        mean = functional_call(model, at, (inputs,)).mean()
        gradients = torch.autograd.grad(mean, list(at.values()), materialize_grads=True)
    return dict(zip(at, gradients, strict=True))


def sharpness_gradient(model: nn.Module, inputs: Tensor, r: float = 0.05) -> tuple[float, dict[str, Tensor]]:
    """Compute the norm of the gradient of the mean prediction, and the gradient of that norm by a finite difference.

    rho times the norm is, to first order, by how much the mean prediction can rise within a radius rho of the weights.
    Its gradient is the Hessian times u, u being the gradient over its norm: h = (grad G(w + r u) - grad G(w)) / r.

    Args:
        model: The surrogate; left as it was.
        inputs: Designs, (N, ...), N at least 1.
        r: Length of the difference, finite and above 0; 0.05 in the authors' code.

    Returns:
        The norm, and h by name, 0 where the norm is 0.

    Raises:
        ValueError: If ``r`` is outside its range, or there is no design.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> with torch.no_grad():  # G = w v, whose gradient is (v, w)
        ...     _ = model[0].weight.fill_(3.0), model[1].weight.fill_(4.0)
        >>> norm, h = sharpness_gradient(model, torch.ones(2, 1), r=1.0)
        >>> norm, round(h["0.weight"].item(), 4), round(h["1.weight"].item(), 4)
        (5.0, 0.6, 0.8)
    """
    _check_positive("r", r)
    at = prediction_gradient(model, inputs)
    norm = torch.stack([gradient.norm() for gradient in at.values()]).norm()
    if norm == 0:
        return 0.0, at
    weights = dict(model.named_parameters())
    moved = {name: weights[name].detach() + r / norm * gradient for name, gradient in at.items()}
    there = prediction_gradient(model, inputs, moved)
    return norm.item(), {name: (there[name] - gradient) / r for name, gradient in at.items()}


@final
class SurrogateTraining:
    """Trains a surrogate of which the sharpness is bounded.

    With ``rho=0`` it is plain training.

    Args:
        model: The surrogate, from designs (B, ...) to predicted scores; trained in place.
        optimizer: Holds the model's parameters; steps without a closure. Adam in the authors' code.
        rho: Radius within which weights are perturbed, finite and at least 0; 0.05 in the authors' code.
        eps: The bound of the sharpness, rho times the norm, finite and at least 0; 0.001 in the authors' code.
        lam: Weight of the sharpness to begin with, finite and at least 0; 0.001 in the authors' code.
        eta: Step size of the weight, finite and at least 0; 0.001 in the authors' code. At 0 the weight is fixed.
        r: Length of the finite difference, finite and above 0; 0.05 in the authors' code.
        loss: Maps predictions and scores to a scalar; the mean of squared errors by default.

    Raises:
        ValueError: If an argument is outside its range, or the optimizer lacks a parameter of the model.

    Attributes:
        weight: The weight of the sharpness for the next step.
        sharpness: The sharpness before the latest step; not a number before the first.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> training = SurrogateTraining(model, optimizer)
        >>> designs = torch.rand(64, 2)
        >>> for _ in range(10):
        ...     loss = training.step(designs, designs.sum(1, keepdim=True))
        >>> found = ascend(model, designs[:4], steps=5, lr=0.1)
        >>> training.weight > 0.001, found.shape
        (True, torch.Size([4, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rho: float = 0.05,
        eps: float = 1e-3,
        lam: float = 1e-3,
        eta: float = 1e-3,
        r: float = 0.05,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        for name, value in (("rho", rho), ("eps", eps), ("lam", lam), ("eta", eta)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        _check_positive("r", r)
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if not held.issuperset(parameter for parameter in model.parameters() if parameter.requires_grad):
            raise ValueError("optimizer must hold all trained parameters of the model; make it of this model")
        self.model = model
        self.optimizer = optimizer
        self.rho = rho
        self.eps = eps
        self.lam = lam
        self.eta = eta
        self.r = r
        self.loss = loss
        self.weight = lam
        self.sharpness = math.nan

    def step(self, inputs: Tensor, scores: Tensor) -> Tensor:
        """Update the surrogate on a batch, in train mode.

        Args:
            inputs: Designs, (B, ...), B at least 1.
            scores: Of the shape of the predictions.

        Returns:
            The loss before the update, without the sharpness, a scalar.

        Raises:
            ValueError: If predictions and scores differ in shape, where no loss was given.
        """
        self.model.train()
        loss = (_squared_error if self.loss is None else self.loss)(self.model(inputs), scores)
        self.optimizer.zero_grad()
        loss.backward()
        if self.rho > 0:
            norm, h = sharpness_gradient(self.model, inputs, self.r)
            for name, parameter in self.model.named_parameters():
                if name in h:
                    added = self.weight * self.rho * h[name]
                    parameter.grad = added if parameter.grad is None else parameter.grad.add_(added)
            self.sharpness = self.rho * norm
            if math.isfinite(self.sharpness):
                self.weight = max(0.0, self.weight + self.eta * (self.sharpness - self.eps))
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights."""
        return {"optimizer": self.optimizer.state_dict(), "weight": self.weight, "sharpness": self.sharpness}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.weight = state_dict["weight"]
        self.sharpness = state_dict["sharpness"]


def ascend(model: nn.Module, designs: Tensor, steps: int = 50, lr: float = 0.05) -> Tensor:
    """Climb a surrogate from designs: x becomes x + lr times the gradient of its prediction by x.

    Args:
        model: The surrogate; run in eval mode, and left as it was.
        designs: Where to begin, (N, ...), such as the best of the offline data; left as they were.
        steps: Number of steps, at least 0.
        lr: Step size, finite and above 0. For designs of d normalised numbers and 200 steps the authors' code has 0.01
            times the root of d.

    Returns:
        The designs that are reached, of the shape of ``designs``.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> ascend(nn.Identity(), torch.zeros(1, 2), steps=3, lr=0.5)
        tensor([[1.5000, 1.5000]])
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {steps!r}")
    _check_positive("lr", lr)
    found = designs.detach().clone()
    with evaluating(model):
        for _ in range(steps):
            free = found.requires_grad_()
            with torch.enable_grad():
                gradient = torch.autograd.grad(model(free).sum(), free)[0]
            found = free.detach() + lr * gradient
    return found


def _squared_error(predictions: Tensor, scores: Tensor) -> Tensor:
    if predictions.shape != scores.shape:
        raise ValueError(f"scores must have shape {tuple(predictions.shape)}, got {tuple(scores.shape)}")
    return F.mse_loss(predictions, scores)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value}")
