"""The RayS attack: a search for the nearest wrong answer along rays, by the decisions of a model alone.

Source:
    J. Chen, Q. Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", 2020,
    https://arxiv.org/abs/2006.12792, algorithms 1 to 3: signs are turned by halves, quarters and so on, and a distance
    is looked for only where the new direction is known to be nearer.

Deviations:
    each input takes one query a pass and goes at its own pace; the search ends by the number of queries alone
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks._rows import check_bounds, check_inputs, check_number, check_whole, fooled_by, over
from paperweight.attacks.square import Queried
from paperweight.nets import evaluating

__all__ = ["RaySAttack", "turned"]


def turned(signs: Tensor, stage: Tensor, block: Tensor) -> Tensor:
    """Turn the signs of one block of each row, of the 2^stage blocks that its entries make, each as long or the last.

    Args:
        signs: Rows of numbers, (N, D).
        stage: Stage of each row, int64, at least 0, (N,).
        block: Number of the block of each row, int64, from 0, (N,).

    Returns:
        Shape (N, D).

    Example:
        >>> turned(torch.ones(2, 5), torch.tensor([0, 1]), torch.tensor([0, 1]))
        tensor([[-1., -1., -1., -1., -1.],
                [ 1.,  1.,  1., -1., -1.]])
    """
    size = _block_size(signs.shape[1], stage)[:, None]
    number = torch.arange(signs.shape[1], device=signs.device) // size
    return torch.where(number == block[:, None], -signs, signs)


@final
class RaySAttack:
    """Looks for the smallest change in norm infinity by which a model's decision is wrong; scores are never looked at.

    A change has one size and a sign for each entry, and is cut off at the bounds. Signs are turned block by block; a
    turn stays if the model is wrong at the present distance with it, and its own distance is found by bisection then.
    An input for which nothing is found is returned as it is. Nothing is random. The model is in eval mode.

    Args:
        queries: Number of forward passes for an input, at least 2.
        tolerance: Distances are found to this, above 0, or to what the inputs' type can tell; the authors have 0.001.
        targeted: Whether the labels are those that the model shall give.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> attack = RaySAttack(queries=60)
        >>> changed = attack(model, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
        >>> (changed - torch.tensor([[0.75, 0.5]])).abs().max().round(decimals=2)
        tensor(0.1300)
    """

    def __init__(
        self,
        queries: int = 5000,
        tolerance: float = 0.001,
        targeted: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_whole("queries", queries, 2)
        check_number("tolerance", tolerance, above=True)
        check_bounds(bounds)
        self.queries, self.tolerance, self.targeted, self.bounds = queries, tolerance, targeted, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), that `search` finds; ``generator`` is not used."""
        return self.search(model, inputs, labels).inputs

    def search(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Queried:
        """Give the changed inputs, and how many queries each took.

        Args:
            model: Maps inputs to logits (N, classes).
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).

        Returns:
            Changed inputs, queries, and which fool the model.
        """
        check_inputs(inputs, labels, self.bounds)
        given = inputs.detach()
        results, count = given.clone(), torch.zeros(len(given), dtype=torch.int64, device=given.device)
        if not len(given):
            return Queried(results, count, torch.zeros_like(count, dtype=torch.bool))
        flat, far = given.flatten(1), self.bounds[1] - self.bounds[0]
        best = torch.ones_like(flat)
        distance = given.new_full((len(given),), math.inf)
        tried, low, high = best, torch.zeros_like(distance), torch.full_like(distance, far)
        bisects = torch.zeros_like(count, dtype=torch.bool)
        stage, block = torch.zeros_like(count), -torch.ones_like(count)
        with evaluating(model), torch.no_grad():
            unchanged = fooled_by(model(given), labels, self.targeted)
            for _ in range(self.queries - 1):
                size = torch.where(bisects, (low + high) / 2, distance.clamp(max=far))
                point = (flat + size[:, None] * tried).clamp(*self.bounds).reshape(given.shape)
                found = fooled_by(model(point), labels, self.targeted)
                better = found & ~unchanged
                results = torch.where(over(better, given), point, results)
                best = torch.where(better[:, None], tried, best)
                distance = torch.where(better, size, distance)
                low = torch.where(bisects & ~found, size, torch.where(bisects, low, torch.zeros_like(low)))
                high = torch.where(found, size, high)
                middle = (low + high) / 2
                apart = (high - low > self.tolerance) & (middle > low) & (middle < high)
                bisects = (bisects | found) & apart
                count += ~unchanged
                stage, block = _next(stage, block, ~bisects, flat.shape[1])
                tried = torch.where(bisects[:, None], tried, turned(best, stage, block))
        return Queried(results, count + 1, unchanged | (distance < math.inf))


def _block_size(entries: int, stage: Tensor) -> Tensor:
    """Give the length of a block, at least 1."""
    return (entries + 2**stage - 1) // 2**stage


def _next(stage: Tensor, block: Tensor, moves: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """Give the stage and block that follow, of rows that move on: after a last block the first of the next stage."""
    following = block + moves.to(block)
    last = following * _block_size(entries, stage) >= entries
    stage = torch.where(last & moves, (stage + 1).clamp(max=_last_stage(entries)), stage)
    return stage, torch.where(last & moves, 0, following)


def _last_stage(entries: int) -> int:
    """Give the stage from which on a block is one entry."""
    return max(0, math.ceil(math.log2(entries)))
