"""Replaces the attention of a model by another, whose projections take over the weights."""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.nets import replace_modules

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
    result = replace_modules(
        model,
        lambda _, part: isinstance(part, nn.MultiheadAttention) or _form(part) is not None,
        partial(_replacement, build),
        wanted="torch.nn.MultiheadAttention, or self-attention with qkv, proj and num_heads",
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


def _form(part: nn.Module) -> tuple[nn.Linear, nn.Linear, int] | None:
    """Find the projection to query, key and value, that of the result, and the number of heads of self-attention."""
    for names in _FORMS:
        first, last, heads = (getattr(part, name, None) for name in names)
        if isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and isinstance(heads, int):
            return first, last, heads
    return None


def _replacement(build: Build, old: nn.Module) -> nn.Module:
    if isinstance(old, nn.MultiheadAttention):
        if not old._qkv_same_embed_dim or old.bias_k is not None or old.add_zero_attn:
            raise ValueError(
                "model must hold attention without kdim, vdim, add_bias_kv and add_zero_attn, got one with; make it "
                "without them"
            )
        return _with_weights(
            build, old.num_heads, old.in_proj_weight, old.in_proj_bias, old.out_proj, old.batch_first, old.dropout
        )
    form = _form(old)
    if form is None:
        raise ValueError(f"old must be attention, got {type(old).__name__}")
    first, last, heads = form
    if first.out_features != 3 * first.in_features or (first.bias is None) != (last.bias is None):
        raise ValueError(
            "model must hold attention whose first projection gives query, key and value of the tokens' width, and "
            f"biases in both projections or in none, got {first} and {last}"
        )
    drop = getattr(old, "attn_drop", None)
    rate = drop.p if isinstance(drop, nn.Dropout) else 0.0
    return _SelfAttention(_with_weights(build, heads, first.weight, first.bias, last, True, rate))


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
