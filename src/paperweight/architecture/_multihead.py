"""What multi-head attentions share: parameters named as in `torch.nn.MultiheadAttention`, heads, masks, and a cache."""

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "KeyValueCache",
    "added_mask",
    "as_added",
    "causal_mask",
    "check_mask",
    "check_ranges",
    "check_tokens",
    "heads_of",
    "joined",
    "precise",
    "prepare",
]


def check_tokens(q: Tensor, k: Tensor, radius: Tensor | float) -> None:
    """Refuse queries and keys that are not (..., N, d) and (..., M, d), and radii of another number of features."""
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must be (..., N, d) and (..., M, d), got {tuple(q.shape)} and {tuple(k.shape)}")
    shape = radius.shape if isinstance(radius, Tensor) else ()
    if shape and shape[-1] not in (1, q.shape[-1]):
        raise ValueError(f"radius must be a number or end in 1 or d = {q.shape[-1]}, as (d,) does, got {tuple(shape)}")


def check_mask(mask: Tensor | None, queries: int, keys: int) -> None:
    """Refuse masks that do not broadcast to (..., N, M), and those that want a gradient, since they get none."""
    if mask is None:
        return
    shape = tuple(mask.shape)
    if len(shape) < 2 or shape[-2] not in (1, queries) or shape[-1] not in (1, keys):
        raise ValueError(f"mask must be (..., {queries}, {keys}), or 1 in place of a number, got {shape}")
    if mask.requires_grad:
        raise ValueError("mask must not require a gradient, since it gets none; detach it")


def check_ranges(power: int, eps: float = 0.0, dropout: float = 0.0, attn_drop: float = 0.0) -> None:
    """Refuse powers that are not even, negative ``eps``, and probabilities outside [0, 1)."""
    if not isinstance(power, int) or power < 2 or power % 2:
        raise ValueError(f"power must be a whole even number of at least 2, got {power}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    for name, value in (("dropout", dropout), ("attn_drop", attn_drop)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def precise(x: Tensor) -> Tensor:
    """Give a tensor in float32, or in what is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def prepare(module: Any, dim: int, num_heads: int, *, bias: bool, batch_first: bool) -> None:
    """Give a module the projections of an attention, with names and initial values of `torch.nn.MultiheadAttention`.

    Raises:
        ValueError: If ``num_heads`` is no positive whole number, or ``dim`` no positive multiple of it.
    """
    if not isinstance(num_heads, int) or num_heads < 1:
        raise ValueError(f"num_heads must be a whole number of at least 1, got {num_heads}")
    if not isinstance(dim, int) or dim < 1 or dim % num_heads:
        raise ValueError(f"dim must be a positive multiple of num_heads = {num_heads}, got {dim}")
    module.embed_dim, module.num_heads, module.batch_first = dim, num_heads, batch_first
    module.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
    module.in_proj_bias = nn.Parameter(torch.zeros(3 * dim)) if bias else None
    module.out_proj = nn.Linear(dim, dim, bias=bias)
    if bias:
        nn.init.zeros_(module.out_proj.bias)


def heads_of(module: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project tokens and split them into heads: each becomes (B, heads, N, d).

    Raises:
        ValueError: If they are not all (B, N, dim) or all (N, dim).
    """
    for name, part in (("query", query), ("key", key), ("value", value)):
        if part.ndim not in (2, 3) or part.ndim != query.ndim or part.shape[-1] != module.embed_dim:
            raise ValueError(
                f"{name} must be tokens of {module.embed_dim} numbers, (B, N, dim) or (N, dim) as all, "
                f"got {tuple(part.shape)}"
            )
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    batches = [
        part[None] if part.ndim == 2 else part if module.batch_first else part.transpose(0, 1)
        for part in (query, key, value)
    ]
    q, k, v = (
        F.linear(part, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for part, weight, bias in zip(batches, module.in_proj_weight.chunk(3), biases, strict=True)
    )
    return q, k, v


def joined(module: Any, mixed: Tensor, query: Tensor) -> Tensor:
    """Join heads (B, heads, N, d) to tokens in the layout of the queries."""
    out = module.out_proj(mixed.transpose(1, 2).flatten(2))
    return out[0] if query.ndim == 2 else out if module.batch_first else out.transpose(0, 1)


def as_added(mask: Tensor) -> Tensor:
    """Turn a bool mask, True where a key is seen, into what is added to logarithms; others stay."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


def added_mask(padding: Tensor | None, mask: Tensor | None, batch: int) -> Tensor | None:
    """Join masks of `torch.nn.MultiheadAttention`, True where a key is not seen, to one that is added to logarithms.

    Args:
        padding: (B, M) or, without a batch, (M,).
        mask: (N, M), or (B * heads, N, M).
        batch: B.

    Returns:
        What broadcasts to (B, heads, N, M); None without masks.
    """
    total: Tensor | None = None
    if padding is not None:
        total = as_added(_seen(padding)).reshape(-1, 1, 1, padding.shape[-1])
    if mask is not None:
        added = as_added(_seen(mask))
        added = added.unflatten(0, (batch, -1)) if mask.ndim == 3 else added
        total = added if total is None else total + added
    return total


def _seen(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask


def causal_mask(queries: int, keys: int, earlier: int, device: torch.device) -> Tensor:
    """Tell which keys each query sees, bool, (N, M): the first of them its own and so many earlier ones."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(earlier)


@final
class KeyValueCache:
    """Keys and values of earlier tokens, for decoding one token after another.

    Attributes:
        length: Number of tokens held.

    Example:
        >>> cache = KeyValueCache()
        >>> keys, values = cache.append(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
        >>> keys, values = cache.append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
        >>> keys.shape, cache.length
        (torch.Size([1, 2, 4, 4]), 4)
    """

    def __init__(self) -> None:
        self.length = 0
        self._held: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values, each (B, heads, N, d), and give all so far; without gradients.

        Raises:
            ValueError: If the shape is not that of the tokens before.
        """
        new = torch.stack([keys, values]).detach()
        end = self.length + keys.shape[-2]
        if self._held is None:
            self._held = new
        elif new.shape[:-2] != self._held.shape[:-2] or new.shape[-1] != self._held.shape[-1]:
            raise ValueError(
                f"keys must have the batch and heads of those before, {tuple(self._held.shape[1:])}, "
                f"got {tuple(keys.shape)}; make a cache for each batch"
            )
        else:
            if end > self._held.shape[-2]:
                room = self._held.new_empty(*self._held.shape[:-2], 2 * end, self._held.shape[-1])
                room[..., : self.length, :] = self._held[..., : self.length, :]
                self._held = room
            self._held[..., self.length : end, :] = new
        self.length = end
        keys, values = self._held[..., :end, :]
        return keys, values
