"""Fourier attention against hand-computed values, a loop in higher precision, its Gaussian limit and its variance."""

import copy
import math
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture._fourier_chunks import cot_less_inverse
from paperweight.architecture.fourierformer import (
    FourierAttention,
    FourierTransformerEncoderLayer,
    KeyValueCache,
    attention_entropy,
    fourier_attention,
    fourier_features,
    fourier_kernel,
    fourierize,
    head_redundancy,
    kernel_attention,
    kernel_regression,
    linear_fourier_attention,
)
from paperweight.nets import ViT
from paperweight.testing import FunctionSubject, LayerSubject

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


class SelfAttention(nn.Module):
    def __init__(self, **given) -> None:
        super().__init__()
        self.inner = FourierAttention(**{"dim": 8, "num_heads": 2, **given})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.inner(x, x, x)


POWERS = (0, 1, 3, -2, 2.0)
TOKENS = {"q": normal(2, 3, 4), "k": normal(2, 5, 4, seed=1), "v": normal(2, 5, 3, seed=2)}
CONTRACT = {
    "FourierAttention": LayerSubject(
        make=SelfAttention,
        inputs=(normal(2, 3, 8, dtype=torch.float32),),
        shape=((2, 3, 8), (2, 3, 3)),
        parameter_count=4 * 64 + 4 * 8 + 1,
        bad={
            "dim": (0, 7, 8.0),
            "num_heads": (0, 3, 2.0),
            "power": POWERS,
            "radius": ("feature_head",),
            "radius_init": (0.0, -1.0, math.inf, math.nan),
            "attn_drop": (-0.1, 1.0, math.nan),
            "eps": (-1e-6, math.nan),
        },
    ),
    "FourierTransformerEncoderLayer": LayerSubject(
        make=partial(FourierTransformerEncoderLayer, d_model=8, nhead=2, dim_feedforward=16, dropout=0.0),
        inputs=(normal(2, 3, 8, dtype=torch.float32),),
        shape=(2, 3, 8),
        parameter_count=4 * 64 + 4 * 8 + 1 + 2 * 8 * 16 + 16 + 8 + 4 * 8,
        bad={"dropout": (-0.1, 1.0), "power": POWERS, "radius": ("all",), "radius_init": (0.0,)},
        expected_failures={"check_keeps_arguments": "torch's own layer has parts of the names dropout and activation"},
    ),
    "fourier_kernel": FunctionSubject(
        make=fourier_kernel,
        arguments={"q": TOKENS["q"], "k": TOKENS["k"]},
        bad={
            "power": POWERS,
            "q": (torch.zeros(3, 5), torch.zeros(4)),
            "k": (torch.zeros(5, 3),),
            "radius": (torch.ones(2, 3),),
        },
    ),
    "fourier_attention": FunctionSubject(
        make=fourier_attention,
        arguments=TOKENS,
        bad={
            "power": POWERS,
            "eps": (-1e-6, math.nan),
            "dropout": (-0.1, 1.0),
            "chunk": (0, 1.5),
            "v": (torch.zeros(2, 4, 3),),
            "k": (torch.zeros(2, 5, 3),),
            "radius": (torch.ones(3),),
            "mask": (torch.ones(5).bool(), torch.ones(2, 5).bool(), torch.zeros(3, 5, requires_grad=True)),
        },
    ),
    "fourier_features": FunctionSubject(
        make=lambda **given: fourier_features(**{"generator": seeded(), **given}),
        arguments={"x": TOKENS["q"], "count": 6},
        bad={"count": (0, 1.5), "power": POWERS},
    ),
    "linear_fourier_attention": FunctionSubject(
        make=lambda **given: linear_fourier_attention(**{"generator": seeded(), **given}),
        arguments=TOKENS,
        bad={"count": (0, 1.5), "power": POWERS, "eps": (0.0, -1.0, math.nan)},
    ),
    "kernel_attention": FunctionSubject(
        make=kernel_attention,
        arguments=TOKENS,
        bad={"kernel": ("softmax",)},
    ),
    "kernel_regression": FunctionSubject(
        make=kernel_regression,
        arguments={"inputs": normal(6, 2), "targets": normal(6, 1, seed=1), "queries": normal(4, 2, seed=2)},
        bad={"bandwidth": (0.0, -1.0, math.inf, math.nan), "targets": (torch.zeros(5, 1),), "kernel": ("box",)},
    ),
    "attention_entropy": FunctionSubject(
        make=attention_entropy,
        arguments={"weights": torch.tensor([[0.5, 0.5], [1.0, 0.0]])},
        bad={"weights": (torch.tensor([-0.1, 1.0]), torch.tensor([math.nan]))},
    ),
    "head_redundancy": FunctionSubject(
        make=head_redundancy,
        arguments={"outputs": normal(2, 3, 4, 5)},
        bad={"outputs": (torch.zeros(1, 4, 5), torch.zeros(4, 5)), "metric": ("l1",)},
    ),
    "fourierize": FunctionSubject(
        make=lambda model, **given: dict(fourierize(model, **given).state_dict()),
        arguments={"model": nn.Sequential(nn.MultiheadAttention(4, 2))},
        bad={
            "model": (nn.Linear(2, 2), nn.Sequential(nn.MultiheadAttention(4, 2, kdim=3))),
            "power": POWERS,
            "radius_init": (0.0,),
        },
    ),
}


# --- the kernel -------------------------------------------------------------------------------------------------------


def exact_kernel(q: Tensor, k: Tensor, radius: Tensor, power: int) -> list[list[mpmath.mpf]]:
    """Multiply the factors one by one with fifty digits."""
    with mpmath.workdps(50):
        rows = []
        for i in q.tolist():
            row = []
            for j in k.tolist():
                value = mpmath.mpf(1)
                for a, b, r in zip(i, j, radius.tolist(), strict=True):
                    x = mpmath.mpf(r) * (mpmath.mpf(a) - mpmath.mpf(b))
                    value *= (mpmath.sin(x) / x if x else 1) ** power
                row.append(value)
            rows.append(row)
    return rows


# Two numbers near 1/x, each rounded to half a unit of 2^-52 or 2^-23, differ by x/3: at 0.075 and 0.25 that is at most
# 2 * 0.5 * 2^-52 * 3 / 0.075^2 = 1.2e-13, and 2 * 0.5 * 2^-23 * 3 / 0.25^2 = 5.7e-6, relative; the series adds 6e-14.
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 2e-13), (torch.float32, 5.8e-6)])
def test_the_derivative_of_the_log_kernel_equals_one_with_fifty_digits_where_series_and_quotient_meet(dtype, error):
    x = torch.cat([torch.logspace(-6, 0, 400, dtype=DOUBLE), torch.linspace(0.07, 0.26, 400, dtype=DOUBLE)]).to(dtype)
    found = cot_less_inverse(x, x.sin(), x.cos())
    with mpmath.workdps(50):
        exact = [float(mpmath.cot(mpmath.mpf(each)) - 1 / mpmath.mpf(each)) for each in x.tolist()]
    assert (found.double() / torch.tensor(exact, dtype=DOUBLE) - 1).abs().max() < error


@pytest.mark.parametrize("power", [2, 4, 6])
def test_kernel_and_its_logarithm_equal_products_with_fifty_digits(power):
    q, k, radius = (
        2 * normal(3, 6),
        2 * normal(4, 6, seed=1),
        torch.tensor([0.3, 0.7, 1.0, 1.5, 2.0, 3.0], dtype=DOUBLE),
    )
    q[0] = k[1]
    q[1, :3] = k[2, :3] + torch.tensor([1e-9, 1e-5, 1e-3], dtype=DOUBLE)
    expected = exact_kernel(q, k, radius, power)
    values = torch.tensor([[float(value) for value in row] for row in expected], dtype=DOUBLE)
    logs = torch.tensor([[float(mpmath.log(value)) for value in row] for row in expected], dtype=DOUBLE)
    torch.testing.assert_close(fourier_kernel(q, k, radius, power), values, rtol=1e-12, atol=0)
    torch.testing.assert_close(fourier_kernel(q, k, radius, power, log=True), logs, rtol=1e-12, atol=1e-12)
    assert fourier_kernel(q, k, radius, power)[0, 1] == 1


def test_kernel_is_symmetric_even_and_does_not_change_with_a_shift():
    q, k = normal(5, 3), normal(6, 3, seed=1)
    kernel = fourier_kernel(q, k, 1.3)
    assert (kernel >= 0).all()
    assert (kernel <= 1).all()
    for other in (
        fourier_kernel(k, q, 1.3).T,
        fourier_kernel(-q, -k, 1.3),
        fourier_kernel(q + 0.7, k + 0.7, 1.3),
        fourier_kernel(q[:, [2, 0, 1]], k[:, [2, 0, 1]], 1.3),
        fourier_kernel(q, k, -1.3),
    ):
        torch.testing.assert_close(other, kernel, rtol=1e-9, atol=1e-12)


def test_small_differences_see_a_gaussian_to_fourth_order():
    x, zero = normal(1, 5), torch.zeros(1, 5, dtype=DOUBLE)
    errors = []
    for size in (0.2, 0.1):
        logs = fourier_kernel(size * x, zero, 1.5, 4, log=True).item()
        errors.append(abs(logs + 4 / 6 * (1.5 * size * x).square().sum().item()))
    assert 14 < errors[0] / errors[1] < 18  # halved differences, a sixteenth of the error


def test_a_single_radius_holds_for_every_feature():
    q, k = normal(3, 4), normal(3, 4, seed=1)
    one = fourier_kernel(q, k, torch.tensor([1.7], dtype=DOUBLE))
    torch.testing.assert_close(one, fourier_kernel(q, k, torch.full((4,), 1.7, dtype=DOUBLE)))
    torch.testing.assert_close(one, fourier_kernel(q, k, 1.7))


# --- attention --------------------------------------------------------------------------------------------------------


def by_loops(q, k, v, radius, power, eps, seen) -> Tensor:
    """Attend query by query and key by key, from the definition."""
    out = torch.zeros(len(q), v.shape[1], dtype=DOUBLE)
    for i in range(len(q)):
        total = eps
        for j in range(len(k)):
            if seen[i][j]:
                kernel = 1.0
                for x in ((q[i] - k[j]) * radius).tolist():
                    kernel *= (math.sin(x) / x if x else 1.0) ** power
                total += kernel
                out[i] += kernel * v[j]
        out[i] /= total
    return out


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_outputs_equal_loops_whatever_the_chunk(chunk, causal):
    q, k, v, radius = normal(5, 7), normal(6, 7, seed=1), normal(6, 2, seed=2), normal(7, seed=3).abs() + 0.2
    mask = normal(5, 6, seed=4) > -0.8
    seen = (mask & (torch.arange(6) <= torch.arange(5)[:, None] + 1)).tolist() if causal else mask.tolist()
    expected = by_loops(q, k, v, radius, 4, 1e-6, seen)
    for allowed in (mask, torch.zeros(5, 6, dtype=DOUBLE).masked_fill(~mask, -math.inf)):
        found = fourier_attention(q, k, v, radius, mask=allowed, causal=causal, chunk=chunk)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_many_pairs_go_in_chunks_by_themselves_and_few_do_not():
    q, k, v = normal(2, 300, 4), normal(2, 200, 4, seed=1), normal(2, 200, 3, seed=2)
    for rows in (300, 20):
        given = q[:, :rows], k, v
        torch.testing.assert_close(fourier_attention(*given), fourier_attention(*given, chunk=7))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 0.0, 0.3])
def test_gradients_of_queries_keys_values_and_radii_are_those_of_finite_differences(causal, eps):
    q, k, v = (part.requires_grad_() for part in (normal(2, 3, 5), normal(2, 4, 5, seed=1), normal(2, 4, 2, seed=2)))
    for shape in ((1,), (2, 1, 5)):
        radius = (normal(*shape, seed=3).abs() + 0.4).requires_grad_()
        attend = partial(fourier_attention, causal=causal, eps=eps, chunk=2)
        assert torch.autograd.gradcheck(attend, (q, k, v, radius))
    assert torch.autograd.gradcheck(lambda *given: fourier_kernel(*given, 2, log=True), (q, k, radius))


def test_gradients_under_a_mask_and_dropout_are_those_of_finite_differences():
    q, k, v = (part.requires_grad_() for part in (normal(4, 6), normal(5, 6, seed=1), normal(5, 3, seed=2)))
    mask = normal(4, 5, seed=4) > -0.5

    def attend(q, k, v):
        return fourier_attention(q, k, v, 0.8, mask=mask, dropout=0.4, chunk=3, generator=seeded(7))

    assert torch.autograd.gradcheck(attend, (q, k, v))
    assert not torch.equal(attend(q, k, v), fourier_attention(q, k, v, 0.8, mask=mask))


def test_dropout_leaves_the_mean_of_the_outputs():
    q, k, v = normal(1, 3), normal(8, 3, seed=1), normal(8, 1, seed=2)
    whole = fourier_attention(q, k, v)
    draws = torch.stack([fourier_attention(q, k, v, dropout=0.3, generator=seeded(seed)) for seed in range(2000)])
    assert (draws.mean(0) - whole).abs().item() < 4 * draws.std(0).item() / 2000**0.5
    assert draws.std() > 0.01


def test_at_a_zero_of_the_kernel_the_weight_is_zero_and_gradients_are_finite():
    q = torch.zeros(1, 2, requires_grad=True)
    k = torch.tensor([[math.pi, 0.3], [2 * math.pi, 0.0], [0.4, -0.2]], requires_grad=True)
    v = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    for eps in (1e-6, 0.0):
        out = fourier_attention(q, k, v, eps=eps)
        torch.testing.assert_close(out, torch.tensor([[5.0]]), rtol=1e-5, atol=1e-5)
        for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
            assert gradient.isfinite().all()
    exact = torch.tensor([[math.pi]], dtype=DOUBLE, requires_grad=True)
    kernel = fourier_kernel(torch.zeros(1, 1, dtype=DOUBLE), exact)
    assert kernel.item() < 1e-60
    assert torch.autograd.grad(kernel, exact)[0].abs().item() < 1e-40


def test_tiny_differences_have_the_gradient_of_the_series():
    """Of log K by q: -p R^2 (q - k) / 3 where the difference is small; cot x - 1/x has no digits left there."""
    x = torch.tensor([[1e-7], [1e-5], [1e-3], [0.05], [0.3]])
    x.requires_grad_()
    logs = fourier_kernel(x, torch.zeros(1, 1), 1.0, 4, log=True)
    (gradient,) = torch.autograd.grad(logs.sum(), x)
    for value, found in zip(x.flatten().tolist(), gradient.flatten().tolist(), strict=True):
        with mpmath.workdps(40):
            exact = float(4 * (mpmath.cot(mpmath.mpf(value)) - 1 / mpmath.mpf(value)))
        assert abs(found / exact - 1) < 2e-5


def test_far_from_every_key_the_output_fades_with_eps_and_does_not_without():
    q, v = torch.zeros(1, 32), torch.tensor([[1.0], [3.0]])
    k = torch.stack([torch.full((32,), 20.3), torch.full((32,), 20.3)])
    assert fourier_attention(q, k, v).abs().item() < 1e-6
    assert fourier_attention(q, k, v, eps=0.0).item() == pytest.approx(2.0)
    assert fourier_attention(q, k, v, mask=torch.tensor([[False, False]]), eps=0.0).item() == 0


def test_at_radius_near_zero_it_is_the_mean_and_weights_sum_to_what_eps_leaves():
    q, k, v = normal(3, 4), normal(5, 4, seed=1), normal(5, 2, seed=2)
    torch.testing.assert_close(
        fourier_attention(q, k, v, 1e-6), v.mean(0).expand(3, 2) * 5 / (5 + 1e-6), rtol=1e-9, atol=1e-9
    )
    total = fourier_kernel(q, k).sum(1)
    torch.testing.assert_close(fourier_attention(q, k, torch.ones(5, 1, dtype=DOUBLE))[:, 0], total / (total + 1e-6))


def test_low_precision_is_computed_in_float32():
    q, k, v = (part.bfloat16() for part in (normal(4, 8), normal(6, 8, seed=1), normal(6, 3, seed=2)))
    found = fourier_attention(q, k, v)
    assert found.dtype == torch.bfloat16
    assert torch.equal(fourier_kernel(q, k, 0.3), fourier_kernel(q.float(), k.float(), 0.3))
    assert torch.equal(found, fourier_attention(q.float(), k.float(), v.float()).bfloat16())


# --- modules ----------------------------------------------------------------------------------------------------------


def test_module_equals_its_heads_one_by_one():
    torch.manual_seed(0)
    layer = FourierAttention(6, num_heads=2, radius="head_feature", radius_init=1.4).double()
    with torch.no_grad():
        layer.radius_raw.add_(0.3 * normal(2, 1, 3, seed=5))
        layer.in_proj_bias.copy_(normal(18, seed=6))
    x, y = normal(2, 4, 6), normal(2, 5, 6, seed=1)
    out, weights = layer(x, y, y, average_attn_weights=False)
    q, k, v = (
        F.linear(part, weight, bias)
        for part, weight, bias in zip(
            (x, y, y), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    heads = []
    for number in range(2):
        own = slice(3 * number, 3 * number + 3)
        kernel = fourier_kernel(q[..., own], k[..., own], layer.radii[number, 0])
        heads.append(kernel / (kernel.sum(-1, keepdim=True) + 1e-6))
        torch.testing.assert_close(weights[:, number], heads[-1])
    mixed = torch.cat([head @ v[..., 3 * number : 3 * number + 3] for number, head in enumerate(heads)], dim=-1)
    torch.testing.assert_close(out, layer.out_proj(mixed))
    torch.testing.assert_close(layer(x, y, y)[1], weights.mean(1))


@pytest.mark.parametrize("kind", ["scalar", "head", "feature", "head_feature"])
def test_radii_start_where_told_and_stay_above_zero(kind):
    layer = FourierAttention(8, num_heads=2, radius=kind, radius_init=2.0)
    assert layer.radii.numel() == {"scalar": 1, "head": 2, "feature": 4, "head_feature": 8}[kind]
    torch.testing.assert_close(layer.radii, torch.full_like(layer.radii, 2.0))
    with torch.no_grad():
        layer.radius_raw.sub_(30.0)
    assert (layer.radii > 0).all()


def test_masks_are_those_of_torchs_attention():
    """Where torch's attention puts no weight, none is put here; its own weights are softmax weights."""
    torch.manual_seed(0)
    ours, theirs = FourierAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    x = normal(3, 4, 8, dtype=torch.float32)
    padding = torch.tensor([[False, False, True, True], [False] * 4, [True, False, False, False]])
    per_head = normal(6, 4, 4, seed=3) > 0.9
    for given in (
        {"key_padding_mask": padding},
        {"attn_mask": torch.ones(4, 4).triu(1).bool()},
        {"attn_mask": per_head, "key_padding_mask": padding},
        {"attn_mask": torch.zeros(4, 4).masked_fill(torch.eye(4).bool(), -math.inf)},
    ):
        found = ours(x, x, x, average_attn_weights=False, **given)[1]
        expected = theirs(x, x, x, average_attn_weights=False, **given)[1]
        rows = expected.isfinite().all(-1)
        assert torch.equal((found == 0)[rows], (expected == 0)[rows])
    causal = ours(x, x, x, is_causal=True, need_weights=False)[0]
    torch.testing.assert_close(causal, ours(x, x, x, attn_mask=torch.ones(4, 4).triu(1).bool())[0])


def test_layouts_without_batch_and_with_the_batch_second_agree():
    torch.manual_seed(0)
    first, second = FourierAttention(8, 2), FourierAttention(8, 2, batch_first=False)
    second.load_state_dict(first.state_dict())
    x = normal(3, 4, 8, dtype=torch.float32)
    out, weights = first(x, x, x)
    swapped = x.transpose(0, 1)
    torch.testing.assert_close(second(swapped, swapped, swapped)[0].transpose(0, 1), out)
    alone, alone_weights = first(x[1], x[1], x[1])
    torch.testing.assert_close(alone, out[1])
    torch.testing.assert_close(alone_weights, weights[1])
    with pytest.raises(ValueError, match="key must be tokens of 8 numbers"):
        first(x, x[..., :7], x)


def test_decoding_with_a_cache_gives_what_the_whole_text_gives():
    torch.manual_seed(0)
    layer = FourierAttention(8, 2, radius="head").eval()
    x = normal(3, 9, 8, dtype=torch.float32)
    whole = layer(x, x, x, is_causal=True, need_weights=False)[0]
    cache = KeyValueCache()
    parts = [
        layer(part, part, part, is_causal=True, need_weights=False, cache=cache)[0] for part in x.split([4, 1, 1, 3], 1)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert cache.length == 9
    with pytest.raises(ValueError, match="make a cache for each batch"):
        layer(x[:2], x[:2], x[:2], cache=cache)


def test_attention_dropout_is_for_training_only():
    torch.manual_seed(0)
    layer, x = FourierAttention(8, 2, attn_drop=0.5), normal(3, 4, 8, dtype=torch.float32)
    assert not torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.eval()
    assert torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])


def test_encoder_layer_is_torchs_with_another_attention():
    torch.manual_seed(0)
    for norm_first in (False, True):
        layer = FourierTransformerEncoderLayer(8, 2, 16, 0.0, "gelu", norm_first=norm_first).double()
        x = normal(3, 4, 8)
        attend = lambda y, layer=layer: layer.self_attn(y, y, y)[0]  # noqa: E731
        feed = lambda y, layer=layer: layer.linear2(F.gelu(layer.linear1(y)))  # noqa: E731
        if norm_first:
            y = x + attend(layer.norm1(x))
            expected = y + feed(layer.norm2(y))
        else:
            y = layer.norm1(x + attend(x))
            expected = layer.norm2(y + feed(y))
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer.eval()(x), expected)


def test_fourierize_swaps_every_attention_and_keeps_the_weights():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
    before = copy.deepcopy(encoder.state_dict())
    assert fourierize(nn.Sequential(nn.MultiheadAttention(4, 2, dropout=0.2)))[0].attn_drop == 0.2
    assert not fourierize(nn.Sequential(nn.MultiheadAttention(4, 2)))[0].batch_first
    swapped = fourierize(encoder, radius="head")
    assert swapped.layers[1].self_attn.radii.shape == (2, 1, 1)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    kept = {name: value for name, value in swapped.state_dict().items() if "radius_raw" not in name}
    assert kept.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    x, padding = normal(3, 4, 8, dtype=torch.float32), torch.tensor([[False] * 4, [False] * 3 + [True], [False] * 4])
    trained = swapped(x, src_key_padding_mask=padding)
    with torch.inference_mode():  # where torch's own layers would leave their modules aside
        torch.testing.assert_close(swapped.eval()(x, src_key_padding_mask=padding), trained)
    torch.testing.assert_close(trained[1, :3], swapped(x[1:2, :3])[0])


def test_fourierize_swaps_the_self_attention_of_a_vision_transformer():
    torch.manual_seed(0)
    model = ViT((1, 8, 8), 10, depth=2)
    swapped = fourierize(model, radius_init=1e-4)
    assert sum(parameter.numel() for parameter in swapped.parameters()) == 2 + sum(
        parameter.numel() for parameter in model.parameters()
    )
    x = normal(3, 5, 64, dtype=torch.float32)
    block = model.blocks[1].attention[1]
    value = block.project_in(x)[..., 128:]
    expected = block.project_out(value.mean(1, keepdim=True)).expand(3, 5, 64)
    torch.testing.assert_close(swapped.blocks[1].attention[1](x), expected, rtol=1e-4, atol=1e-4)
    logits = swapped(normal(2, 1, 8, 8, dtype=torch.float32))
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert all(parameter.grad is not None for parameter in swapped.parameters())


# --- other kernels, regression, redundancy ----------------------------------------------------------------------------


def test_dot_is_the_usual_attention_and_gaussian_the_same_for_equal_norms():
    q, k, v = normal(2, 3, 4), normal(2, 5, 4, seed=1), normal(2, 5, 3, seed=2)
    mask = normal(3, 5, seed=3) > -1
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(kernel_attention(q, k, v, "dot", mask), expected)
    q, k = 2 * F.normalize(q, dim=-1), 2 * F.normalize(k, dim=-1)
    torch.testing.assert_close(
        kernel_attention(q, k, v, "gaussian"), F.scaled_dot_product_attention(q, k, v), rtol=1e-6, atol=1e-6
    )


def test_any_kernel_will_do_and_the_fourier_kernel_is_one():
    q, k, v = normal(3, 4), normal(5, 4, seed=1), normal(5, 2, seed=2)
    found = kernel_attention(q, k, v, lambda q, k: fourier_kernel(q, k, 0.7, log=True))
    torch.testing.assert_close(found, fourier_attention(q, k, v, 0.7, eps=0.0))


def test_regression_is_a_weighted_mean_by_hand():
    """Weights exp(-1/2) and exp(-2) at distances 1 and 2, with d = 1 and bandwidth 1."""
    x, y = torch.tensor([[0.0], [3.0]], dtype=DOUBLE), torch.tensor([[10.0], [40.0]], dtype=DOUBLE)
    for bandwidth, scale in ((1.0, 1), (2.0, 4)):
        a, b = math.exp(-1 / 2 / scale), math.exp(-4 / 2 / scale)
        found = kernel_regression(x, y, torch.tensor([[1.0]], dtype=DOUBLE), bandwidth=bandwidth)
        assert found.item() == pytest.approx((10 * a + 40 * b) / (a + b), rel=1e-6)


def test_entropy_by_hand():
    weights = torch.tensor([[0.25, 0.25, 0.5, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([1.5 * math.log(2), math.log(4), 0.0])
    torch.testing.assert_close(attention_entropy(weights), expected)


def test_redundancy_of_heads_by_hand():
    same = torch.ones(2, 1, 3, 4)
    assert head_redundancy(same.expand(2, 3, 3, 4)).item() == 0
    heads = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    assert head_redundancy(heads).item() == pytest.approx((math.sqrt(2) + 1 + 1) / 3)
    assert head_redundancy(heads, "cosine").item() == pytest.approx(2 * math.sqrt(0.5) / 3)
    x = normal(1, 20, 3)
    rotation, _ = torch.linalg.qr(normal(3, 3, seed=1))
    turned = torch.stack([x[0], 2 * x[0] @ rotation + 1])
    assert head_redundancy(turned, "cka").item() == pytest.approx(1.0)  # blind to rotation, scale and shift
    a, b = (part.numpy() - part.numpy().mean(0) for part in (normal(20, 3, seed=2), normal(20, 3, seed=3)))
    gram = [part @ part.T for part in (a, b)]
    expected = np.sum(gram[0] * gram[1]) / (np.linalg.norm(gram[0]) * np.linalg.norm(gram[1]))
    assert head_redundancy(torch.from_numpy(np.stack([a, b])), "cka").item() == pytest.approx(expected)


# --- random features --------------------------------------------------------------------------------------------------


def test_random_features_have_the_kernel_as_mean_and_the_variance_in_closed_form():
    q, k, radius, count = normal(1, 3), normal(1, 3, seed=1), torch.tensor([0.5, 0.8, 0.3], dtype=DOUBLE), 5
    for power in (2, 4):
        draws = torch.stack(
            [
                fourier_features(q, count, radius, power, generator=seeded(seed))
                @ fourier_features(k, count, radius, power, generator=seeded(seed)).T
                for seed in range(4000)
            ]
        ).flatten()
        kernel = fourier_kernel(q, k, radius, power).item()
        variance = (1 + fourier_kernel(2 * q, 2 * k, radius, power).item() - 2 * kernel**2) / (2 * count)
        assert abs(draws.mean().item() - kernel) < 4 * math.sqrt(variance / 4000)
        assert draws.var().item() == pytest.approx(variance, rel=0.1)


def test_frequencies_have_the_density_of_a_spline():
    """A sum of p uniform numbers on [-1, 1] has variance p/3, kurtosis 3 - 6/(5p), and never leaves [-p, p]."""
    count = 200_000
    phases = fourier_features(torch.full((1, 1), 1e-3, dtype=DOUBLE), count, generator=seeded())
    frequency = torch.atan2(phases[0, count:], phases[0, :count]) / 1e-3
    assert frequency.abs().max() <= 4
    assert frequency.var().item() == pytest.approx(4 / 3, rel=0.01)
    kurtosis = (frequency.pow(4).mean() / frequency.pow(2).mean().square()).item()
    assert kurtosis == pytest.approx(float(3 - Fraction(6, 20)), rel=0.02)


def test_error_of_the_linear_version_falls_as_the_root_of_the_number_of_features():
    q, k, v = normal(20, 4), normal(30, 4, seed=1), normal(30, 2, seed=2)
    exact = fourier_attention(q, k, v, 0.5, eps=0.0)
    errors = []
    for count in (400, 6400):
        draws = [linear_fourier_attention(q, k, v, count, 0.5, generator=seeded(seed)) for seed in range(20)]
        errors.append(torch.stack([(draw - exact).square().mean() for draw in draws]).mean().sqrt().item())
    assert 3 < errors[0] / errors[1] < 5.3
    assert errors[1] < 0.03


# --- the kernel for GPUs ----------------------------------------------------------------------------------------------

INTERPRETED = """
import torch
from paperweight.architecture._fourier_chunks import chunked_attention
from paperweight.architecture._fourier_triton import triton_attention
for n, m, d, e, causal in ((40, 50, 5, 7, False), (33, 35, 16, 16, True)):
    generator = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(2, *shape, generator=generator).requires_grad_()
    tokens = draw(n, d), draw(m, d), draw(m, e)
    found, expected = (
        attend(*tokens, *rest)
        for attend, rest in (
            (triton_attention, (4, 1e-6, causal)),
            (lambda *given: chunked_attention(*given, causal=causal, dropout=0.0), (None, 4, 1e-6)),
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(out.square().sum(), tokens) for out in (found, expected)), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() < 5e-6 * theirs.abs().max()
print("equal")
"""


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import paperweight.architecture._fourier_triton as kernels
fixed = dict(POWER=4, CAUSAL=True, D=16, E=7, WIDTH=16, ROWS=32, COLUMNS=32)
for kernel in (kernels._forward, kernels._by_queries, kernels._by_keys):
    kinds = {"log_eps": "fp32", "n": "i32", "m": "i32", **dict.fromkeys(fixed, "constexpr")}
    signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
print("compiled")
"""


@pytest.mark.parametrize(
    ("script", "interpreted", "expected"), [(INTERPRETED, "1", "equal"), (COMPILED, "0", "compiled")]
)
def test_triton_kernels_equal_the_chunks_in_the_interpreter_and_compile_for_a_gpu(
    script, interpreted, expected, tmp_path
):
    pytest.importorskip("triton")
    environment = {"TRITON_INTERPRET": interpreted, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.stdout.strip() == expected, run.stderr


def test_without_a_gpu_triton_is_not_imported():
    code = (
        "import sys, torch; from paperweight.architecture import FourierAttention; x = torch.zeros(1, 3, 8); "
        "FourierAttention(8, 2)(x, x, x); sys.exit('triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_equals_the_chunks():
    q, k, v = (normal(2, 3, n, 16, seed=n, dtype=torch.float32).cuda().requires_grad_() for n in (100, 130, 130))
    found, expected = fourier_attention(q, k, v), fourier_attention(q, k, v, chunk=64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    pairs = zip(*(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, expected)), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
