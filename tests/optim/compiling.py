"""The test of a compiled step that element-wise optimizers share."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compilation on a CPU needs a C++ compiler")
quietly = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compiled_equals_a_scalar_loop(
    make: Callable[..., torch.optim.Optimizer], loop: Callable[..., float], **options: Any
) -> None:
    """Step two compiled weights five times; compare each entry with a loop over numbers, and count compilations."""
    starts = [normal(3, 4), normal(5)]
    weights = [Parameter(start.clone()) for start in starts]
    method = make(weights, **options, compiled=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gradients = [[normal(start.numel(), seed=t).reshape(start.shape) for start in starts] for t in range(5)]
    for given in gradients:
        for weight, gradient in zip(weights, given, strict=True):
            weight.grad = gradient
        method.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for start, weight, *given in zip(starts, weights, *gradients, strict=True):
        columns = zip(start.flatten().tolist(), torch.stack(given).flatten(1).T.tolist(), strict=True)
        expected = torch.tensor([loop(x, g, **options) for x, g in columns], dtype=torch.float64)
        torch.testing.assert_close(weight.detach().flatten(), expected, rtol=1e-10, atol=1e-13)
