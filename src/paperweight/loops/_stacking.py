"""The outputs and losses of many models of one structure at once, of their stacked weights."""

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from paperweight.nets import MLP

__all__ = ["Loss", "stacked_forward", "stacked_loss"]

Loss = Callable[[Tensor, Tensor], Tensor]

_LAYERS = (
    nn.Linear,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)


def stacked_forward(model: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what maps inputs (models, N, ...) to the outputs of each model."""
    chain = _chain("", model)
    if chain is None or any(f"{prefix}{name}" not in weights for prefix, layer in chain for name in layer._parameters):
        base = copy.deepcopy(model).to("meta")
        each = vmap(lambda own, batch: functional_call(base, own, (batch,)), randomness="error")
        return lambda inputs: each(weights, inputs)

    def forward(values: Tensor) -> Tensor:
        for prefix, layer in chain:
            if isinstance(layer, nn.Flatten):
                values = values.flatten(2)
            elif not isinstance(layer, nn.Linear):
                values = layer(values)
            else:
                bias = None if layer.bias is None else weights[f"{prefix}bias"]
                values = _linear(values, weights[f"{prefix}weight"], bias)
        return values

    return forward


def _linear(inputs: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x W^T + b of each model: inputs (models, ..., in), weights (models, out, in), bias (models, out)."""
    rows, columns = inputs.flatten(1, -2), weights.mT
    values = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)
    return values.unflatten(1, inputs.shape[1:-1])


def _chain(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """Return the layers of a chain of `_LAYERS`, each with what the names of its weights begin with."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return None
    if type(module) in (nn.Sequential, MLP):
        parts = [_chain(f"{prefix}{name}.", part) for name, part in module._modules.items() if part is not None]
        return None if None in parts else [layer for part in parts if part is not None for layer in part]
    plain = type(module) in _LAYERS and not (
        isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1)
    )
    return [(prefix, module)] if plain else None


def stacked_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what maps outputs (models, N, ...) and targets (models, N, ...) to the loss of each model."""
    if loss is not F.cross_entropy:
        return vmap(loss, randomness="error")

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        values = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        return values.view(len(outputs), -1).mean(dim=1)

    return cross_entropy
