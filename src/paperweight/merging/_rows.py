"""Which rows of a state dict a permutation of units moves."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from paperweight.errors import InputError
from paperweight.merging.groups import Group

__all__ = ["reordered", "row_orders"]


def row_orders(
    state: Mapping[str, Tensor],
    groups: Sequence[Group],
    permutation: Mapping[str, Tensor],
    keys: Collection[str] | None = None,
) -> dict[str, dict[int, Tensor]]:
    """Give the order of the rows of each axis that a permutation touches.

    Args:
        state: The state dict.
        groups: The groups of the network.
        permutation: A permutation of the groups.
        keys: The entries that are asked for; None for all.

    Returns:
        For each entry and axis the number of the row that takes each place.

    Raises:
        InputError: If the state lacks an entry of the groups.
    """
    orders: dict[str, dict[int, Tensor]] = {}
    for group in groups:
        if group.name not in permutation:
            continue
        order = permutation[group.name].cpu()
        rank = torch.empty(group.size, dtype=torch.int64)
        for place in group.places:
            if keys is not None and place.key not in keys:
                continue
            if place.key not in state:
                raise InputError(f"state must have the entries of the graph, {place.key} is missing; trace this model")
            length = state[place.key].shape[place.axis]
            rows = orders.setdefault(place.key, {}).setdefault(place.axis, torch.arange(length))
            rank[place.units] = torch.arange(len(place.units))
            rows[place.index] = place.index[rank[order[place.units]]]
    return orders


def reordered(value: Tensor, orders: Mapping[int, Tensor]) -> Tensor:
    """Copy a tensor with its rows in another order on each axis that is named."""
    value = value.detach()
    for axis, order in orders.items():
        value = value.index_select(axis, order.to(value.device))
    return value if orders else value.clone()
