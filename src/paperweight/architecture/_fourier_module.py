"""Multi-head attention with the Fourier integral kernel, in the form of `torch.nn.MultiheadAttention`.

Source:
    T. Nguyen et al., "FourierFormer: Transformer Meets Generalized Fourier Integral Theorem", NeurIPS 2022,
    https://arxiv.org/abs/2206.00206.

Deviations:
    those of `paperweight.architecture.fourierformer`
"""

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._fourier_chunks import chunked_attention, log_kernel
from paperweight.architecture._kernel_attention import normalised
from paperweight.architecture._multihead import (
    KeyValueCache,
    added_mask,
    check_ranges,
    heads_of,
    joined,
    precise,
    prepare,
)

__all__ = ["FourierAttention", "Radii"]

Radii = Literal["scalar", "head", "feature", "head_feature"]


@final
class FourierAttention(nn.Module):
    """Multi-head attention with Fourier integral kernels, called as `torch.nn.MultiheadAttention` is.

    Parameters have that module's names, so that its state loads with ``strict=False``. Where the radius is small the
    attention is almost a mean of the values: training wants a warm-up. Where it is large, and a head has many features,
    every key is far: with 16 features the authors' 2 for text leaves weights that vanish beside ``eps``, and nothing is
    learned. Start at 0.5 there, or take ``eps=0``.

    Args:
        dim: Numbers a token, a multiple of ``num_heads``.
        num_heads: Number of heads.
        power: p, even; the paper's is 4.
        radius: Learn one radius, one a head, one a feature of a head, or one for each feature of each head.
        radius_init: R at the start, above 0; the authors have 1 for images and 2 for text.
        bias: Whether the projections have biases.
        attn_drop: Probability with which a weight is left out in training, in [0, 1).
        eps: As in `fourier_attention`.
        batch_first: Tokens are (B, N, dim), else (N, B, dim).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> attention, x = FourierAttention(8, num_heads=2), torch.zeros(3, 5, 8)
        >>> attention(x, x, x, need_weights=False)[0].shape
        torch.Size([3, 5, 8])
    """

    _qkv_same_embed_dim = False  # keeps torch's transformer layers from a path of their own, which is softmax attention

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        power: int = 4,
        radius: Radii = "scalar",
        radius_init: float = 1.0,
        bias: bool = True,
        attn_drop: float = 0.0,
        eps: float = 1e-6,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        prepare(self, dim, num_heads, bias=bias, batch_first=batch_first)
        check_ranges(power, eps, attn_drop=attn_drop)
        per_head = dim // num_heads
        shapes = {"scalar": (1,), "head": (num_heads, 1, 1), "feature": (per_head,)}
        shapes["head_feature"] = (num_heads, 1, per_head)
        if radius not in shapes:
            raise ValueError(f"radius must be one of {', '.join(shapes)}, got {radius!r}")
        if not 0 < radius_init < math.inf:
            raise ValueError(f"radius_init must be above 0 and finite, got {radius_init}")
        self.dim, self.bias, self.radius, self.radius_init = dim, bias, radius, radius_init
        self.power, self.attn_drop, self.eps = power, attn_drop, eps
        self.radius_raw = nn.Parameter(torch.full(shapes[radius], radius_init + math.log(-math.expm1(-radius_init))))

    @property
    def radii(self) -> Tensor:
        """The radii R, (1,), (heads, 1, 1), (d,) or (heads, 1, d)."""
        return F.softplus(precise(self.radius_raw))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of `torch.nn.MultiheadAttention`, and masks are added to log K.

        A causal attention needs no mask and lets the last query see every key. A ``cache`` takes the new keys and
        values, and queries see all that it holds. Weights are given before dropout and take memory of N M d.
        """
        q, k, v = heads_of(self, query, key, value)
        if cache is not None:
            k, v = cache.append(k, v)
        mask = added_mask(key_padding_mask, attn_mask, len(q))
        drop = self.attn_drop if self.training else 0.0
        queries, keys = (precise(part) * self.radii for part in (q, k))
        mixed = chunked_attention(queries, keys, precise(v), mask, self.power, self.eps, causal=is_causal, dropout=drop)
        out = joined(self, mixed.to(v.dtype), query)
        if not need_weights:
            return out, None
        logs = log_kernel(queries, keys, self.power)
        weights = normalised(logs, mask, self.eps, causal=is_causal).to(out.dtype)
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return out, weights if query.ndim == 3 else weights[0]
