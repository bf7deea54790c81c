"""Correlations of the units of several networks, gathered batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from paperweight.errors import InputError
from paperweight.merging._batches import batches
from paperweight.merging.graph import PermutationGraph
from paperweight.merging.groups import Group, Point

__all__ = ["activation_correlation", "evaluating"]


def activation_correlation(
    models: Sequence[nn.Module],
    graph: PermutationGraph,
    data: Iterable[Any],
    dtype: torch.dtype = torch.float64,
    reference: int | None = None,
) -> dict[str, Tensor]:
    """Correlate all units of all models with one another, or with those of one, over images and places within them.

    The models are in evaluation mode meanwhile. Memory does not grow with the data: a batch at a time is held. Every
    image counts the same, so batch size and order make no difference. A unit that never changes has correlation 0 with
    every other and with itself.

    Args:
        models: M models of one architecture.
        graph: Their groups.
        data: Batches of inputs, of tuples that begin with them, or of tensors by name; labels are not used.
        dtype: Type of the sums.
        reference: Number of the model whose units are correlated with all; left out, those of every model are.

    Returns:
        For each group the correlations, (M * size, M * size), those of the first model first; with a reference its rows
        of these, (size, M * size), for a share of the work.

    Raises:
        InputError: If there is no model, no batch or no such reference.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> activation_correlation([model, model], graph, [torch.randn(8, 3)])["0"].shape
        torch.Size([8, 8])
    """
    if not models:
        raise InputError("models must hold at least one, got none")
    if reference is not None and not 0 <= reference < len(models):
        raise InputError(f"reference must be a number from 0 to {len(models) - 1}, got {reference}")
    for group in graph.groups:
        if not group.points:
            remedy = 'call its modules once each, or use matching="weight"'
            raise InputError(f"groups must have a point where they are observed, {group.name} has none; {remedy}")
    moments = {
        (group.name, number): _Moments(dtype, _rows_of(reference, len(point.units)))
        for group in graph.groups
        for number, point in enumerate(group.points)
    }
    with ExitStack() as stack:
        stack.enter_context(evaluating(models))
        seen = [stack.enter_context(_observed(model, graph)) for model in models]
        for inputs in batches(data):
            for model in models:
                inputs.call(model)
            for group in graph.groups:
                for number in range(len(group.points)):
                    maps = [record.pop((group.name, number)) for record in seen]
                    moments[group.name, number].add(maps, len(inputs))
    return {
        group.name: _correlation(
            group, [moments[group.name, n] for n in range(len(group.points))], len(models), reference
        )
        for group in graph.groups
    }


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put models into evaluation mode, without gradients; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _observed(model: nn.Module, graph: PermutationGraph) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Record at every call of the model what its units are at each point, (units, images and places)."""
    record: dict[tuple[str, int], Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for group in graph.groups:
            for number, point in enumerate(group.points):
                handles.append(_observe(model.get_submodule(point.module), point, record, (group.name, number)))
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _observe(
    module: nn.Module, point: Point, record: dict[tuple[str, int], Tensor], name: tuple[str, int]
) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if point.side == "output":
            value = output[0] if isinstance(output, tuple) else output
        elif point.side == "input":
            value = args[0] if args else next(iter(kwargs.values()))
        else:
            value = _projected(module, point.side, args, kwargs)
        record[name] = _rows(value, point)

    if point.side == "input":
        return module.register_forward_pre_hook(lambda m, a, k: hook(m, a, k, None), with_kwargs=True)
    return module.register_forward_hook(hook, with_kwargs=True)


def _projected(module: nn.Module, side: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Compute one of the three projections inside of `torch.nn.MultiheadAttention`."""
    if not isinstance(module, nn.MultiheadAttention):
        raise InputError(f"a point of the side {side!r} must be in a MultiheadAttention, got {type(module).__name__}")
    number = ("query", "key", "value").index(side)
    inputs = args[number] if number < len(args) else kwargs[side]
    rows = slice(number * module.embed_dim, (number + 1) * module.embed_dim)
    bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
    if module.in_proj_weight is None:
        return F.linear(inputs, (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[number], bias)
    return F.linear(inputs, module.in_proj_weight[rows], bias)


def _rows(value: Tensor, point: Point) -> Tensor:
    """Copy the units of a map, (units, all else)."""
    rows = value.detach().movedim(point.axis, 0).reshape(value.shape[point.axis], -1)
    return rows.index_select(0, point.index.flatten().to(rows.device)).view(len(point.units), -1)


def _rows_of(reference: int | None, size: int) -> slice:
    """Give which rows are the reference's among those of all models, so many for each; all without a reference."""
    return slice(None) if reference is None else slice(reference * size, (reference + 1) * size)


class _Moments:
    """Sums of powers of units, less the first value of each so that nothing cancels, and of products with some rows."""

    def __init__(self, dtype: torch.dtype, rows: slice) -> None:
        self.dtype = dtype
        self.rows = rows
        self.images = 0
        self.shift = self.first = self.squares = self.products = torch.empty(0)

    def add(self, maps: Sequence[Tensor], images: int) -> None:
        device = maps[0].device
        rows = torch.cat([part.to(device) for part in maps])
        if not self.images:
            self.shift = rows[:, :1].to(self.dtype)
            self.first, self.squares = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
            self.products = self.shift.new_zeros(len(rows[self.rows]), len(rows))
        weight = images / rows.shape[1]
        for part in rows.split(max(1, _CHUNK // len(rows)), dim=1):
            shifted = part.to(self.dtype) - self.shift
            self.first += weight * shifted.sum(dim=1, keepdim=True)
            self.squares += weight * shifted.square().sum(dim=1, keepdim=True)
            self.products.addmm_(shifted[self.rows], shifted.T, alpha=weight)
        self.images += images

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Give the covariances and all variances; a unit that changes by less than rounding does not change."""
        mean = self.first / self.images
        covariance = self.products / self.images - mean[self.rows] @ mean.T
        if len(covariance) == len(mean):
            variance = covariance.diagonal().clone()
            covariance = (covariance + covariance.T) / 2
        else:
            variance = (self.squares / self.images - mean.square()).flatten()
        variance[variance.clamp(min=0).sqrt() <= _ROUNDING * (mean + self.shift).abs().flatten()] = 0
        return covariance, variance


_CHUNK = 1 << 21
_ROUNDING = 1e-7


def _correlation(group: Group, moments: Sequence[_Moments], models: int, reference: int | None) -> Tensor:
    """Put the correlations of a group together; the covariances of several points are added."""
    parts = [part.covariance() for part in moments]
    rows = _rows_of(reference, group.size)
    variance = parts[0][1].new_zeros(models * group.size)
    total = variance.new_zeros(len(variance[rows]), len(variance))
    for point, (covariance, variances) in zip(group.points, parts, strict=True):
        units = point.units.to(total.device)
        columns = (torch.arange(models, device=total.device)[:, None] * group.size + units).flatten()
        total[(columns if reference is None else units)[:, None], columns] += covariance
        variance[columns] += variances
    scale = variance.sqrt()
    live = scale > 0
    scale = torch.where(live, scale, 1)
    correlation = torch.where(live[rows, None] & live, total / torch.outer(scale[rows], scale), 0).clamp(-1, 1)
    correlation[:, rows].diagonal()[live[rows]] = 1
    return correlation
