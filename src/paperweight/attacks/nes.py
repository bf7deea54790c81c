"""Ascent by gradients that are estimated from the scores of a model alone (natural evolution strategies, NES).

Source:
    A. Ilyas, L. Engstrom, A. Athalye, J. Lin, "Black-box Adversarial Attacks with Limited Queries and Information",
    2018, https://arxiv.org/abs/1804.08598, algorithm 1 and section 2.1: the estimate by pairs of opposite directions,
    and projected steps.

Deviations:
    the margin is raised in place of the logarithm of a class's probability; steps get shorter as those of
    `ProjectedGradient` do; the point of largest loss among those looked at is given, not the last
"""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks._rows import (
    check_bounds,
    check_choice,
    check_inputs,
    check_number,
    check_whole,
    fooled_by,
    over,
)
from paperweight.attacks.balls import project, steepest_step
from paperweight.attacks.losses import AttackLoss, margin_loss
from paperweight.attacks.projected_gradient import step_lengths
from paperweight.attacks.square import Queried
from paperweight.nets import evaluating

__all__ = ["NESAttack", "estimated_gradient"]


def estimated_gradient(
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    pairs: int,
    width: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate gradients by differences along normal directions: the mean of (L(x + w u) - L(x - w u)) u / 2w.

    On a linear loss its expectation is the gradient.

    Args:
        loss: Maps inputs (N, ...) to a number for each, (N,); called twice a pair.
        inputs: Where, (N, ...).
        pairs: Pairs of opposite directions, at least 1.
        width: Length scale w of a difference, above 0.
        generator: Source of the directions; the global random state by default.

    Returns:
        Shape (N, ...).

    Example:
        >>> source = torch.Generator().manual_seed(0)
        >>> found = estimated_gradient(lambda x: 2 * x[:, 0], torch.zeros(1, 2), 4000, 0.1, source)
        >>> bool((found - torch.tensor([[2.0, 0.0]])).abs().max() < 0.2)
        True
    """
    total = torch.zeros_like(inputs)
    for _ in range(pairs):
        device = inputs.device if generator is None else generator.device
        ahead = torch.randn(inputs.shape, generator=generator, device=device).to(inputs)
        rise = (loss(inputs + width * ahead) - loss(inputs - width * ahead)).to(inputs)
        total += over(rise, inputs) * ahead
    return total / (2 * width * pairs)


@final
class NESAttack:
    """Raises a loss within a ball by steepest steps along estimated gradients; the model's scores are all it sees.

    A step costs a query for each input at the point itself and two for each pair of directions. An input that fools
    the model takes no further part, unless ``keep_going``. Points along directions may leave the bounds by a little.
    The model is in eval mode.

    Args:
        radius: Largest change of an input, in the norm, at least 0; at 0 the inputs are returned.
        norm: Norm of a change: 2 or ``math.inf``.
        queries: Largest number of forward passes for an input, at least ``2 * pairs + 2``.
        pairs: Pairs of directions of an estimate, at least 1; the source has 25 on ImageNet.
        width: Length scale of a difference, above 0; the source has 0.001 for inputs in [0, 1].
        loss: What is raised: maps logits and labels to a number for each input.
        targeted: Whether the labels are those that the model shall give; the loss is lowered then.
        keep_going: Whether fooled inputs are attacked further, for the largest loss.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = NESAttack(radius=0.25, queries=100).search(
        ...     model, torch.tensor([[0.75, 0.5]]), torch.tensor([0]), generator=torch.Generator().manual_seed(0))
        >>> found.fooled
        tensor([True])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        norm: float = math.inf,
        queries: int = 5000,
        pairs: int = 20,
        width: float = 0.001,
        loss: AttackLoss = margin_loss,
        targeted: bool = False,
        keep_going: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_number("radius", radius)
        check_choice("norm", norm, (2.0, math.inf))
        check_whole("pairs", pairs, 1)
        check_whole("queries", queries, 2 * pairs + 2)
        check_number("width", width, above=True)
        check_bounds(bounds)
        self.radius, self.norm, self.queries, self.pairs, self.width = radius, norm, queries, pairs, width
        self.loss, self.targeted, self.keep_going, self.bounds = loss, targeted, keep_going, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), that `search` finds."""
        return self.search(model, inputs, labels, generator=generator).inputs

    def search(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Queried:
        """Give the changed inputs, and how many queries each took.

        Args:
            model: Maps inputs to logits (N, classes).
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).
            generator: Source of randomness; the global random state by default.

        Returns:
            Changed inputs, queries, and which fool the model.
        """
        check_inputs(inputs, labels, self.bounds)
        given = inputs.detach()
        results, count = given.clone(), torch.zeros(len(given), dtype=torch.int64, device=given.device)
        fooled = torch.zeros_like(count, dtype=torch.bool)
        if self.radius == 0 or not len(given):
            return Queried(results, count, fooled)
        sign = -1 if self.targeted else 1
        largest = given.new_full((len(given),), -math.inf)
        place, changed, middle, wanted = torch.arange(len(given), device=given.device), given, given, labels
        steps = (self.queries - 1) // (2 * self.pairs + 1)
        with evaluating(model), torch.no_grad():
            for length in [*step_lengths(2 * self.radius, steps), None]:
                logits = model(changed)
                count[place] += 1
                losses, found = sign * self.loss(logits, wanted).to(largest), fooled_by(logits, wanted, self.targeted)
                if not self.keep_going:
                    losses = losses.masked_fill(found, math.inf)
                better = losses > largest[place]
                results[place[better]], largest[place[better]] = changed[better], losses[better]
                fooled[place[better]] = found[better]
                going = largest[place] < math.inf
                place, middle, wanted, changed = place[going], middle[going], wanted[going], changed[going]
                if length is None or not len(place):
                    break
                at = wanted
                gradient = estimated_gradient(
                    lambda points, at=at: sign * self.loss(model(points), at),
                    changed,
                    self.pairs,
                    self.width,
                    generator,
                )
                count[place] += 2 * self.pairs
                ahead = steepest_step(gradient, changed, length, self.norm, self.bounds)
                changed = project(ahead, middle, self.radius, self.norm, self.bounds)
        return Queried(results, count, fooled)
