"""One network from several: matched, permuted, averaged, repaired."""

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._batches import batches
from paperweight.merging.activations import activation_correlation, evaluating
from paperweight.merging.graph import PermutationGraph
from paperweight.merging.matching import match_correlations, match_weights
from paperweight.merging.repair import has_batchnorm, repair_batchnorm, rescale
from paperweight.merging.state import check_alike, check_weights, mean_state, permuted
from paperweight.merging.zipit import match_zipit, zip_states
from paperweight.nets.plain import computed_weight

__all__ = ["MergeInfo", "merge"]

Matching = Literal["activation", "weight", "zipit", "none"]


@final
@dataclass(frozen=True)
class MergeInfo:
    """How networks were merged.

    Args:
        graph: The groups; empty where nothing was matched.
        permutations: For each model the permutation that it was given; empty for ``"zipit"``.
        merged: For ``"zipit"``, for each group the merged unit to which each unit went, (M, size).
        before: For each group the mean correlation of the units of the other models with those of the first in the same
            place, where activations were matched.
        after: The same after the permutation.
    """

    graph: PermutationGraph
    permutations: tuple[Mapping[str, Tensor], ...] = ()
    merged: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    before: Mapping[str, float] = field(default_factory=dict[str, float])
    after: Mapping[str, float] = field(default_factory=dict[str, float])


def merge(
    models: Sequence[nn.Module],
    graph: PermutationGraph | None = None,
    *,
    weights: Sequence[float] | None = None,
    matching: Matching = "activation",
    data: Iterable[Any] | None = None,
    example_input: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None = None,
    repair: Literal["bn", "rescale"] | None = "bn",
    output: str | int | None = None,
) -> tuple[nn.Module, MergeInfo]:
    """Merge networks of one architecture into one: match their units, permute them, average, and repair statistics.

    The units of the first model stay where they are. No model is changed. Units that an output shows while layers read
    them, too, cannot be matched: a warning names them, or an error if nothing else can be matched.

    Args:
        models: The models, trained from one initialization or from several; compiled ones are merged as what they
            compile.
        graph: Their groups; None to trace the first model.
        weights: Weight of each model, which sum to 1; None for equal ones. What has weight 0 is left out, so
            (1, 0) gives the first model, bit for bit, before repair.
        matching: ``"activation"`` for the largest sum of correlations over data; ``"weight"`` for that of inner
            products of weights, without data; ``"zipit"`` for greedy merges across and within models; ``"none"`` for
            the plain average.
        data: Batches of inputs, of tuples that begin with them, or of tensors by name, which can be gone through more
            than once; labels are not used. Needed for ``"activation"``, ``"zipit"`` and for repair.
        example_input: What the models are called with, for tracing; None for the first batch of data.
        repair: ``"bn"`` to recompute the running statistics of batch normalization, if there are any; ``"rescale"`` to
            restore mean and standard deviation of the units of a network without; None for neither.
        output: Key, field or number of the output that counts, where the network has several and the order of what the
            others show does not matter, such as hidden units; None for all.

    Returns:
        The merged model, in the mode of the first, and how it came about.

    Raises:
        InputError: If models differ in their architecture or compute their weights, weights do not sum to 1, data are
            needed and missing, or nothing can be matched because the outputs show the units.

    Example:
        >>> models = [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
        >>> merged, info = merge(models, data=[torch.randn(64, 3)])
        >>> merged(torch.zeros(5, 3)).shape, sorted(info.permutations[1])
        (torch.Size([5, 2]), ['0'])
    """
    _check(matching, repair)
    weights = check_weights(weights, len(models))
    if matching == "zipit" and min(weights) < 0:
        raise InputError(f'weights must not be negative for matching "zipit", got {weights}')
    models = [getattr(model, "_orig_mod", model) for model in models]
    for computed in filter(None, map(computed_weight, models)):
        raise InputError(f"models must have plain weights, {computed}")
    states = [model.state_dict() for model in models]
    check_alike(states)
    if data is not None and iter(data) is data:
        raise InputError("data must be something to go through more than once, got an iterator; use list(data)")
    needed = matching in ("activation", "zipit") or repair == "rescale" or (repair == "bn" and has_batchnorm(models[0]))
    if needed and data is None:
        remedy = 'give batches of inputs, or use matching="weight" and repair=None'
        raise InputError(f"data must be given for matching {matching!r} with repair {repair!r}; {remedy}")
    if graph is None:
        known = matching == "none" and repair != "rescale"
        graph = PermutationGraph(()) if known else _trace(models[0], data, example_input, output)
    if graph.shown and matching != "none":
        _tell(graph)
    info = _match(models, graph, weights, matching, () if data is None else data)
    if matching == "zipit":
        used = [number for number, weight in enumerate(weights) if weight]
        shares = [weights[number] for number in used]
        mean = mean_state(zip_states([states[number] for number in used], graph, info.merged, shares), shares)
    else:
        states = [permuted(state, graph, order) for state, order in zip(states, info.permutations, strict=True)]
        mean = mean_state(states, weights)
    merged = _with(models[0], mean)
    if repair == "bn" and data is not None:
        repair_batchnorm(merged, data)
    if repair == "rescale" and data is not None:
        rescale(merged, [_with(models[0], state) for state in states], graph, data, weights)
    return merged, info


def _match(
    models: Sequence[nn.Module],
    graph: PermutationGraph,
    weights: Sequence[float],
    matching: Matching,
    data: Iterable[Any],
) -> MergeInfo:
    if matching == "none":
        return MergeInfo(graph, ({},) * len(models))
    if matching == "weight":
        moved = [match_weights(models[0], model, graph) for model in models[1:]]
        return MergeInfo(graph, (graph.identity(), *moved))
    if matching == "zipit":
        used = [model for model, weight in zip(models, weights, strict=True) if weight]
        return MergeInfo(graph, merged=match_zipit(activation_correlation(used, graph, data), graph))
    correlation = activation_correlation(models, graph, data)
    permutations = tuple(match_correlations(correlation, graph)) or ({},) * len(models)
    before = _matched(correlation, graph, [graph.identity()] * len(models))
    return MergeInfo(graph, permutations, {}, before, _matched(correlation, graph, permutations))


def _matched(
    correlation: Mapping[str, Tensor], graph: PermutationGraph, permutations: Sequence[Mapping[str, Tensor]]
) -> dict[str, float]:
    """Give for each group the mean correlation of matched units of the first model and each other."""
    found: dict[str, float] = {}
    for group in graph.groups:
        rows = torch.arange(group.size)
        columns = [number * group.size + order[group.name] for number, order in enumerate(permutations)][1:]
        if columns:
            found[group.name] = correlation[group.name][rows, torch.stack(columns)].mean().item()
    return found


def _trace(
    model: nn.Module,
    data: Iterable[Any] | None,
    example_input: Tensor | Sequence[Tensor] | Mapping[str, Tensor] | None,
    output: str | int | None,
) -> PermutationGraph:
    if example_input is None and data is not None:
        inputs = next(batches(data)).first(2)
        with evaluating([model]):
            inputs.call(model)
        args, named = inputs.arguments(model)
        example_input = named or args
    if example_input is None:
        raise InputError("example_input must be given where there are neither graph nor data, got None")
    return PermutationGraph.trace(model, example_input, output)


def _tell(graph: PermutationGraph) -> None:
    """Say which units keep their order because an output shows them."""
    shown = "; ".join(f"{name!r} shows those of {', '.join(units)}" for name, units in graph.shown.items())
    remedy = "name the output that counts with output=, or merge models that return it alone"
    if not graph.groups:
        raise InputError(f"models must have units that no output shows, but {shown}; {remedy}")
    warnings.warn(f"units that outputs show are averaged as they are: {shown}; {remedy}", stacklevel=3)


def _with(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    copied = copy.deepcopy(model)
    copied.load_state_dict(state)
    return copied


def _check(matching: str, repair: str | None) -> None:
    if matching not in ("activation", "weight", "zipit", "none"):
        raise InputError(f'matching must be "activation", "weight", "zipit" or "none", got {matching!r}')
    if repair not in ("bn", "rescale", None):
        raise InputError(f'repair must be "bn", "rescale" or None, got {repair!r}')
    if matching == "zipit" and repair == "rescale":
        raise InputError('repair must be "bn" or None for matching "zipit", whose units are not matched one to one')
