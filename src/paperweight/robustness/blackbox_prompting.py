"""Black-box prompting: words that make a generator show a class that nobody asked for by name, found by queries alone.

A prompt of a few tokens is a point of the space of their embeddings: each part is the allowed token nearest to it. So
optimisers of smooth functions can look for prompts, with nothing but a score of what the generator makes of them. One
goes from the best point by noise on a few entries; the other has a model of the score, a Gaussian process, in a region
that grows with success and shrinks without.
Cost: the queries; for the second a Gaussian process of as many points, fitted anew for each batch.

The table of embeddings may be anyone's, and the tokens that name the class can be forbidden, see `nearest_tokens`.

Source:
    N. Maus, P. Chao, E. Wong, J. Gardner, "Black Box Adversarial Prompting for Foundation Models", 2023,
    https://arxiv.org/abs/2302.04237, and its code, https://github.com/BrachioLab/adversarial_prompting, for the noise
    of the first search; the second: D. Eriksson et al., "Scalable Global Optimization via Local Bayesian Optimization",
    2019, https://arxiv.org/abs/1910.01739.

Deviations:
    - The Gaussian process is exact, with one length scale for all entries, chosen with its noise by marginal likelihood
      from a grid; the authors learn a deep kernel.
    - The region is a box of one side length for all entries. Its constants are those of the second source; the authors
      begin with 1, and wait for 10 successes or 32 failures.
    - Restarts keep the points that were asked about, but not the best as their middle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = ["Found", "Score", "nearest_tokens", "square_search", "trust_region_search"]

PAPER = Paper(
    title="Black Box Adversarial Prompting for Foundation Models",
    authors=("Natalie Maus", "Patrick Chao", "Eric Wong", "Jacob Gardner"),
    year=2023,
    url="https://arxiv.org/abs/2302.04237",
    provides={
        "nearest_tokens": "function",
        "square_search": "experiment",
        "trust_region_search": "experiment",
    },
    claim="Searches in the space of embeddings find prompts for a class, without its names, by queries alone.",
)

Score = Callable[[Tensor], Tensor]
"""Maps points (N, dim) to what is to be raised, (N,)."""

_SCALES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # of the Gaussian process, in sides of the space times the root of dim
_NOISES = (1e-4, 1e-2, 1e-1)
_CANDIDATES = 400


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        best: The point of highest score, (dim,).
        points: All points that were asked about, in order, (queries, dim).
        scores: Their scores, (queries,).
    """

    best: Tensor
    points: Tensor
    scores: Tensor


def nearest_tokens(vectors: Tensor, table: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Give the numbers of the tokens whose embeddings are nearest, of those that are allowed.

    Args:
        vectors: Points, (..., D).
        table: Embeddings of tokens, (V, D).
        allowed: Which tokens may be given, bool, (V,), at least one; None for all.

    Returns:
        Numbers of tokens, int64, (...).

    Raises:
        ValueError: If shapes do not fit, or no token is allowed.

    Example:
        >>> table = torch.tensor([[0.0], [1.0], [5.0]])
        >>> nearest_tokens(torch.tensor([[0.9], [4.0]]), table, torch.tensor([True, False, True]))
        tensor([0, 2])
    """
    if table.ndim != 2 or vectors.ndim < 1 or vectors.shape[-1] != table.shape[1]:
        found = f"{tuple(vectors.shape)} and {tuple(table.shape)}"
        raise ValueError(f"vectors and table must be (..., D) and (V, D), got {found}")
    if allowed is None:
        allowed = torch.ones(len(table), dtype=torch.bool, device=table.device)
    if allowed.shape != table.shape[:1] or allowed.dtype != torch.bool or not bool(allowed.any()):
        raise ValueError(f"allowed must be bool, ({len(table)},), of at least one token, got {allowed}")
    distances = torch.cdist(vectors.reshape(-1, table.shape[1]), table).masked_fill(~allowed, math.inf)
    return distances.argmin(dim=1).view(vectors.shape[:-1])


def square_search(
    score: Score,
    mean: Tensor,
    deviation: Tensor,
    *,
    spacing: float,
    queries: int = 500,
    batch: int = 10,
    share: float = 0.1,
    generator: torch.Generator,
) -> Found:
    """Look for a point of high score by noise on a few entries of the best.

    The first batch is drawn from a Gaussian. Each later one changes a random ``share`` of the entries of the best point
    by Gaussian noise, of a deviation that is a tenth of ``spacing``, divided by the deviation of the last scores: it is
    made for scores that differ by about 1, and has no bound where those of a batch are alike.

    Args:
        score: What is raised; called with at most ``batch`` points.
        mean: Mean of the first points, (dim,), such as that of embeddings, repeated for each token.
        deviation: Their deviation, (dim,), at least 0.
        spacing: Mean distance of embeddings, above 0.
        queries: Points that are asked about, at least 1.
        batch: Points at a time, at least 1.
        share: Share of the entries that noise changes, above 0, at most 1; one at least.
        generator: Source of randomness.

    Returns:
        What was found.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> found = square_search(lambda points: -points.square().sum(dim=1), torch.ones(4), torch.ones(4), spacing=1.0,
        ...     generator=torch.Generator().manual_seed(0))
        >>> bool(found.scores.max() > found.scores[:10].max())
        True
    """
    _check_search(queries, batch)
    if mean.ndim != 1 or not len(mean) or deviation.shape != mean.shape or not bool((deviation >= 0).all()):
        found = f"{tuple(mean.shape)} and {tuple(deviation.shape)}"
        raise ValueError(f"mean and deviation must be (dim,), this at least 0, got {found}")
    if isinstance(spacing, bool) or not 0 < spacing < math.inf:
        raise ValueError(f"spacing must be above 0 and finite, got {spacing}")
    if isinstance(share, bool) or not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    dim, changed = len(mean), max(1, int(share * len(mean)))
    points = mean + deviation * torch.randn((min(batch, queries), dim), generator=generator).to(mean)
    scores = last = score(points)
    while len(points) < queries:
        count = min(batch, queries - len(points))
        spread = last.std().item() if len(last) > 1 else 0.0
        noise = torch.randn((count, dim), generator=generator).to(mean) * spacing / (10 * max(spread, 1e-4))
        places = torch.rand((count, dim), generator=generator).argsort(dim=1)[:, :changed].to(mean.device)
        mask = torch.zeros_like(noise).scatter(1, places, 1.0)
        tried = points[scores.argmax()] + mask * noise
        last = score(tried)
        points, scores = torch.cat([points, tried]), torch.cat([scores, last])
    return Found(points[scores.argmax()].clone(), points, scores)


def trust_region_search(
    score: Score,
    lower: Tensor,
    upper: Tensor,
    *,
    queries: int = 500,
    batch: int = 10,
    length: float = 0.8,
    generator: torch.Generator,
) -> Found:
    """Look for a point of high score by a Gaussian process in a box around the best, that grows and shrinks (TuRBO).

    The first two batches are drawn uniformly. Each later one is what samples of the process, given the points since the
    last restart, are highest at, among changes of a few entries of the best point within the box. Its side is doubled,
    to at most 1.6, after three batches that raised the best score, and halved after dim / ``batch`` that did not; below
    2^-7 the search begins anew.

    Args:
        score: What is raised; called with at most ``batch`` points.
        lower: Smallest entries of a point, (dim,).
        upper: Largest entries, above the smallest.
        queries: Points that are asked about, at least 1.
        batch: Points at a time, at least 1.
        length: First side of the box, in sides of the space, above 2^-7, at most 1.6.
        generator: Source of randomness.

    Returns:
        What was found.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> found = trust_region_search(lambda points: -points.square().sum(dim=1), torch.full((4,), -1.0),
        ...     torch.full((4,), 2.0), queries=100, generator=torch.Generator().manual_seed(0))
        >>> bool(found.scores.max() > -0.1)
        True
    """
    _check_search(queries, batch)
    if lower.ndim != 1 or not len(lower) or upper.shape != lower.shape or not bool((lower < upper).all()):
        raise ValueError(f"lower and upper must be (dim,), the first below, got {tuple(lower.shape)} and others")
    if isinstance(length, bool) or not 2**-7 < length <= 1.6:
        raise ValueError(f"length must be above 2^-7 and at most 1.6, got {length}")
    dim, side = len(lower), length
    patience, wins, losses, since = max(4, math.ceil(dim / batch)), 0, 0, 0
    points, scores = lower.new_zeros(0, dim, dtype=torch.float64), lower.new_zeros(0, dtype=torch.float64)
    while len(points) < queries:
        count = min(batch, queries - len(points))
        if len(points) - since < 2 * batch:
            tried = torch.rand((count, dim), generator=generator, dtype=torch.float64).to(points)
        else:
            tried = _proposed(points[since:], scores[since:], side, count, generator)
        new = score((lower + (upper - lower) * tried.to(lower)).to(lower)).to(scores)
        modelled = len(points) - since >= 2 * batch
        best = scores[since:].max().item() if modelled else math.inf
        points, scores = torch.cat([points, tried]), torch.cat([scores, new])
        if modelled:
            won = new.max().item() > best + 1e-3 * abs(best)
            wins, losses = (wins + 1, 0) if won else (0, losses + 1)
            side, wins = (min(2 * side, 1.6), 0) if wins == 3 else (side, wins)
            side, losses = (side / 2, 0) if losses == patience else (side, losses)
        if side < 2**-7:
            side, wins, losses, since = length, 0, 0, len(points)
    scaled = (lower + (upper - lower) * points.to(lower)).to(lower)
    return Found(scaled[scores.argmax()].clone(), scaled, scores.to(lower))


def _proposed(points: Tensor, scores: Tensor, side: float, count: int, generator: torch.Generator) -> Tensor:
    """Give the candidates in the box at which samples of the process are highest, one for each sample."""
    middle, dim = points[scores.argmax()], points.shape[1]
    low, high = (middle - side / 2).clamp(min=0), (middle + side / 2).clamp(max=1)
    drawn = low + (high - low) * torch.rand((_CANDIDATES, dim), generator=generator, dtype=torch.float64).to(points)
    few = torch.rand((_CANDIDATES, dim), generator=generator).to(points.device) < min(1.0, 20 / dim)
    one = torch.randint(dim, (_CANDIDATES, 1), generator=generator).to(points.device)
    candidates = torch.where(few.scatter(1, one, True), drawn, middle)
    values = (scores - scores.mean()) / scores.std().clamp(min=1e-9)
    mean, covariance = posterior(points, values, candidates, *fitted(points, values))
    noise = torch.randn((_CANDIDATES, count), generator=generator, dtype=torch.float64).to(points)
    root = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(_CANDIDATES).to(points))
    samples, chosen = mean[:, None] + root @ noise, list[int]()
    for sample in samples.T:
        order = sample.argsort(descending=True).tolist()
        chosen.append(next(number for number in order if number not in chosen))
    return candidates[chosen]


def matern(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """Give the Matern kernel of smoothness 5/2: (1 + a + a^2 / 3) exp(-a) with a = sqrt(5) distance / scale."""
    a = math.sqrt(5) * torch.cdist(first, second) / scale
    return (1 + a + a.square() / 3) * torch.exp(-a)


def fitted(points: Tensor, values: Tensor) -> tuple[float, float]:
    """Give the length scale and the variance of the noise, of a grid, of the highest marginal likelihood."""

    def likelihood(pair: tuple[float, float]) -> float:
        root = torch.linalg.cholesky(matern(points, points, pair[0]) + pair[1] * torch.eye(len(points)).to(points))
        white = torch.linalg.solve_triangular(root, values[:, None], upper=False)
        return (-0.5 * white.square().sum() - root.diagonal().log().sum()).item()

    unit = math.sqrt(points.shape[1])
    return max(((scale * unit, noise) for scale in _SCALES for noise in _NOISES), key=likelihood)


def posterior(points: Tensor, values: Tensor, asked: Tensor, scale: float, noise: float) -> tuple[Tensor, Tensor]:
    """Give mean (N,) and covariance (N, N) of the process at the points asked about, given noisy values."""
    root = torch.linalg.cholesky(matern(points, points, scale) + noise * torch.eye(len(points)).to(points))
    across = torch.linalg.solve_triangular(root, matern(points, asked, scale), upper=False)
    white = torch.linalg.solve_triangular(root, values[:, None], upper=False)
    return (across.T @ white)[:, 0], matern(asked, asked, scale) - across.T @ across


def _check_search(queries: int, batch: int) -> None:
    for name, value in (("queries", queries), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
