"""Greedy matching of units across and within networks (Stoica et al., ZipIt!, ICLR 2024)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.merging.graph import PermutationGraph

__all__ = ["match_zipit", "zip_states"]


def match_zipit(
    correlation: Mapping[str, Tensor], graph: PermutationGraph, alpha: float = 1e-4, beta: float = 0.075
) -> dict[str, Tensor]:
    """Merge the most correlated two units again and again until as many are left as one network has.

    What is merged is as alike to others as the less alike of its parts, times alpha for each merge. Two units of one
    network may be merged, too, up to a share of its merges. With more than two networks the factor keeps pairs from
    growing while single units are left, so that the last ones may find none that is alike.

    The authors' code allows one merge within a network where ``beta`` comes to less than one; here it allows none, as
    the paper's budget is a bound.

    Args:
        correlation: What `activation_correlation` gives for M models.
        graph: Their groups, each of one block of one kind.
        alpha: Factor of likeness after a merge, in [0, 1].
        beta: Largest share of merges that are within a network, in [0, 1].

    Returns:
        For each group the number of the merged unit to which each unit goes, (M, size), int64. Merged units are in the
        order of their first members.

    Raises:
        InputError: If a share is outside of [0, 1], or a group has blocks or kinds, as attention has.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> match_zipit({"0": torch.eye(2).flip(1).repeat(2, 2)}, graph)
        {'0': tensor([[0, 1],
                [1, 0]])}
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be in [0, 1], got {value}")
    for group in graph.groups:
        if len(group.kinds) > 1 or group.blocks not in (1, group.size):
            rule = 'matching "zipit" must be of units without heads and normalization groups'
            raise InputError(f'{rule}, {group.name} has them; use matching "activation"')
    return {group.name: _zip(correlation[group.name], group.size, alpha, beta) for group in graph.groups}


def zip_states(
    states: Sequence[Mapping[str, Tensor]],
    graph: PermutationGraph,
    merged: Mapping[str, Tensor],
    weights: Sequence[float],
) -> list[dict[str, Tensor]]:
    """Bring state dicts into the space of the merged units, so that their weighted sum is the merged network.

    A merged unit is made as the weighted mean of its members; each network reads the sum of its own.

    Args:
        states: M state dicts; they are not changed.
        graph: Their groups.
        merged: What `match_zipit` gives.
        weights: Positive weights, which sum to 1.

    Returns:
        M new state dicts.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> zipped = zip_states([model.state_dict()] * 2, graph, {"0": torch.tensor([[0, 1], [0, 1]])}, (0.5, 0.5))
        >>> torch.equal(zipped[1]["0.weight"], model[0].weight)
        True
    """
    zipped = [{key: value.detach().clone() for key, value in state.items()} for state in states]
    for group in graph.groups:
        gather = torch.nn.functional.one_hot(merged[group.name], group.size).double().transpose(1, 2)
        total = (torch.tensor(weights, dtype=torch.float64)[:, None] * gather.sum(dim=2)).sum(dim=0)
        for number, state in enumerate(zipped):
            for place in group.places:
                matrix = gather[number] if place.role == "in" else gather[number] / total[:, None]
                rows = state[place.key].movedim(place.axis, 0)
                parts = rows[place.index.to(rows.device)]
                sums = (matrix.to(rows.device) @ parts.flatten(1).double()).view_as(parts)
                rows[place.index.to(rows.device)] = sums.to(rows.dtype)
    return zipped


def _zip(correlation: Tensor, size: int, alpha: float, beta: float) -> Tensor:
    likeness = correlation.detach().cpu().double().numpy().round(_DIGITS)
    count = len(likeness)
    models = count // size
    unit, model = np.arange(count) % size, np.arange(count) // size
    likeness += 10.0 ** (-_DIGITS - 1) * (unit[:, None] == unit)
    np.fill_diagonal(likeness, -np.inf)
    forbidden = np.zeros((count, count), dtype=bool)
    goes = np.arange(count)
    left = np.full(models, int((count - size) // models * beta + 1e-4))
    for number in np.flatnonzero(left == 0):
        forbidden |= np.logical_and.outer(model == number, model == number)
    for _ in range(count - size):
        first, second = sorted(divmod(int((likeness - _FAR * forbidden).argmax()), count))
        goes[goes == second] = first
        if model[first] == model[second]:
            left[model[first]] -= 1
        row = np.minimum(likeness[first], likeness[second]) * alpha
        row[[first, second]] = -np.inf
        likeness[first], likeness[:, first] = row, row
        likeness[second], likeness[:, second] = -np.inf, -np.inf
        forbidden[first] |= forbidden[second]
        forbidden[:, first] = forbidden[first]
        if left[model[first]] == 0:
            forbidden |= np.logical_and.outer(model == model[first], model == model[first])
    return torch.from_numpy(np.unique(goes, return_inverse=True)[1].reshape(models, size))


_DIGITS = 9
"""Digits of a correlation that count; below, the identity is preferred."""

_FAR = 10.0
"""What is forbidden ranks by this much behind what is not, and is chosen only if nothing else is left."""
