"""State dicts and optimizer states, permuted and averaged."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._rows import reordered, row_orders
from paperweight.merging.graph import Permutation, PermutationGraph

__all__ = ["check_weights", "mean_state", "permute_", "permute_optimizer_state", "permuted"]


def permuted(state: Mapping[str, Tensor], graph: PermutationGraph, permutation: Permutation) -> dict[str, Tensor]:
    """Give a state dict with its units in another order.

    Args:
        state: The state dict; it is not changed.
        graph: The groups of the network.
        permutation: For each group the number of the unit that takes each place; a group that is left out keeps its
            order.

    Returns:
        A new state dict with tensors of its own.

    Raises:
        InputError: If the permutation is not one of the graph.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> swapped = permuted(model.state_dict(), graph, {"0": torch.tensor([1, 0])})
        >>> torch.equal(swapped["2.weight"], model[2].weight.flip(1))
        True
    """
    graph.check(permutation)
    orders = row_orders(state, graph.groups, permutation)
    return {key: reordered(value, orders.get(key, {})) for key, value in state.items()}


@torch.no_grad()
def permute_(state: Mapping[str, Tensor], graph: PermutationGraph, permutation: Permutation) -> None:
    """Put the units of a state dict into another order, in place: the model that it was taken from changes, too.

    Args:
        state: The state dict.
        graph: The groups of the network.
        permutation: For each group the number of the unit that takes each place; a group that is left out keeps its
            order.

    Raises:
        InputError: If the permutation is not one of the graph.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> before = model(torch.ones(1, 3))
        >>> permute_(model.state_dict(), graph, {"0": torch.tensor([1, 0])})
        >>> torch.allclose(model(torch.ones(1, 3)), before)
        True
    """
    new = permuted(state, graph, permutation)
    for key, value in state.items():
        value.copy_(new[key])


def mean_state(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Average state dicts, in double precision; whole numbers, such as counts, are those of the first.

    Args:
        states: State dicts of one architecture.
        weights: Weight of each, which sum to 1; None for equal ones. What has weight 0 is left out, so (1, 0) gives the
            first, bit for bit.

    Returns:
        A new state dict with tensors of its own, of the types of the first.

    Raises:
        InputError: If there is no state, the weights do not sum to 1, or entries or shapes differ.

    Example:
        >>> mean_state([{"w": torch.zeros(1)}, {"w": torch.ones(1)}], (0.25, 0.75))
        {'w': tensor([0.7500])}
    """
    weights = check_weights(weights, len(states))
    check_alike(states)
    parts = [(weight, state) for weight, state in zip(weights, states, strict=True) if weight]
    mean: dict[str, Tensor] = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = sum(weight * state[key].detach().to(first.device, torch.float64) for weight, state in parts)
            mean[key] = torch.as_tensor(total).to(first.dtype)
        else:
            mean[key] = first.detach().clone()
    return mean


def permute_optimizer_state(
    state: Mapping[str, Any], model: nn.Module, graph: PermutationGraph, permutation: Permutation
) -> dict[str, Any]:
    """Give an optimizer's state with the units of its moments in another order, as the weights of the model were given.

    Every tensor of a parameter's shape is taken for a moment: the momentum of SGD, both moments of Adam.

    Args:
        state: What the `state_dict` of an optimizer made with ``model.parameters()`` gives; it is not changed.
        model: The model.
        graph: The groups of the network.
        permutation: The permutation that its weights were given.

    Returns:
        A new state dict for the optimizer's `load_state_dict`.

    Raises:
        InputError: If the optimizer has other parameters than the model, or keeps tensors of other shapes than theirs.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> swap = {"0": torch.tensor([1, 0])}
        >>> permute_(model.state_dict(), graph, swap)
        >>> optimizer.load_state_dict(permute_optimizer_state(optimizer.state_dict(), model, graph, swap))
    """
    named = list(model.named_parameters())
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if len(numbers) != len(named):
        rule = "state must be of an optimizer made with model.parameters()"
        raise InputError(f"{rule}, got {len(numbers)} parameters for the {len(named)} of the model")
    graph.check(permutation)
    orders = row_orders(model.state_dict(), graph.groups, permutation)
    new = copy.deepcopy(dict(state))
    for number, (key, parameter) in zip(numbers, named, strict=True):
        for name, value in new["state"].get(number, {}).items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            if value.shape != parameter.shape:
                rule = (
                    f"tensors of the optimizer must have the shape of their parameter {key}, {tuple(parameter.shape)}"
                )
                raise InputError(f"{rule}, {name} has {tuple(value.shape)}; start a new optimizer instead")
            new["state"][number][name] = reordered(value, orders.get(key, {}))
    return new


def check_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Check weights of an average; None stands for equal ones.

    Raises:
        InputError: If there is nothing to average, or not one finite weight for each, or they do not sum to 1.
    """
    if count < 1:
        raise InputError("models must hold at least one, got none")
    if weights is None:
        return (1 / count,) * count
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != count:
        raise InputError(f"weights must be one for each of {count} models, got {len(numbers)}")
    if not abs(math.fsum(numbers) - 1) <= 1e-6:
        raise InputError(f"weights must sum to 1, got {numbers} with the sum {math.fsum(numbers)}; divide by it")
    return numbers


def check_alike(states: Sequence[Mapping[str, Tensor]]) -> None:
    """Check that state dicts have the same entries of the same shapes.

    Raises:
        InputError: If they differ; the message names an entry.
    """
    first = states[0]
    for number, state in enumerate(states[1:], 1):
        for key in sorted(first.keys() ^ state.keys()):
            raise InputError(f"models must be of one architecture; {key} is only in one of the models 0 and {number}")
        for key, value in first.items():
            if value.shape != state[key].shape:
                shapes = f"{tuple(value.shape)} in model 0 and {tuple(state[key].shape)} in model {number}"
                raise InputError(f"models must be of one architecture; {key} is of shape {shapes}")
