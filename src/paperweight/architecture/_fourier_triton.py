"""Fourier attention as three Triton kernels, for a GPU: forward, and backward by queries and by keys.

Imported only where a GPU is used. What is computed is what `_fourier_chunks` computes; nothing of size N M is stored.
"""

# pyright: reportIndexIssue=false, reportMissingImports=false, reportGeneralTypeIssues=false

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["triton_attention"]

_ROWS = 32  # queries a program
_COLUMNS = 32  # keys a step


@triton.jit
def _log_kernel(u_ptr, w_ptr, rows, columns, n, m, causal_shift, POWER: tl.constexpr, D: tl.constexpr,
                CAUSAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Sum the logarithms of the factors of a tile, four at a time; -inf where a key is not seen."""
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, D, 4):
        product = tl.full((ROWS, COLUMNS), 1.0, dtype=tl.float32)
        for step in tl.static_range(4):
            d = first + step
            u = tl.load(u_ptr + rows * D + d, mask=rows < n, other=0.0)
            w = tl.load(w_ptr + columns * D + d, mask=columns < m, other=0.0)
            x = tl.maximum(tl.abs(u[:, None] - w[None, :]), 1e-30)
            product *= tl.abs(tl.sin(x) / x)
        total += tl.log(tl.maximum(product, 1e-30))
    seen = (columns < m)[None, :] & (rows < n)[:, None]
    if CAUSAL:
        seen = seen & (columns[None, :] <= rows[:, None] + causal_shift)
    return tl.where(seen, POWER * total, float("-inf"))


@triton.jit
def _derivative(u_ptr, w_ptr, rows, columns, n, m, d, D: tl.constexpr):  # fmt: skip
    """Compute cot x - 1/x of a tile for one feature."""
    u = tl.load(u_ptr + rows * D + d, mask=rows < n, other=0.0)
    w = tl.load(w_ptr + columns * D + d, mask=columns < m, other=0.0)
    x = u[:, None] - w[None, :]
    square = x * x
    near = -x * (1.0 / 3 + square * (1.0 / 45 + square * (2.0 / 945 + square / 4725)))
    small = tl.abs(x) < 0.25
    far = tl.where(small, 1.0, x)
    sine = tl.sin(far)
    sine = tl.where(tl.abs(sine) < 1e-30, 1e-30, sine)
    return tl.where(small, near, tl.cos(far) / sine - 1 / far)


@triton.jit
def _forward(u_ptr, w_ptr, v_ptr, out_ptr, norm_ptr, n, m, log_eps, POWER: tl.constexpr, CAUSAL: tl.constexpr,
             D: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    u_ptr += batch * n * D
    w_ptr += batch * m * D
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    features = tl.arange(0, WIDTH)
    largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    out = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    for start in range(0, m, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        log = _log_kernel(u_ptr, w_ptr, rows, columns, n, m, m - n, POWER, D, CAUSAL, ROWS, COLUMNS)
        new = tl.maximum(largest, tl.max(log, axis=1))
        base = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp(log - base[:, None])
        shrink = tl.exp(largest - base)
        v = tl.load(
            v_ptr + batch * m * E + columns[:, None] * E + features[None, :],
            mask=(columns < m)[:, None] & (features < E)[None, :],
            other=0.0,
        )
        total = total * shrink + tl.sum(weights, axis=1)
        out = out * shrink[:, None] + tl.dot(weights, v, input_precision="ieee")
        largest = new
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.maximum(total + tl.exp(log_eps - largest), 1e-30)
    tl.store(
        out_ptr + batch * n * E + rows[:, None] * E + features[None, :],
        out / total[:, None],
        mask=(rows < n)[:, None] & (features < E)[None, :],
    )
    tl.store(norm_ptr + batch * n + rows, largest + tl.log(total), mask=rows < n)


@triton.jit
def _slope(u_ptr, w_ptr, v_ptr, grad_ptr, norm_ptr, inner_ptr, rows, columns, n, m, POWER: tl.constexpr,
           CAUSAL: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
           COLUMNS: tl.constexpr):  # fmt: skip
    """Give the weights of a tile, the gradient by log K times the power, and the gradients by the outputs."""
    features = tl.arange(0, WIDTH)
    log = _log_kernel(u_ptr, w_ptr, rows, columns, n, m, m - n, POWER, D, CAUSAL, ROWS, COLUMNS)
    norm = tl.load(norm_ptr + rows, mask=rows < n, other=0.0)
    inner = tl.load(inner_ptr + rows, mask=rows < n, other=0.0)
    grad = tl.load(
        grad_ptr + rows[:, None] * E + features[None, :],
        mask=(rows < n)[:, None] & (features < E)[None, :],
        other=0.0,
    )
    v = tl.load(
        v_ptr + columns[:, None] * E + features[None, :],
        mask=(columns < m)[:, None] & (features < E)[None, :],
        other=0.0,
    )
    weights = tl.exp(log - norm[:, None])
    seen = tl.dot(grad, tl.trans(v), input_precision="ieee")
    return weights, POWER * weights * (seen - inner[:, None]), grad


@triton.jit
def _by_queries(u_ptr, w_ptr, v_ptr, grad_ptr, norm_ptr, inner_ptr, by_u_ptr, n, m, POWER: tl.constexpr,
                CAUSAL: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    u_ptr += batch * n * D
    w_ptr += batch * m * D
    by_u_ptr += batch * n * D
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    for start in range(0, m, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        _, slope, _ = _slope(
            u_ptr, w_ptr, v_ptr + batch * m * E, grad_ptr + batch * n * E, norm_ptr + batch * n, inner_ptr + batch * n,
            rows, columns, n, m, POWER, CAUSAL, D, E, WIDTH, ROWS, COLUMNS,
        )  # fmt: skip
        for d in range(D):
            by_x = tl.sum(slope * _derivative(u_ptr, w_ptr, rows, columns, n, m, d, D), axis=1)
            held = tl.load(by_u_ptr + rows * D + d, mask=rows < n, other=0.0)
            tl.store(by_u_ptr + rows * D + d, held + by_x, mask=rows < n)
        tl.debug_barrier()  # what one thread has stored another may load


@triton.jit
def _by_keys(u_ptr, w_ptr, v_ptr, grad_ptr, norm_ptr, inner_ptr, by_w_ptr, by_v_ptr, n, m, POWER: tl.constexpr,
             CAUSAL: tl.constexpr, D: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    u_ptr += batch * n * D
    w_ptr += batch * m * D
    by_w_ptr += batch * m * D
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    features = tl.arange(0, WIDTH)
    by_v = tl.zeros((COLUMNS, WIDTH), dtype=tl.float32)
    for start in range(0, n, ROWS):
        rows = start + tl.arange(0, ROWS)
        weights, slope, grad = _slope(
            u_ptr, w_ptr, v_ptr + batch * m * E, grad_ptr + batch * n * E, norm_ptr + batch * n, inner_ptr + batch * n,
            rows, columns, n, m, POWER, CAUSAL, D, E, WIDTH, ROWS, COLUMNS,
        )  # fmt: skip
        by_v += tl.dot(tl.trans(weights), grad, input_precision="ieee")
        for d in range(D):
            by_x = tl.sum(slope * _derivative(u_ptr, w_ptr, rows, columns, n, m, d, D), axis=0)
            held = tl.load(by_w_ptr + columns * D + d, mask=columns < m, other=0.0)
            tl.store(by_w_ptr + columns * D + d, held - by_x, mask=columns < m)
        tl.debug_barrier()
    tl.store(
        by_v_ptr + batch * m * E + columns[:, None] * E + features[None, :],
        by_v,
        mask=(columns < m)[:, None] & (features < E)[None, :],
    )


class _TritonAttention(torch.autograd.Function):
    """Attention of float32 queries (B, N, D), keys (B, M, D) and values (B, M, E), contiguous, D a multiple of 4."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor, v: Tensor, power: int, eps: float, causal: bool) -> Tensor:
        """Compute outputs and the logarithms of the sums of weights."""
        (batch, n, features), (m, width) = u.shape, v.shape[1:]
        log_eps = math.log(eps) if eps else -math.inf
        out, norm = u.new_empty(batch, n, width), u.new_empty(batch, n)
        ctx.constants = {
            "POWER": power, "CAUSAL": causal, "D": features, "E": width,
            "WIDTH": max(16, triton.next_power_of_2(width)), "ROWS": _ROWS, "COLUMNS": _COLUMNS,
        }  # fmt: skip
        _forward[(triton.cdiv(n, _ROWS), batch)](u, w, v, out, norm, n, m, log_eps, **ctx.constants)
        ctx.save_for_backward(u, w, v, out, norm)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Compute the gradients of queries, then of keys and values."""
        u, w, v, out, norm = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        inner = (grad * out).sum(dim=-1)
        by_u, by_w, by_v = torch.zeros_like(u), torch.zeros_like(w), torch.empty_like(v)
        (batch, n), m = u.shape[:2], w.shape[1]
        shared = (u, w, v, grad, norm, inner)
        _by_queries[(triton.cdiv(n, _ROWS), batch)](*shared, by_u, n, m, **ctx.constants)
        _by_keys[(triton.cdiv(m, _COLUMNS), batch)](*shared, by_w, by_v, n, m, **ctx.constants)
        return by_u, by_w, by_v, None, None, None


def triton_attention(queries: Tensor, keys: Tensor, values: Tensor, power: int, eps: float, causal: bool) -> Tensor:
    """Attend with scaled queries (..., N, d), keys (..., M, d) and values (..., M, e) of equal leading dimensions."""
    more = -queries.shape[-1] % 4  # features of 0 have factor 1
    padded = (F.pad(queries, (0, more)), F.pad(keys, (0, more)), values)
    flat = [part.reshape(-1, *part.shape[-2:]).contiguous() for part in padded]
    out = _TritonAttention.apply(*flat, power, eps, causal)
    return out.unflatten(0, queries.shape[:-2])  # type: ignore[union-attr]
