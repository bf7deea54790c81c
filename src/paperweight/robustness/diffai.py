"""DiffAI: train a network by bounds on all it can answer near an image, and prove with the same bounds.

A hybrid zonotope holds every value that an activation can take for inputs within a radius: a reach of each entry by
itself, and errors that entries share. It passes through the network as activations do, and the loss is the
cross-entropy of the worst margins that it allows. Layers that change nothing but the zonotope trade precision for time;
goals combine losses at the point and over the ball, by weights and radii that grow during training.
Cost: bounds by boxes some two passes of the network, by shared errors as many more as there are errors.

Source:
    M. Mirman, G. Singh, M. Vechev, "A Provable Defense for Deep Residual Networks", 2019,
    https://arxiv.org/abs/1903.12519; the domain: M. Mirman, T. Gehr, M. Vechev, "Differentiable Abstract Interpretation
    for Provably Robust Neural Networks", ICML 2018.

Deviations:
    - Names and forms of layers and goals follow the paper loosely: there are `Concretize`, `CorrelateMax`, `Point`,
      `Ball` and `Mix`. Sampled goals are not there, nor layers that correlate by a fixed pattern.
    - ReLU of an entry that crosses 0 is cut to a box where it lies below 0 for the greater part.
    - The worst margins are taken after the last layer; errors that two logits share are set off against each other.
    - Activations other than ReLU, and max pooling, keep no shared errors.
    - Bounds are computed in the numbers' own precision; a proof holds up to rounding.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.robustness._zonotope import Concretize, CorrelateMax, HybridZonotope, ball, hybrid_relu, propagate

__all__ = [
    "Ball",
    "Concretize",
    "CorrelateMax",
    "DiffAI",
    "HybridZonotope",
    "Mix",
    "Point",
    "ball",
    "hybrid_relu",
    "propagate",
    "verify",
    "worst_margins",
]

PAPER = Paper(
    title="A Provable Defense for Deep Residual Networks",
    authors=("Matthew Mirman", "Gagandeep Singh", "Martin Vechev"),
    year=2019,
    url="https://arxiv.org/abs/1903.12519",
    provides={
        "CorrelateMax": "layer",
        "DiffAI": "training-procedure",
        "verify": "function",
    },
    claim="Training by differentiable bounds, mixed with plain training, makes deep residual networks provably robust.",
)

_CHUNK = 256


class Goal(Protocol):
    """What a network is trained for."""

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Give a scalar for a batch, when a share ``progress`` of the training, 0 to 1, is done."""
        ...


@final
@dataclass(frozen=True)
class Point:
    """The cross-entropy at the inputs themselves.

    Example:
        >>> Point().loss(nn.Identity(), torch.zeros(1, 2), torch.tensor([0]), 0.0)
        tensor(0.6931)
    """

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Give the loss of a batch, a scalar."""
        return F.cross_entropy(model(inputs), labels)


@final
@dataclass(frozen=True)
class Ball:
    """The cross-entropy of the worst margins over all inputs within a radius.

    Args:
        radius: Largest change of an entry, at least 0.
        ramp: Share of the training over which the radius grows from 0, in [0, 1].
        shared: Whether each entry of an input is a shared error from the beginning.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> at_once = Ball(0.25).loss(nn.Linear(1, 1), torch.zeros(1, 1), torch.tensor([0]), 0.0)
        >>> at_once.item() == 0.0  # one class is always right
        True
    """

    radius: float
    ramp: float = 0.0
    shared: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.radius, bool) or not 0 <= self.radius < math.inf:
            raise ValueError(f"radius must be at least 0 and finite, got {self.radius!r}")
        _check_share("ramp", self.ramp)

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Give the loss of a batch, a scalar."""
        near = ball(inputs, self.radius * _grown(progress, self.ramp), shared=self.shared, bounds=self.bounds)
        return F.cross_entropy(worst_margins(propagate(model, near), labels), labels)


@final
@dataclass(frozen=True)
class Mix:
    """The weighted mean of two goals: (1 - weight) first + weight second.

    Args:
        first: One goal.
        second: Another.
        weight: Weight of the second, in [0, 1]; at 0 only the first is computed.
        ramp: Share of the training over which the weight grows from 0, in [0, 1].

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> model, batch = nn.Linear(1, 2), (torch.zeros(1, 1), torch.tensor([0]))
        >>> half = Mix(Point(), Ball(0.0), weight=0.5).loss(model, *batch, 1.0)
        >>> torch.allclose(half, Point().loss(model, *batch, 1.0))
        True
    """

    first: Goal
    second: Goal
    weight: float = 0.5
    ramp: float = 0.0

    def __post_init__(self) -> None:
        _check_share("weight", self.weight)
        _check_share("ramp", self.ramp)

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Give the loss of a batch, a scalar."""
        weight = self.weight * _grown(progress, self.ramp)
        first = self.first.loss(model, inputs, labels, progress)
        if weight == 0:
            return first
        return (1 - weight) * first + weight * self.second.loss(model, inputs, labels, progress)


def worst_margins(logits: HybridZonotope, labels: Tensor) -> Tensor:
    """Give for each class by how much its logit can exceed that of the label at most.

    Args:
        logits: Logits, (N, classes).
        labels: Class numbers, int64, (N,).

    Returns:
        Margins, (N, classes), 0 for the label. Where all others are below 0 the label is proved.

    Example:
        >>> near = ball(torch.tensor([[0.75, 0.25]]), 0.125)
        >>> worst_margins(near, torch.tensor([0]))
        tensor([[ 0.0000, -0.2500]])
    """
    place = labels[:, None]
    shared = (logits.errors - logits.errors.gather(2, place.expand(len(logits.ids), -1, -1))).abs().sum(dim=0)
    center = logits.center - logits.center.gather(1, place)
    return (center + logits.box + logits.box.gather(1, place) + shared).scatter(1, place, 0)


def verify(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    radius: float,
    *,
    shared: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Tell for which inputs it is proved that no change within a radius changes the class from the label.

    Args:
        model: Maps inputs to logits (N, classes), see `propagate`; in eval mode meanwhile.
        inputs: Inputs within the bounds, (N, ...).
        labels: Class numbers, int64, (N,).
        radius: Largest change of an entry, at least 0.
        shared: Whether each entry of an input is an error that later entries share: more is proved, at the cost of as
            many passes as an input has entries.
        bounds: Smallest and largest entry of an input.

    Returns:
        Whether it is proved, bool, (N,).

    Raises:
        ValueError: If the radius is not such.
        InputError: If the bounds cannot pass through the network.

    Example:
        >>> verify(nn.Identity(), torch.tensor([[0.75, 0.25]]), torch.tensor([0]), 0.2)
        tensor([True])
    """
    if isinstance(radius, bool) or not 0 <= radius < math.inf:
        raise ValueError(f"radius must be at least 0 and finite, got {radius!r}")
    proved: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for part, wanted in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True):
            margins = worst_margins(propagate(model, ball(part, radius, shared=shared, bounds=bounds)), wanted)
            others = margins.scatter(1, wanted[:, None], -math.inf)
            proved.append((others < 0).all(dim=1))
    return torch.cat(proved) if proved else torch.zeros(0, dtype=torch.bool)


@final
class DiffAI:
    """Trains a network for a goal.

    Args:
        model: A classifier; trained in place.
        optimizer: Holds its parameters.
        goal: `Point`, `Ball`, `Mix`, or an own one with the same method.
        steps: Number of rounds of the whole training, at least 1, by which radii and weights grow.

    Raises:
        ValueError: If the number of rounds is not such.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> training = DiffAI(model, torch.optim.SGD(model.parameters(), lr=0.1), Ball(0.1), steps=10)
        >>> training.step(torch.rand(4, 2), torch.tensor([0, 1, 0, 1])).item() > 0
        True
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, goal: Goal, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        self.model, self.optimizer, self.goal, self.steps = model, optimizer, goal, steps
        self.rounds = 0

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update the model on a batch, inputs (N, ...) and labels (N,), and give its loss, a scalar."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.goal.loss(self.model, inputs, labels, min(1.0, self.rounds / self.steps))
        loss.backward()
        self.optimizer.step()
        self.rounds += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the optimizer and the number of rounds."""
        return {"optimizer": self.optimizer.state_dict(), "rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.rounds = state_dict["rounds"]


def _grown(progress: float, ramp: float) -> float:
    return 1.0 if ramp == 0 else min(1.0, progress / ramp)


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
