"""Mixing matrices: how much each agent of a graph takes from whom, fixed or changing from round to round."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

__all__ = [
    "Graph",
    "Links",
    "Mixing",
    "alternating",
    "among",
    "check_mixing",
    "metropolis",
    "mixing_matrix",
    "random_matching",
    "spectral_gap",
]

Graph = Literal["full", "ring", "hub", "none"]
Mixing = Tensor | Callable[[int], Tensor]
"""A mixing matrix, float64, (agents, agents), or a function from the number of the round, from 0, to one."""

_KINDS: tuple[Graph, ...] = ("full", "ring", "hub", "none")
_TOLERANCE = 1e-9


def mixing_matrix(kind: Graph, agents: int, *, self_weight: float | None = None) -> Tensor:
    """Give the mixing matrix of a graph, with the weights of `metropolis`: symmetric, rows and columns sum to 1.

    - ``"full"``: everyone hears everyone, all weights 1 / agents.
    - ``"ring"``: everyone hears the one before and the one after, all weights 1/3; of two agents each hears the other.
    - ``"hub"``: the last two agents hear all others, and are heard by them, but not each other. Weights are exact
      quotients, 1/7 with eight agents, where the code of DIMAT's authors cuts them to two digits, 0.14.
    - ``"none"``: nobody hears anyone; the identity.

    Args:
        kind: The graph.
        agents: Number of agents, at least 1, and at least 3 of ``"hub"``.
        self_weight: Least weight that an agent gives to itself, in [0, 1]: the matrix is moved along the line through
            itself and the identity. Left out, it stays as it is.

    Returns:
        The matrix, float64, (agents, agents); row i holds the weights that agent i gives.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> mixing_matrix("ring", 4)[0]
        tensor([0.3333, 0.3333, 0.0000, 0.3333], dtype=torch.float64)
        >>> mixing_matrix("full", 3, self_weight=0.5)[1]
        tensor([0.2500, 0.5000, 0.2500], dtype=torch.float64)
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}; got {kind!r}")
    least = 3 if kind == "hub" else 1
    if not isinstance(agents, int) or agents < least:
        raise ValueError(f"agents must be a whole number of at least {least} for {kind!r}, got {agents}")
    if self_weight is not None and not 0 <= self_weight <= 1:
        raise ValueError(f"self_weight must be from 0 to 1, got {self_weight}")
    number = torch.arange(agents)
    apart = (number[:, None] - number).abs()
    hubs = number >= agents - 2
    adjacency = {
        "full": apart > 0,
        "ring": (apart == 1) | (apart == agents - 1) & (apart > 0),
        "hub": hubs[:, None] ^ hubs,
        "none": apart < 0,
    }[kind]
    matrix = metropolis(adjacency)
    if self_weight is None or kind == "none" or agents == 1:
        return matrix
    share = (1 - self_weight) / (1 - float(matrix.diagonal().min()))
    return _with_rest_on_diagonal(share * matrix)


def metropolis(adjacency: Tensor) -> Tensor:
    """Give the Metropolis weights of an undirected graph: ``1 / (1 + max(degree_i, degree_j))``, the rest to oneself.

    Args:
        adjacency: Who hears whom, bool, (agents, agents), symmetric; the diagonal does not matter.

    Returns:
        The mixing matrix, float64: symmetric, its rows and columns sum to 1, its diagonal is above 0.

    Raises:
        ValueError: If ``adjacency`` is not square and symmetric.

    Example:
        >>> star = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 0, 0]]).bool()
        >>> metropolis(star).diagonal()
        tensor([0.3333, 0.6667, 0.6667], dtype=torch.float64)
    """
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1] or not torch.equal(adjacency, adjacency.T):
        raise ValueError(f"adjacency must be square and symmetric, got shape {tuple(adjacency.shape)}; add its T")
    linked = adjacency.bool() & ~torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)
    degree = linked.sum(1).double()
    weights = linked / (1 + torch.maximum(degree[:, None], degree))
    even = 1 / (1 + degree)  # the rest of a row, and to the bit where all degrees are the same
    return weights + (even + torch.where(linked, even[:, None] - weights, 0).sum(1)).diag()


def _with_rest_on_diagonal(matrix: Tensor) -> Tensor:
    """Replace the diagonal by what the other entries of each row leave of 1."""
    others = matrix - matrix.diagonal().diag()
    return others + (1 - others.sum(1)).clamp_min(0).diag()


def check_mixing(matrix: Tensor, *, columns: bool = False) -> None:
    """Check that a matrix is a mixing matrix.

    Args:
        matrix: The matrix, (agents, agents).
        columns: Whether the columns must sum to 1, too, so that mixing keeps the mean over all agents.

    Raises:
        ValueError: If it is not square, an entry is negative or not finite, or a sum is not 1.

    Example:
        >>> check_mixing(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        >>> check_mixing(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), columns=True)
        Traceback (most recent call last):
        ...
        ValueError: mixing must have columns that sum to 1, column 0 sums to 0.5
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"mixing must have shape (agents, agents), got {tuple(matrix.shape)}")
    if not bool(((matrix >= 0) & matrix.isfinite()).all()):
        raise ValueError("mixing must have entries that are finite and at least 0")
    for name, axis in (("row", 1),) + ((("column", 0),) if columns else ()):
        sums = matrix.double().sum(axis)
        off = (sums - 1).abs()
        if float(off.max()) > max(_TOLERANCE, len(matrix) * torch.finfo(matrix.dtype).eps):
            worst = int(off.argmax())
            raise ValueError(f"mixing must have {name}s that sum to 1, {name} {worst} sums to {float(sums[worst]):.6g}")


def spectral_gap(matrix: Tensor) -> float:
    """Give 1 less the second largest modulus of an eigenvalue: how fast repeated mixing brings agents together.

    Args:
        matrix: A mixing matrix, (agents, agents).

    Returns:
        The gap, from 0 where some never hear of others to 1 where one round makes all equal.

    Example:
        >>> round(spectral_gap(mixing_matrix("ring", 4)), 4), spectral_gap(mixing_matrix("none", 2))
        (0.6667, 0.0)
    """
    check_mixing(matrix)
    sizes = torch.linalg.eigvals(matrix.double()).abs().sort(descending=True).values
    return 1 - float(sizes[1]) if len(sizes) > 1 else 1.0


def alternating(*matrices: Tensor) -> Callable[[int], Tensor]:
    """Give a graph that goes through several mixing matrices in turn, one a round.

    Args:
        *matrices: The matrices, at least one, of one size.

    Returns:
        A function from the number of the round, from 0, to the matrix.

    Raises:
        ValueError: If there is none, or their sizes differ.

    Example:
        >>> graph = alternating(mixing_matrix("ring", 4), mixing_matrix("none", 4))
        >>> torch.equal(graph(3), torch.eye(4))
        True
    """
    if len({matrix.shape for matrix in matrices}) != 1:
        raise ValueError(
            f"matrices must be at least one, all of one size, got {[tuple(matrix.shape) for matrix in matrices]}"
        )
    return lambda number: matrices[number % len(matrices)]


def random_matching(agents: int, *, generator: torch.Generator) -> Callable[[int], Tensor]:
    """Give a graph of random pairs, new in each round, whose two agents take the mean; an odd one out stays alone.

    The pairs are a function of the number of the round and of one number drawn here, so that processes that start
    with the same generator have the same pairs.

    Args:
        agents: Number of agents, at least 1.
        generator: Decides the pairs. On the CPU.

    Returns:
        A function from the number of the round, from 0, to the mixing matrix.

    Raises:
        ValueError: If ``agents`` is below 1.

    Example:
        >>> graph = random_matching(5, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(graph(0), graph(0)), torch.equal(graph(0), graph(1)), graph(0).diagonal().sum().item()
        (True, False, 3.0)
    """
    if not isinstance(agents, int) or agents < 1:
        raise ValueError(f"agents must be a whole number of at least 1, got {agents}")
    first = int(torch.randint(2**32, (), generator=generator))

    def matrix_of(number: int) -> Tensor:
        order = torch.randperm(agents, generator=torch.Generator().manual_seed((first << 24) + number))
        paired = order[: agents - agents % 2].reshape(-1, 2)
        matrix = torch.eye(agents, dtype=torch.float64)
        matrix[paired[:, 0], paired[:, 1]] = matrix[paired[:, 1], paired[:, 0]] = 0.5
        matrix[paired.flatten(), paired.flatten()] = 0.5
        return matrix

    return matrix_of


def among(matrix: Tensor, present: Collection[int]) -> Tensor:
    """Give the mixing matrix of those who are present: what an agent took from one who is gone it takes from itself.

    A symmetric matrix whose rows sum to 1 stays one, so that mixing keeps the mean over those who are present.

    Args:
        matrix: The mixing matrix of all, (agents, agents).
        present: Numbers of the agents that are present, below ``agents``.

    Returns:
        The matrix, (agents, agents); an agent that is gone has weight 1 for itself.

    Example:
        >>> among(mixing_matrix("ring", 4), (0, 1, 3))[0]
        tensor([0.3333, 0.3333, 0.0000, 0.3333], dtype=torch.float64)
        >>> among(mixing_matrix("ring", 4), (0, 1, 3))[1]
        tensor([0.3333, 0.6667, 0.0000, 0.0000], dtype=torch.float64)
    """
    if len(present) == len(matrix):
        return matrix
    here = torch.zeros(len(matrix), dtype=matrix.dtype, device=matrix.device)
    here[sorted(present)] = 1
    return _with_rest_on_diagonal(matrix * here[:, None] * here)


@final
@dataclass(frozen=True, slots=True)
class Links:
    """The place of one agent in a round.

    Args:
        agent: Its number.
        incoming: Weight that it gives to each agent that it hears, itself among them, in ascending order.
        outgoing: Weight that each agent that hears it gives to it, itself among them, in ascending order.

    Example:
        >>> Links.of(mixing_matrix("ring", 4), 0).neighbours
        [1, 3]
    """

    agent: int
    incoming: Mapping[int, float]
    outgoing: Mapping[int, float]

    @classmethod
    def of(cls, matrix: Tensor, agent: int) -> "Links":
        """Give the place of an agent in a mixing matrix."""

        def weights(line: Tensor) -> dict[int, float]:
            return {other: weight for other, weight in enumerate(line.tolist()) if weight or other == agent}

        return cls(agent, weights(matrix[agent]), weights(matrix[:, agent]))

    @property
    def neighbours(self) -> list[int]:
        """The others that it hears."""
        return [other for other in self.incoming if other != self.agent]

    @property
    def listeners(self) -> list[int]:
        """The others that hear it."""
        return [other for other in self.outgoing if other != self.agent]
