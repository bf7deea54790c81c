"""Attention by a Gaussian, which the Fourier integral kernel is for small differences: the control of its study."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._attention_swap import swap_attention
from paperweight.architecture._kernel_attention import kernel_attention
from paperweight.architecture._multihead import added_mask, heads_of, joined, prepare

__all__ = ["POWER", "GaussianAttention", "gaussian"]

POWER = 4


@final
class GaussianAttention(nn.Module):
    """Attention by exp(-p/6 |R (q - k)|^2), in the form of `torch.nn.MultiheadAttention`."""

    _qkv_same_embed_dim = False

    def __init__(self, dim: int, heads: int, bias: bool, batch_first: bool, radius: float) -> None:
        super().__init__()
        prepare(self, dim, heads, bias=bias, batch_first=batch_first)
        self.dim, self.heads, self.bias, self.radius = dim, heads, bias, radius
        self.radius_raw = nn.Parameter(torch.tensor(radius + math.log(-math.expm1(-radius))))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; a causal mask is in ``attn_mask``."""
        q, k, v = heads_of(self, query, key, value)
        mask = added_mask(key_padding_mask, attn_mask, len(q))
        scale = POWER / 3 * math.sqrt(q.shape[-1]) * F.softplus(self.radius_raw).square()
        mixed = kernel_attention(q * scale.sqrt(), k * scale.sqrt(), v, "gaussian", mask)
        return joined(self, mixed, query), None


def gaussian(model: nn.Module, radius_init: float) -> nn.Module:
    """Return a model with such attentions in the place of its own, which start from a radius."""
    return swap_attention(
        model, lambda dim, heads, bias, first, _: GaussianAttention(dim, heads, bias, first, radius_init)
    )
