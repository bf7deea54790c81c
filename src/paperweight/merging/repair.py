"""Repair of the statistics of a merged network: running statistics recomputed, or mean and spread of units restored."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from paperweight.errors import InputError
from paperweight.merging._batches import batches, joined
from paperweight.merging.activations import evaluating
from paperweight.merging.graph import PermutationGraph
from paperweight.merging.state import check_weights

__all__ = ["has_batchnorm", "repair_batchnorm", "rescale"]


def has_batchnorm(model: nn.Module) -> bool:
    """Tell whether a model has batch normalization with running statistics."""
    return bool(_tracking(model))


def repair_batchnorm(model: nn.Module, data: Iterable[Any]) -> None:
    """Replace the running statistics of batch normalization by the mean of those of the batches of data, in place.

    Each batch counts by its number of samples; one of a single sample, which has no variance, is joined to a neighbour.
    Only batch normalization is in training mode meanwhile, so that nothing random is drawn; afterwards every module is
    in the mode that it was in, and after an error the statistics are as they were. Without batch normalization nothing
    is done.

    Args:
        model: The model.
        data: Batches of inputs, of tuples that begin with them, or of tensors by name.

    Raises:
        InputError: If there is no batch, or the model cannot be called with one.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> repair_batchnorm(model, [torch.tensor([[1.0], [3.0]])])
        >>> model[0].running_mean, model[0].running_var
        (tensor([2.]), tensor([2.]))
    """
    layers = _tracking(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    statistics = [{name: value.clone() for name, value in layer.named_buffers(recurse=False)} for layer in layers]
    with evaluating([model]), ExitStack() as stack:
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.training = True
                stack.callback(layer.register_forward_pre_hook(_counting()).remove)
            for inputs in joined(data):
                inputs.call(model)
        except BaseException:
            for layer, old in zip(layers, statistics, strict=True):
                layer.load_state_dict(old, strict=False)
            raise
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


def rescale(
    model: nn.Module,
    models: Sequence[nn.Module],
    graph: PermutationGraph,
    data: Iterable[Any],
    weights: Sequence[float] | None = None,
) -> None:
    """Give the units of a merged network the mean and the standard deviation that those it was merged from have.

    The averaged network's units vary less than those of its parts. Layer after layer, in the order in which they are
    called, each output row of a linear layer or convolution that belongs to a group is scaled and shifted, so that its
    mean and standard deviation over the data are the weighted means of those of the models (Jordan et al., REPAIR,
    ICLR 2023). All is folded into weight and bias. It takes one pass over the data for each layer.

    Args:
        model: The merged model, changed in place.
        models: The models, permuted so that their units are matched.
        graph: Their groups.
        data: Batches of inputs, of tuples that begin with them, or of tensors by name, more than once the same.
        weights: Weight of each model, which sum to 1; None for equal ones.

    Raises:
        InputError: If a layer to rescale has no bias, the model has batch normalization, or there is no batch.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = PermutationGraph.trace(model, torch.zeros(1, 3))
        >>> rescale(model, [model], graph, [torch.randn(64, 3)])
    """
    weights = check_weights(weights, len(models))
    if has_batchnorm(model):
        raise InputError('repair must be "bn" for a model with batch normalization, got "rescale"')
    layers = _rescalable(model, graph)
    goal: dict[str, tuple[Tensor, Tensor]] = {}
    for weight, part in zip(weights, models, strict=True):
        if weight:
            for name, (mean, std) in _statistics(part, layers, data).items():
                old = goal.get(name, (0, 0))
                goal[name] = (old[0] + weight * mean, old[1] + weight * std)
    for name in goal:
        mean, std = _statistics(model, {name: layers[name]}, data)[name]
        _fold(model.get_submodule(name), layers[name], goal[name], (mean, std))


def _counting() -> Callable[[_BatchNorm, tuple[Tensor, ...]], None]:
    """Make a hook that gives each batch of a layer the share of all samples so far as its momentum."""
    samples = 0

    def count(layer: _BatchNorm, args: tuple[Tensor, ...]) -> None:
        nonlocal samples
        samples += len(args[0])
        layer.momentum = len(args[0]) / samples

    return count


def _tracking(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


def _rescalable(model: nn.Module, graph: PermutationGraph) -> dict[str, Tensor]:
    """Find the layers whose output rows belong to groups, and those rows."""
    found: dict[str, list[Tensor]] = {}
    for group in graph.groups:
        for place in group.places:
            name, _, part = place.key.rpartition(".")
            if place.role == "out" and part == "weight" and isinstance(model.get_submodule(name), nn.Linear | _ConvNd):
                found.setdefault(name, []).append(place.index.flatten())
    for name in found:
        if model.get_submodule(name).bias is None:
            raise InputError(f'layers must have a bias for repair "rescale", {name} has none; use repair=None')
    return {name: torch.cat(rows).sort().values for name, rows in found.items()}


def _statistics(
    model: nn.Module, layers: Mapping[str, Tensor], data: Iterable[Any]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute mean and standard deviation of output rows of layers, in the order in which they are called."""
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}
    with evaluating([model]), _listening(model, layers, sums):
        for inputs in batches(data):
            inputs.call(model)
    return {name: (mean, (square / count).sqrt()) for name, (count, mean, square) in sums.items()}


@contextmanager
def _listening(
    model: nn.Module, layers: Mapping[str, Tensor], sums: dict[str, tuple[int, Tensor, Tensor]]
) -> Iterator[None]:
    def listen(name: str, module: nn.Module) -> Any:
        axis = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # pyright: ignore[reportArgumentType]

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            values = output.movedim(axis, 0).flatten(1)[layers[name].to(output.device)].double()
            count, mean = values.shape[1], values.mean(dim=1)
            square = (values - mean[:, None]).square().sum(dim=1)
            if name in sums:
                before, old, squares = sums[name]
                total = before + count
                square = squares + square + (mean - old).square() * before * count / total
                mean = old + (mean - old) * count / total
                count = total
            sums[name] = (count, mean, square)

        return module.register_forward_hook(hook)

    handles = [listen(name, model.get_submodule(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _fold(module: nn.Module, rows: Tensor, goal: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> None:
    """Scale and shift output rows; one that never changes is shifted only."""
    scale = torch.where(now[1] > 0, goal[1] / now[1].clamp(min=1e-300), 1)
    axis = 1 if isinstance(module, _ConvTransposeNd) and module.groups == 1 else 0
    weight, bias = (getattr(module, part) for part in ("weight", "bias"))
    chosen = weight.movedim(axis, 0)
    chosen[rows] = (chosen[rows].double() * scale.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)
    bias[rows] = (bias[rows].double() * scale + (goal[0] - now[0] * scale)).to(bias.dtype)
