"""Fourier attention in chunks of queries: memory that grows with N d and not with N^2 d, forward and backward.

For each chunk the logarithms of the kernel are summed feature by feature in buffers that stay in a processor's cache;
backward they are computed again. With x = R_d (q_d - k_d), A the weights, o the outputs and g = dL/do,

    dL/d log K_ij = A_ij (g_i . v_j - g_i . o_i),    d log K / dx = p (cot x - 1 / x),

whichever way the weights are normalised.
"""

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from paperweight.architecture._kernel_attention import normalised
from paperweight.architecture._multihead import causal_mask

__all__ = ["chunked_attention", "cot_less_inverse", "log_kernel"]

_LEAST = 1e-30  # below it |sin x / x| is not told from 0: finite logarithms and gradients at the kernel's zeros
_GROUP = 4  # factors that are multiplied before a logarithm; so few cannot underflow in float32
_TRITON = importlib.util.find_spec("triton") is not None
_SMALL = 2**18  # factors up to which calls cost more than memory, and all are kept
_SERIES = {torch.float64: 0.075}  # where the series' error meets that of cot x - 1/x, which loses digits near 0
_SERIES_OF_OTHERS = 0.25


def cot_less_inverse(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Compute cot x - 1/x, the derivative of log |sin x / x|, in place of the cosine; the sine is overwritten, too.

    Near 0 it is the series -x/3 - x^3/45 - ..., and at the zeros of the sine it is large, but finite.
    """
    near = torch.lt(x.abs(), _SERIES.get(x.dtype, _SERIES_OF_OTHERS), out=torch.empty_like(x))  # 1 near 0, else 0
    far = cosine.div_(sine.add_(near).add_(_LEAST)).sub_((x + near).reciprocal_())
    x = x * near
    square = x * x
    series = (square * (1 / 4725)).add_(2 / 945).mul_(square).add_(1 / 45).mul_(square).add_(1 / 3).mul_(x).neg_()
    return far.lerp_(series, near)


class _LogSinc(torch.autograd.Function):
    """log |sin x / x|, 0 at 0, with the derivative cot x - 1/x; finite at the zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute it."""
        ctx.save_for_backward(x)
        size = x.abs().clamp_min(_LEAST)
        return (torch.sin(size) / size).abs().clamp_min(_LEAST).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # type: ignore[override]
        """Compute its gradient."""
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * cot_less_inverse(x, torch.sin(x), torch.cos(x))


def log_kernel(queries: Tensor, keys: Tensor, power: int) -> Tensor:
    """Compute log K, (..., N, M), of queries (..., N, d) and keys (..., M, d) that are scaled by the radii."""
    return power * _LogSinc.apply(queries[..., :, None, :] - keys[..., None, :, :]).sum(dim=-1)  # type: ignore[union-attr]


def _chunk_log_kernel(queries: Tensor, keys: Tensor, power: int, buffers: tuple[Tensor, ...]) -> Tensor:
    """Compute log K, (..., c, M), of scaled queries (..., c, d) and keys (..., M, d), in the last buffer."""
    x, factor, product, total = buffers
    total.zero_()
    last = queries.shape[-1] - 1
    for j in range(last + 1):
        torch.sub(queries[..., j, None], keys[..., None, :, j], out=x)
        x.abs_().clamp_min_(_LEAST)
        first = j % _GROUP == 0
        torch.sin(x, out=product if first else factor)
        (product if first else factor).div_(x).abs_()
        if not first:
            product.mul_(factor)
        if j % _GROUP == _GROUP - 1 or j == last:
            total.add_(product.clamp_min_(_LEAST).log_())
    return total.mul_(power)


class _ChunkedAttention(torch.autograd.Function):
    """Attention of scaled queries (..., N, d) to scaled keys (..., M, d) and values (..., M, e)."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        power: int,
        eps: float,
        causal: bool,
        dropout: float,
        seed: int,
        chunk: int,
    ) -> Tensor:
        log_eps = math.log(eps) if eps else -math.inf
        out = values.new_empty(*queries.shape[:-1], values.shape[-1])
        norm = queries.new_empty(*queries.shape[:-1], 1)
        for rows, buffers in _chunks(queries, keys, chunk):
            log = _chunk_log_kernel(queries[..., rows, :], keys, power, buffers)
            _mask(log, mask, causal, rows, queries.shape[-2])
            largest = log.amax(dim=-1, keepdim=True)
            largest.masked_fill_(largest == -math.inf, 0.0)
            weights = log.sub_(largest).exp_()
            total = weights.sum(dim=-1, keepdim=True) + torch.exp(log_eps - largest)
            total.clamp_min_(_LEAST)
            if dropout:
                weights.mul_(_kept(weights, dropout, seed, rows))
            out[..., rows, :] = weights @ values / total
            norm[..., rows, :] = largest + total.log()
        ctx.save_for_backward(queries, keys, values, mask, out, norm)
        ctx.rest = (power, causal, dropout, seed, chunk)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad,) = grad_outputs
        queries, keys, values, mask, out, norm = ctx.saved_tensors
        power, causal, dropout, seed, chunk = ctx.rest
        by_queries, by_keys, by_values = (torch.zeros_like(part) for part in (queries, keys, values))
        inner = (grad * out).sum(dim=-1, keepdim=True)
        turned_queries, turned_keys = ((part.sin(), part.cos()) for part in (queries, keys))
        for rows, buffers in _chunks(queries, keys, chunk):
            log = _chunk_log_kernel(queries[..., rows, :], keys, power, buffers)
            _mask(log, mask, causal, rows, queries.shape[-2])
            weights = log.sub_(norm[..., rows, :]).exp_()
            seen = grad[..., rows, :] @ values.transpose(-1, -2)
            if dropout:
                kept = _kept(weights, dropout, seed, rows)
                by_values += (weights * kept).transpose(-1, -2) @ grad[..., rows, :]
                seen.mul_(kept)
            else:
                by_values += weights.transpose(-1, -2) @ grad[..., rows, :]
            slope = weights.mul_(seen.sub_(inner[..., rows, :])).mul_(power)
            for j in range(queries.shape[-1]):
                q, sine_q, cosine_q = (part[..., rows, j, None] for part in (queries, *turned_queries))
                k, sine_k, cosine_k = (part[..., None, :, j] for part in (keys, *turned_keys))
                sine = (sine_q * cosine_k).addcmul_(cosine_q, sine_k, value=-1)
                cosine = (cosine_q * cosine_k).addcmul_(sine_q, sine_k)
                by_x = cot_less_inverse(q - k, sine, cosine).mul_(slope)
                by_queries[..., rows, j] = by_x.sum(dim=-1)
                by_keys[..., j] -= by_x.sum(dim=-2)
        return by_queries, by_keys, by_values, None, None, None, None, None, None, None


def chunked_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    power: int,
    eps: float,
    *,
    causal: bool,
    dropout: float,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Attend with queries and keys that are scaled by the radii; the mask is added to log K, and gets no gradient."""
    lead = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2])
    queries, keys, values = (part.expand(*lead, *part.shape[-2:]) for part in (queries, keys, values))
    if (
        queries.is_cuda
        and mask is None
        and not dropout
        and chunk is None
        and queries.dtype == torch.float32
        and _TRITON
    ):
        from paperweight.architecture._fourier_triton import triton_attention

        return triton_attention(queries, keys, values, power, eps, causal)
    if chunk is None and not dropout and queries.numel() * keys.shape[-2] <= _SMALL:
        return normalised(log_kernel(queries, keys, power), mask, eps, causal=causal) @ values
    if chunk is None:
        chunk = max(16, (2**24 if queries.is_cuda else 2**16) // max(1, keys[..., 0].numel()))
    seed = 0
    if dropout:
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
    return _ChunkedAttention.apply(  # type: ignore[return-value]
        queries, keys, values, mask, power, eps, causal, dropout, seed, chunk
    )


def _chunks(queries: Tensor, keys: Tensor, chunk: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yield the rows of each chunk and four buffers for it."""
    shape = (*queries.shape[:-2], min(chunk, queries.shape[-2]), keys.shape[-2])
    buffers = tuple(queries.new_empty(shape) for _ in range(4))
    for start in range(0, queries.shape[-2], chunk):
        rows = slice(start, min(start + chunk, queries.shape[-2]))
        yield rows, tuple(buffer[..., : rows.stop - rows.start, :] for buffer in buffers)


def _mask(log: Tensor, mask: Tensor | None, causal: bool, rows: slice, count: int) -> None:
    """Add the mask of these queries; a causal one lets the last query see every key."""
    if mask is not None:
        log.add_(mask if mask.shape[-2] == 1 else mask[..., rows, :])
    if causal:
        seen = causal_mask(log.shape[-2], log.shape[-1], log.shape[-1] - count + rows.start, log.device)
        log.masked_fill_(~seen, -math.inf)


def _kept(weights: Tensor, dropout: float, seed: int, rows: slice) -> Tensor:
    """Draw which weights of a chunk are kept, the same again for the same seed, with 1 / (1 - dropout) for those."""
    generator = torch.Generator(weights.device).manual_seed(seed + rows.start)
    kept = torch.rand(weights.shape, generator=generator, device=weights.device) >= dropout
    return kept.to(weights.dtype) / (1 - dropout)
