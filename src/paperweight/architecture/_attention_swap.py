"""Replaces the attention of a model by another, whose projections take over the weights."""

import copy
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

__all__ = ["swap_attention"]

_FORMS = (("qkv", "proj", "num_heads"), ("project_in", "project_out", "heads"))

Build = Callable[[int, int, bool, bool, float], nn.Module]


def swap_attention(model: nn.Module, build: Build) -> nn.Module:
    """Copy a model with another attention in place of its own.

    Args:
        model: Holds `torch.nn.MultiheadAttention`, or self-attention with projections ``qkv`` and ``proj`` or
            ``project_in`` and ``project_out``.
        build: Makes a module with the parameters of `torch.nn.MultiheadAttention` from the numbers a token, the number
            of heads, whether it has biases and takes the batch first, and the dropout of weights.

    Returns:
        The copy; each new attention is on the device, in the format and in the mode of the one that it replaces.

    Raises:
        ValueError: If there is no such attention, or one with options that are not supported.

    Example:
        >>> block = nn.MultiheadAttention(4, 2)
        >>> swap_attention(nn.Sequential(block), lambda *given: nn.MultiheadAttention(4, 2))[0] is block
        False
    """
    result = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(result.modules()):
        for name, child in parent.named_children():
            if child not in made:
                new = _replacement(child, build)
                if new is None:
                    continue
                made[child] = new.train(child.training)
            setattr(parent, name, made[child])
    if not made:
        raise ValueError(
            f"model must hold torch.nn.MultiheadAttention, or self-attention with qkv, proj and num_heads, got "
            f"{type(model).__name__} without"
        )
    for encoder in result.modules():
        if isinstance(encoder, nn.TransformerEncoder):  # nested tensors are for torch's own attention
            encoder.enable_nested_tensor = encoder.use_nested_tensor = False
    return result


@final
class _SelfAttention(nn.Module):
    """Attention that is called with the tokens alone."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend; a mask is as in `torch.nn.functional.scaled_dot_product_attention`, True where a key is seen."""
        unseen = ~attn_mask if attn_mask is not None and attn_mask.dtype == torch.bool else attn_mask
        return self.attention(x, x, x, need_weights=False, attn_mask=unseen)[0]


def _replacement(old: nn.Module, build: Build) -> nn.Module | None:
    if isinstance(old, nn.MultiheadAttention):
        if not old._qkv_same_embed_dim or old.bias_k is not None or old.add_zero_attn:
            raise ValueError(
                "model must hold attention without kdim, vdim, add_bias_kv and add_zero_attn, got one with; make it "
                "without them"
            )
        return _with_weights(
            build, old.num_heads, old.in_proj_weight, old.in_proj_bias, old.out_proj, old.batch_first, old.dropout
        )
    for project_in, project_out, heads in _FORMS:
        first: Any = getattr(old, project_in, None)
        last: Any = getattr(old, project_out, None)
        if isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and isinstance(getattr(old, heads, None), int):
            if first.out_features != 3 * first.in_features or (first.bias is None) != (last.bias is None):
                raise ValueError(
                    f"model must hold attention whose {project_in} gives query, key and value of the tokens' width, "
                    f"and biases in both projections or in none, got {first} and {last}"
                )
            drop = getattr(old, "attn_drop", None)
            rate = drop.p if isinstance(drop, nn.Dropout) else 0.0
            given = (getattr(old, heads), first.weight, first.bias, last, True, rate)
            return _SelfAttention(_with_weights(build, *given))
    return None


def _with_weights(
    build: Build, heads: int, weight: Tensor, bias: Tensor | None, out: nn.Linear, batch_first: bool, dropout: float
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # its initial weights are not kept
        new: Any = build(weight.shape[1], heads, bias is not None, batch_first, dropout).to(weight)
    with torch.no_grad():
        new.in_proj_weight.copy_(weight)
        new.out_proj.weight.copy_(out.weight)
        if bias is not None:
            new.in_proj_bias.copy_(bias)
            new.out_proj.bias.copy_(out.bias)
    return new
