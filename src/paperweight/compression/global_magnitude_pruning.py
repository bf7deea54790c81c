"""Global magnitude pruning (Global MP): set the smallest weights of the whole network to zero.

All weights of linear and convolutional layers stand in one ranking, so each layer keeps what its magnitudes earn; a
minimum a layer keeps a layer from being emptied, which would block the signal.
Cost: selecting one of all weights by rank, linear in their number; in fine-tuning one more pass over them a step.

Source:
    M. Gupta, E. Camci, V. R. Keneta, A. Vaidyanathan, R. Kanodia, C.-S. Foo, W. Min, L. Jie, "Is Complexity Required
    for Neural Network Pruning? A Case Study on Global Magnitude Pruning", 2022, https://arxiv.org/abs/2209.14624.
    Implemented: one-shot Global MP, its minimum threshold (MT), fine-tuning with fixed zeros, the gradual schedule.

Deviations:
    - The number of weights that are kept is met exactly: of equal magnitudes the first in the order of the modules are
      kept. The authors' code keeps all that equal the threshold, and so one or more too many.
    - MT keeps the largest weights of each layer, as many as the minimum, and fills up by the global ranking: the
      greatest sum of magnitudes under both conditions. The authors' code multiplies the sparsities of the other layers
      by a common factor, and again, until the total is met, and leaves layers below the minimum dense; here they are
      dense as well.
    - The minimum is a number of weights; the authors' code takes it as a percentage of all weights, by default 0.05.
    - Transposed convolutions and recurrent layers are left alone, as in the authors' code; the paper also prunes
      FastGRNN's matrices.
    - Gradual pruning is repeated one-shot pruning, the ramp being that of Zhu and Gupta (2017); the authors published
      no code for theirs.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.nets.plain import computed_weight

__all__ = ["GlobalMagnitudePruning", "global_magnitude_masks", "gradual_sparsity"]

PAPER = Paper(
    title="Is Complexity Required for Neural Network Pruning? A Case Study on Global Magnitude Pruning",
    authors=(
        "Manas Gupta",
        "Efe Camci",
        "Vishandi Rudy Keneta",
        "Abhishek Vaidyanathan",
        "Ritwik Kanodia",
        "Chuan-Sheng Foo",
        "Wu Min",
        "Lin Jie",
    ),
    year=2022,
    url="https://arxiv.org/abs/2209.14624",
    provides={
        "GlobalMagnitudePruning": "compressor",
        "global_magnitude_masks": "function",
        "gradual_sparsity": "function",
    },
    null={"sparsity": 0.0},
    claim="Pruning the smallest weights of the whole network is as accurate as complex pruning methods, or more so.",
)

Model = TypeVar("Model", bound=nn.Module)


def global_magnitude_masks(weights: Sequence[Tensor], kept: int, min_per_layer: int = 0) -> list[Tensor]:
    """Choose the weights with the greatest sum of magnitudes, a given number in all and a minimum in each layer.

    Args:
        weights: The weights of each layer, of any shapes.
        kept: Number of weights to keep, from what ``min_per_layer`` asks to all.
        min_per_layer: Number of weights to keep at least in each layer, all of them in one that has fewer.

    Returns:
        For each layer a mask of its shape, bool, true for ``kept`` weights in all; of equal ones the first.

    Raises:
        ValueError: If there is no layer, or a number is outside its range.

    Example:
        >>> weights = [torch.tensor([0.1, -0.9, 0.5]), torch.tensor([[0.2, -0.3]])]
        >>> global_magnitude_masks(weights, kept=2)
        [tensor([False,  True,  True]), tensor([[False, False]])]
        >>> global_magnitude_masks(weights, kept=2, min_per_layer=1)
        [tensor([False,  True, False]), tensor([[False,  True]])]
    """
    if not weights:
        raise ValueError("weights must hold at least one layer, got none")
    _check_minimum(min_per_layer)
    magnitudes = [weight.detach().abs().flatten() for weight in weights]
    sizes = [len(layer) for layer in magnitudes]
    least = sum(min(size, min_per_layer) for size in sizes)
    if not least <= kept <= sum(sizes):
        raise ValueError(
            f"kept must be from {least}, what min_per_layer {min_per_layer} asks, to {sum(sizes)}, got {kept}; "
            "change min_per_layer or the sparsity"
        )
    mask = torch.cat([_largest(layer, min_per_layer) for layer in magnitudes])
    mask |= _largest(torch.cat(magnitudes).masked_fill(mask, -1), kept - least)
    return [part.view(weight.shape) for part, weight in zip(mask.split(sizes), weights, strict=True)]


def _largest(values: Tensor, count: int) -> Tensor:
    """Mark the largest values, of equal ones the first; shape (N,) to bool (N,)."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    least = values.kthvalue(max(1, len(values) - count + 1)).values
    undefined = values.isnan()
    mask, equal = (undefined, values == least) if not least.isnan() else (torch.zeros_like(undefined), undefined)
    mask = mask | (values > least)
    mask[equal.nonzero().flatten()[: count - int(mask.sum())]] = True
    return mask


def gradual_sparsity(final: float, stage: int, stages: int) -> float:
    """Raise the sparsity from 0 along a cubic ramp: s = final (1 - (1 - stage / stages)^3).

    Args:
        final: Sparsity at the last stage, in [0, 1).
        stage: Number of the stage, from 0 to ``stages``.
        stages: Number of the last stage, at least 1.

    Returns:
        The sparsity at this stage.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> [gradual_sparsity(0.5, stage, 2) for stage in range(3)]
        [0.0, 0.4375, 0.5]
    """
    _check_sparsity("final", final)
    if stages < 1:
        raise ValueError(f"stages must be at least 1, got {stages}")
    if not 0 <= stage <= stages:
        raise ValueError(f"stage must be from 0 to stages, {stages}, got {stage}")
    return final * (1 - (1 - stage / stages) ** 3)


@final
class GlobalMagnitudePruning:
    """Gives a copy of a model in which the weights smallest in magnitude over all layers are 0.

    Pruned are the weights of linear and convolutional layers, each once where layers share it; biases, normalisation
    and all else are kept. A sparsity of 0 changes no bit. Fine-tune the copy inside `zeros_kept`. Prune gradually by
    pruning and fine-tuning in turn, at the sparsities of `gradual_sparsity`: what is 0 already is pruned first.

    Args:
        sparsity: Share of the prunable weights that become 0, in [0, 1); the paper has 0.8 to 0.999. Of P weights
            ``round((1 - sparsity) * P)`` are kept.
        min_per_layer: Number of weights to keep at least in each layer, all of them in one that has fewer; 0 for none.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> _ = model.weight.data.copy_(torch.tensor([[0.1, -3.0, 2.0, 0.5]]))
        >>> pruning = GlobalMagnitudePruning(sparsity=0.5)
        >>> pruned = pruning(model)
        >>> pruned.weight.tolist(), pruning.size(pruned)
        ([[0.0, -3.0, 2.0, 0.0]], 3)
    """

    def __init__(self, sparsity: float = 0.9, min_per_layer: int = 0) -> None:
        _check_sparsity("sparsity", sparsity)
        _check_minimum(min_per_layer)
        self.sparsity = sparsity
        self.min_per_layer = min_per_layer

    @torch.no_grad()
    def __call__(self, model: Model) -> Model:
        """Return a pruned copy of a model, and leave the model as it is.

        Raises:
            ValueError: If the model has no layer to prune, a weight that is computed at each call, or fewer weights to
                keep than ``min_per_layer`` asks.
        """
        _prunable(model)
        pruned = copy.deepcopy(model)
        weights = _prunable(pruned)
        kept = round((1 - self.sparsity) * sum(weight.numel() for weight in weights))
        masks = global_magnitude_masks(weights, kept, self.min_per_layer)
        for weight, mask in zip(weights, masks, strict=True):
            weight.masked_fill_(~mask, 0)
        return pruned

    def size(self, model: nn.Module) -> int:
        """Count the entries of all parameters that are not 0."""
        return sum(int(parameter.count_nonzero()) for parameter in model.parameters())

    def stored_bytes(self, model: nn.Module) -> int:
        """Count the bytes of the parameters and buffers of a model when its prunable weights are stored sparsely.

        A sparse weight is a matrix with a row for each output channel, in the compressed row format: the entries that
        are not 0, a column index of 4 bytes for each, and a row pointer of 4 bytes for each row and one more. A weight
        that is smaller densely is stored densely, as all else is.
        """
        dense = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        return dense - sum(max(0, weight.nbytes - _sparse_bytes(weight)) for weight in _prunable(model))

    @contextmanager
    def zeros_kept(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Set the prunable weights that are 0 now to 0 again after each step of an optimizer; nothing stays behind.

        Args:
            model: The pruned model.
            optimizer: The optimizer that trains it.

        Yields:
            Nothing.
        """
        weights = _prunable(model)
        masks = [weight == 0 for weight in weights]

        @torch.no_grad()
        def prune_again(*_: Any) -> None:
            for weight, mask in zip(weights, masks, strict=True):
                weight.masked_fill_(mask, 0)

        handle = optimizer.register_step_post_hook(prune_again)
        try:
            yield
        finally:
            handle.remove()


def _prunable(model: nn.Module) -> list[nn.Parameter]:
    """List the weights of linear and convolutional layers in the order of the modules, each once."""
    weights: dict[int, nn.Parameter] = {}
    computed = computed_weight(model)
    if computed:
        raise InputError(f"model must have plain weights, {computed}")
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            weight = part.get_parameter("weight")
            weights[id(weight)] = weight
    if not weights:
        raise ValueError("model must have a linear or convolutional layer, got none")
    return list(weights.values())


def _sparse_bytes(weight: Tensor) -> int:
    """Count the bytes of a weight in the compressed row format with indices of 4 bytes."""
    nonzero = int(weight.count_nonzero())
    return nonzero * (weight.element_size() + 4) + (len(weight) + 1) * 4


def _check_sparsity(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def _check_minimum(value: int) -> None:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"min_per_layer must be a whole number of at least 0, got {value}")
