"""A world of designs with true scores, of which the better ones are hidden, and training that flattens the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["OfflineDesigns", "SharpnessAware", "offline_designs"]


@final
@dataclass(frozen=True, eq=False)
class OfflineDesigns:
    """Designs that were scored, and what nobody is told but the judge.

    Attributes:
        designs: (N, features), of mean 0 and standard deviation 1 before the better ones were left out.
        scores: Of mean 0 and standard deviation 1, (N, 1).
        truth: Maps designs to true scores, (M,), so that 0 is the worst and 1 the best of all designs, hidden ones
            included.
        unscaled: Maps scores as they are fitted to the scale of the true ones.
    """

    designs: Tensor
    scores: Tensor
    truth: Callable[[Tensor], Tensor]
    unscaled: Callable[[Tensor], Tensor]

    def best(self, count: int) -> Tensor:
        """Give the numbers of the designs with the highest scores, (count,)."""
        return self.scores[:, 0].topk(count).indices


def offline_designs(
    count: int, features: int, generator: torch.Generator, *, hidden: float = 0.4, pool: int = 20_000
) -> OfflineDesigns:
    """Draw a smooth random function, with a bowl that keeps it low far away, and some of its worse designs.

    Args:
        count: Designs that are scored, at most ``(1 - hidden) * pool``.
        features: Numbers of a design.
        generator: Draws function and designs.
        hidden: Share of all designs that are better than any that is scored.
        pool: Number of all designs.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights, biases, outer = normal(features, 32) * 4 / math.sqrt(features), normal(32), normal(32) * 3 / math.sqrt(32)

    def function(x: Tensor) -> Tensor:
        return torch.tanh(x @ weights + biases) @ outer - 0.5 * x.square().mean(-1)

    designs = normal(pool, features)
    values = function(designs)
    low, high = values.min(), values.max()
    worse = values.argsort()[: int((1 - hidden) * pool)]
    kept = worse[torch.randperm(len(worse), generator=generator)[:count]]
    mean, spread = values[kept].mean(), values[kept].std()
    return OfflineDesigns(
        designs=designs[kept],
        scores=((values[kept] - mean) / spread)[:, None],
        truth=lambda x: (function(x) - low) / (high - low),
        unscaled=lambda score: (score * spread + mean - low) / (high - low),
    )


@final
class SharpnessAware:
    """Sharpness-aware minimisation of the squared error: each gradient is taken where the loss is highest nearby.

    Args:
        model: Trained in place.
        optimizer: Holds its parameters.
        rho: Distance from the weights at which the gradient is taken, at least 0.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, rho: float) -> None:
        self.model = model
        self.optimizer = optimizer
        self.rho = rho

    def step(self, inputs: Tensor, scores: Tensor) -> Tensor:
        """Update the model on a batch; return the loss before the update."""
        parameters = list(self.model.parameters())

        def loss() -> Tensor:
            return (self.model(inputs) - scores).square().mean()

        first = loss()
        gradients = torch.autograd.grad(first, parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() + 1e-12
        moves = [self.rho / norm * gradient for gradient in gradients]
        with torch.no_grad():
            before = [parameter.clone() for parameter in parameters]
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.add_(move)
        self.optimizer.zero_grad()
        loss().backward()
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        self.optimizer.step()
        return first.detach()
