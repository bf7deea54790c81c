"""How much the heads of a network's attentions repeat each other."""

import torch
from torch import Tensor, nn

from paperweight.architecture.fourierformer import head_redundancy
from paperweight.nets import evaluating

__all__ = ["heads_apart"]


def heads_apart(model: nn.Module, images: Tensor, heads: int) -> tuple[float, float]:
    """Give the distance of heads' outputs over their norm, and their alignment (CKA), the means over layers.

    Args:
        model: A network with as many heads in each attention.
        images: Its inputs.
        heads: How many these are.
    """
    outputs = _heads(model, images, heads)
    distances = [head_redundancy(each) / each.norm(dim=-1).mean() for each in outputs]
    alike = [head_redundancy(each, "cka") for each in outputs]
    return torch.stack(distances).mean().item(), torch.stack(alike).mean().item()


def _heads(model: nn.Module, images: Tensor, heads: int) -> list[Tensor]:
    """Give the outputs of each layer's heads, (N, heads, tokens, d): what the last projection of an attention gets."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].unflatten(-1, (heads, -1)).transpose(1, 2))

    hooks = [
        module.register_forward_pre_hook(keep)
        for name, module in model.named_modules()
        if name.endswith(("project_out", "out_proj"))
    ]
    with evaluating(model), torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen
