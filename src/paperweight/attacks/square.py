"""The Square attack: a random search that asks a model for its scores only, and changes one square at a time.

Source:
    M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square Attack: a query-efficient black-box adversarial attack
    via random search", 2020, https://arxiv.org/abs/1912.00049, algorithms 1 to 3 and equation 2; the authors' code
    (MIT) for the first perturbation and the schedule.

Deviations:
    each image of a batch has a window of its own; a proposal that would change nothing has the opposite signs, where
    the authors draw again; the unchanged input is the first query; the loss is the margin in targeted attacks, too
"""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from paperweight.attacks._rows import (
    check_bounds,
    check_choice,
    check_inputs,
    check_number,
    check_whole,
    draw,
    fooled_by,
    over,
)
from paperweight.attacks.losses import AttackLoss, margin_loss
from paperweight.nets import evaluating

__all__ = ["Queried", "SquareAttack", "bump", "window_share"]

_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
_COMPACT = 8
_SAME = 1e-7


class Queried(NamedTuple):
    """What a search by queries found: changed inputs, their queries, and which fool the model.

    ``inputs`` is (N, ...); ``queries``, int64, (N,), are the forward passes that each took part in until it was fooled,
    or of the whole search; ``fooled`` is bool, (N,).
    """

    inputs: Tensor
    queries: Tensor
    fooled: Tensor


def window_share(query: int, queries: int, first: float) -> float:
    """Give the share of an image's area that a window has: halved nine times, sooner at first.

    Args:
        query: Number of the query, from 0.
        queries: Number of all queries.
        first: The first share.

    Returns:
        The share.

    Example:
        >>> [window_share(query, 1000, 0.8) for query in (0, 2, 6, 1000)]
        [0.8, 0.4, 0.2, 0.0015625]
    """
    return first / 2 ** sum(query * 10_000 // queries > bound for bound in _HALVED_AT)


def bump(side: int) -> Tensor:
    """Give the pattern of an l2 window: a hill above a valley, of norm 1.

    Both fall towards their edges: an entry at distance d from the middle, counted in rows or columns, whichever is
    more, has the sum of 1 / (k + 1)^2 over all k from d on that are at most half of the longer side.

    Args:
        side: Rows and columns, at least 1.

    Returns:
        Shape (side, side), float32.

    Example:
        >>> bump(2)
        tensor([[ 0.1387,  0.6934],
                [-0.1387, -0.6934]])
    """

    def hill(rows: int, columns: int) -> Tensor:
        weights = 1 / torch.arange(1, max(rows, columns) // 2 + 2).square()
        sums = weights.flip(0).cumsum(0).flip(0)
        down, right = (torch.arange(count) - count // 2 for count in (rows, columns))
        values = sums[torch.maximum(down.abs()[:, None], right.abs())]
        return values / values.norm().clamp(min=1e-12)

    pattern = torch.cat([hill(side // 2, side), -hill(side - side // 2, side)])
    return pattern / pattern.norm()


@final
class SquareAttack:
    """Searches at random, by the scores of a model alone, for a change within a ball that fools it.

    In norm infinity the change begins as vertical stripes of plus and minus the radius, and a query sets one square of
    it to plus or minus the radius, channel by channel; in norm 2 a square takes over the norm that is left and that of
    another square, in the form of `bump`. What raises the loss stays. Squares shrink as `window_share` says. An input
    that fools the model takes no further part, unless ``keep_going``. No gradient is taken; the model is in eval mode.

    Args:
        radius: Largest change of an input, in the norm, at least 0; at 0 the inputs are returned.
        norm: Norm of a change: 2 or ``math.inf``.
        queries: Largest number of forward passes for an input, the first of the unchanged input, at least 2.
        share: First share of the area that a square has, above 0 and at most 1; the source has 0.05 for norm infinity
            and 0.1 for norm 2 on ImageNet, and 0.8 on MNIST.
        loss: What is raised: maps logits and labels to a number for each input.
        targeted: Whether the labels are those that the model shall give; the loss is lowered then.
        keep_going: Whether fooled inputs are attacked further, for the largest loss.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are, or are no images; in norm 2 of 3 pixels a side.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 16))
        >>> images, labels = torch.full((3, 1, 4, 4), 0.05), torch.zeros(3, dtype=torch.int64)
        >>> found = SquareAttack(radius=0.1, queries=100, bounds=(-1.0, 1.0)).search(
        ...     model, images, labels, generator=torch.Generator().manual_seed(0))
        >>> found.fooled, bool((found.queries < 100).all())
        (tensor([True, True, True]), True)
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        norm: float = math.inf,
        queries: int = 5000,
        share: float = 0.8,
        loss: AttackLoss = margin_loss,
        targeted: bool = False,
        keep_going: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_number("radius", radius)
        check_choice("norm", norm, (2.0, math.inf))
        check_whole("queries", queries, 2)
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        check_bounds(bounds)
        self.radius, self.norm, self.queries, self.share, self.loss = radius, norm, queries, share, loss
        self.targeted, self.keep_going, self.bounds = targeted, keep_going, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, C, H, W), that `search` finds."""
        return self.search(model, inputs, labels, generator=generator).inputs

    def search(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Queried:
        """Give the changed inputs, and how many queries each took.

        Args:
            model: Maps images to logits (N, classes).
            inputs: Images within the bounds, (N, C, H, W).
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes).
            generator: Source of randomness; the global random state by default.

        Returns:
            Changed images, queries, and which fool the model.
        """
        check_inputs(inputs, labels, self.bounds)
        least = 3 if self.norm == 2 else 1
        if inputs.ndim != 4 or min(inputs.shape[2:]) < least:
            found = tuple(inputs.shape)
            raise ValueError(f"inputs must be images (N, C, H, W) of at least {least} pixels a side, got shape {found}")
        given = inputs.detach()
        results, count = given.clone(), torch.zeros(len(given), dtype=torch.int64, device=given.device)
        fooled = torch.zeros_like(count, dtype=torch.bool)
        if self.radius == 0 or not len(given):
            return Queried(results, count, fooled)
        largest, place, middle, wanted = (
            given.new_full((len(given),), -math.inf),
            torch.arange(len(given)),
            given,
            labels,
        )
        place = place.to(given.device)
        with evaluating(model), torch.no_grad():
            for query in range(self.queries):
                tried = self._propose(query - 1, results[place], middle, generator)
                logits = model(tried)
                count[place] += largest[place] < math.inf
                losses = self.loss(logits, wanted).to(largest)
                found = fooled_by(logits, wanted, self.targeted)
                losses = -losses if self.targeted else losses
                if not self.keep_going:
                    losses = losses.masked_fill(found, math.inf)
                better = (losses > largest[place]) | ((query == 1) & (largest[place] < math.inf))
                results[place[better]], largest[place[better]] = tried[better], losses[better]
                fooled[place[better]] = found[better]
                going = largest[place] < math.inf
                if _COMPACT * int(going.sum()) <= (_COMPACT - 1) * len(going):
                    place, middle, wanted = place[going], middle[going], wanted[going]
                if not len(place):
                    break
        return Queried(results, count, fooled)

    def _propose(self, number: int, changed: Tensor, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Give the inputs themselves before the first proposal, then the first change, then others near the best."""
        if number < 0:
            return inputs
        share = window_share(number, self.queries, self.share)
        if self.norm == math.inf:
            change = self._squares(number, share, changed, inputs, generator)
        else:
            change = self._bumps(number, share, changed - inputs, generator)
        return (inputs + change).clamp(*self.bounds)

    def _squares(
        self, number: int, share: float, changed: Tensor, inputs: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        count, channels, height, width = inputs.shape
        if number == 0:
            return (self.radius * _signs((count, channels, 1, width), inputs, generator)).expand_as(inputs)
        side = min(max(round(math.sqrt(share * height * width)), 1), max(1, min(height, width) - 1))
        corners = _corners(side, inputs, generator)
        inside = [
            (line >= corner[:, None]) & (line < corner[:, None] + side)
            for corner, line in zip(
                corners, (torch.arange(n, device=inputs.device) for n in (height, width)), strict=True
            )
        ]
        window = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        values = self.radius * _signs((count, channels, 1, 1), inputs, generator)
        same = ((inputs + values).clamp(*self.bounds) - changed).abs() <= _SAME
        unchanged = (same | ~window).flatten(1).all(dim=1)
        values = torch.where(over(unchanged, values), -values, values)
        return torch.where(window, values, changed - inputs)

    def _bumps(self, number: int, share: float, change: Tensor, generator: torch.Generator | None) -> Tensor:
        count, channels, height, width = change.shape
        least = min(height, width)
        if number == 0:
            side = max(least // 5, 1)
            rows, columns = height // side, width // side
            signs = _signs((count, channels, rows, columns), change, generator)
            tiles = signs.repeat_interleave(side, 2).repeat_interleave(side, 3) * _bump(side, change).repeat(
                rows, columns
            )
            top, left = (height - rows * side) // 2, (width - columns * side) // 2
            start = torch.zeros_like(change)
            start[:, :, top : top + rows * side, left : left + columns * side] = tiles
            return self.radius * start / over(start.flatten(1).norm(dim=1), start)
        side = min(max(round(math.sqrt(share * height * width)), 3) // 2 * 2 + 1, least - 1 + least % 2)
        first, second = (_window(side, _corners(side, change, generator)) for _ in range(2))
        pattern = _bump(side, change)
        if draw(torch.Size([1]), change, generator).item() < 0.5:
            pattern = pattern.T
        squares = change.square()
        unused = (self.radius**2 - squares.sum(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
        rest = squares.clone()
        rest[first], rest[second] = 0, 0
        available = squares.sum(dim=(2, 3)) - rest.sum(dim=(2, 3)) + unused.flatten(1) / channels
        old = change[first]
        signs = _signs((count, 1, 1, channels), change, generator)
        mixed = signs * pattern[..., None] + old / old.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        mixed = mixed / mixed.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        result = change.clone()
        result[second] = 0
        result[first] = mixed * available.clamp(min=0).sqrt()[:, None, None, :]
        return result


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return 1 - 2 * (draw(torch.Size(shape), like, generator) < 0.5).to(like)


def _corners(side: int, images: Tensor, generator: torch.Generator | None) -> list[Tensor]:
    """Draw the upper and left end of a window in each image."""
    places = draw(torch.Size([2, len(images)]), images, generator).double()
    rooms = (length - side + 1 for length in images.shape[2:])
    return [(place * room).long().clamp(max=room - 1) for place, room in zip(places, rooms, strict=True)]


def _window(side: int, corners: list[Tensor]) -> tuple[Tensor, slice, Tensor, Tensor]:
    """Give an index of a window in each image, (N, side, side, channels) of (N, channels, height, width)."""
    line = torch.arange(side, device=corners[0].device)
    image = torch.arange(len(corners[0]), device=line.device)[:, None, None]
    return image, slice(None), (corners[0][:, None] + line)[:, :, None], (corners[1][:, None] + line)[:, None, :]


def _bump(side: int, like: Tensor) -> Tensor:
    return bump(side).to(like)
