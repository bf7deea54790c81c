"""Matchings of the units of networks by permutations: of their activations, and of their weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._rows import reordered, row_orders
from paperweight.merging.activations import activation_correlation
from paperweight.merging.graph import PermutationGraph
from paperweight.merging.groups import Group
from paperweight.merging.state import check_alike

__all__ = ["assign", "match_activations", "match_correlations", "match_weights"]

_TIE = 1e-10


def match_activations(
    models: Sequence[nn.Module], graph: PermutationGraph, data: Iterable[Any], reference: int = 0
) -> list[dict[str, Tensor]]:
    """Match the units of each model with those of a reference, so that the sum of their correlations is largest.

    Args:
        models: Models of one architecture; they are not changed.
        graph: Their groups.
        data: Batches of inputs, or of tuples that begin with them.
        reference: Number of the model whose units stay in their order.

    Returns:
        For each model a permutation: entry r is the number of the unit matched to unit r of the reference. Where
        several matchings are equally good, as for units that never change, units keep their place.

    Raises:
        InputError: If there is no model, no batch or no such reference.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> match_activations([model, model], graph, [torch.randn(64, 3)])[1]
        {'0': tensor([0, 1, 2, 3])}
    """
    rows = activation_correlation(models, graph, data, reference=reference)
    matched: list[dict[str, Tensor]] = [{} for _ in models]
    _match_rows(matched, rows, graph, reference)
    return matched


def match_correlations(
    correlation: Mapping[str, Tensor], graph: PermutationGraph, reference: int = 0
) -> list[dict[str, Tensor]]:
    """Match units by correlations that are known already, as for several references in turn.

    Args:
        correlation: What `activation_correlation` gives.
        graph: The groups.
        reference: Number of the model whose units stay in their order.

    Returns:
        For each model a permutation, as `match_activations` gives it; nothing if there are no groups.

    Raises:
        InputError: If there is no such reference.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> match_correlations({"0": torch.eye(2).flip(1).repeat(2, 2)}, graph)[1]
        {'0': tensor([1, 0])}
    """
    models = max((len(correlation[group.name]) // group.size for group in graph.groups), default=0)
    if models and not 0 <= reference < models:
        raise InputError(f"reference must be a number from 0 to {models - 1}, got {reference}")
    rows = {name: whole.unflatten(0, (models, -1))[reference] for name, whole in correlation.items()}
    matched: list[dict[str, Tensor]] = [{} for _ in range(models)]
    _match_rows(matched, rows, graph, reference)
    return matched


def _match_rows(
    matched: list[dict[str, Tensor]], rows: Mapping[str, Tensor], graph: PermutationGraph, reference: int
) -> None:
    """Add to the permutation of each model what matches a group by its correlations, (size, models * size)."""
    for group in graph.groups:
        tables = rows[group.name].unflatten(1, (len(matched), -1))
        for number, permutation in enumerate(matched):
            own = number == reference
            permutation[group.name] = torch.arange(group.size) if own else assign(tables[:, number], group)


def match_weights(
    a: nn.Module,
    b: nn.Module,
    graph: PermutationGraph,
    max_sweeps: int = 100,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Match the units of a model with those of another by their weights alone (Ainsworth, Hayase and Srinivasa, 2023).

    Coordinate ascent: each group in turn takes the permutation under which its weights have the largest inner product
    with those of the reference, given the permutations of all others, until no group gains.

    Args:
        a: The reference.
        b: The model to permute; neither is changed.
        graph: Their groups.
        max_sweeps: Largest number of passes over the groups.
        generator: Source of the random order of the groups in each pass, on the CPU; None for their own order.

    Returns:
        The permutation of b.

    Raises:
        InputError: If ``max_sweeps`` is below 1, or the models differ in their architecture.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> match_weights(model, model, graph)
        {'0': tensor([0, 1, 2, 3])}
    """
    if max_sweeps < 1:
        raise InputError(f"max_sweeps must be at least 1, got {max_sweeps}")
    check_alike([a.state_dict(), b.state_dict()])
    fixed, moving = _doubles(a), _doubles(b)
    permutation = graph.identity()
    for _ in range(max_sweeps):
        gained = False
        count = len(graph.groups)
        order = range(count) if generator is None else torch.randperm(count, generator=generator).tolist()
        for number in order:
            group = graph.groups[number]
            products = _products(fixed, moving, graph, group, permutation)
            best = assign(products, group)
            rows = torch.arange(group.size)
            gain = products[rows, best].sum() - products[rows, permutation[group.name]].sum()
            if gain > 1e-12:
                permutation[group.name] = best
                gained = True
        if not gained:
            break
    return permutation


def assign(similarity: Tensor, group: Group) -> Tensor:
    """Find the permutation of a group with the largest sum of similarities.

    Args:
        similarity: Similarity of each place, the rows, with each unit, (size, size).
        group: The group; its blocks stay together and its kinds apart.

    Returns:
        For each place the number of its unit, int64. Ties are broken towards the identity.

    Example:
        >>> assign(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), Group("fc", 1, (2,), (), ()))
        tensor([1, 0])
    """
    values = similarity.detach().cpu().numpy().astype(np.float64)
    values = values + _TIE * np.abs(values).max(initial=0) * np.eye(len(values))
    kinds = [units.numpy() for units in group.units()]
    if group.blocks == 1:
        moved = [units[0][_largest(values[np.ix_(units[0], units[0])])] for units in kinds]
        return torch.from_numpy(np.concatenate(moved))
    inner = np.empty((group.blocks, group.blocks, sum(group.kinds)), dtype=np.int64)
    gains = np.zeros((group.blocks, group.blocks))
    for place in range(group.blocks):
        for block in range(group.blocks):
            parts: list[np.ndarray] = []
            for units in kinds:
                table = values[np.ix_(units[place], units[block])]
                chosen = _largest(table)
                gains[place, block] += table[np.arange(len(chosen)), chosen].sum()
                parts.append(units[block][chosen])
            inner[place, block] = np.concatenate(parts)
    return torch.from_numpy(inner[np.arange(group.blocks), _largest(gains)].ravel())


def _largest(table: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(table, maximize=True)[1]


def _doubles(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", torch.float64) for key, value in model.state_dict().items()}


def _products(
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    graph: PermutationGraph,
    group: Group,
    permutation: Mapping[str, Tensor],
) -> Tensor:
    """Inner products of all weights of each unit of the reference with those of each unit of the other model."""
    products = torch.zeros(group.size, group.size, dtype=torch.float64)
    orders = row_orders(moving, graph.groups, permutation, {place.key for place in group.places})
    for place in group.places:
        if place.role == "statistic":
            continue
        others = {axis: order for axis, order in orders[place.key].items() if axis != place.axis}
        ours = fixed[place.key].movedim(place.axis, 0)[place.index].flatten(1)
        theirs = reordered(moving[place.key], others).movedim(place.axis, 0)[place.index].flatten(1)
        products[place.units[:, None], place.units] += ours @ theirs.T
    return products
