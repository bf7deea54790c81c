"""A regression by kernels on features that depend on each other, where the theory of Fourier integrals lives."""

from collections.abc import Callable

import torch
from torch import Tensor

from paperweight.architecture._kernel_attention import Kernel
from paperweight.architecture.fourierformer import kernel_regression
from paperweight.loops import best_of
from paperweight.studies import Setting

__all__ = ["regression_error"]

_BANDWIDTHS = tuple(0.1 * 1.4**k for k in range(12))


def regression_error(kernel: Kernel, setting: Setting) -> tuple[float, float]:
    """Fit a function of five dependent features; give its error on test points and the bandwidth."""
    count = setting.pick(smoke=60, desk=600, gpu=4_000)
    generator = setting.generator("data")
    mixing = torch.eye(5) + 0.9 * torch.randn(5, 5, generator=generator)
    inputs = torch.randn(2 * count, 5, generator=generator) @ mixing
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    exact = torch.sin(inputs.sum(1) / 2) + inputs[:, 0] * inputs[:, 1] / 2
    targets = (exact + 0.1 * exact.std() * torch.randn(2 * count, generator=generator))[:, None]
    known, tuning, asked = (slice(0, count), slice(count, count + count // 2), slice(count + count // 2, None))

    def error(bandwidth: float, part: slice, truth: Callable[[], Tensor]) -> float:
        found = kernel_regression(inputs[known], targets[known], inputs[part], kernel, bandwidth)[:, 0]
        return ((found - truth()).square().mean() / exact.var()).item()

    bandwidth = best_of(
        _BANDWIDTHS, lambda bandwidth: error(bandwidth, tuning, lambda: targets[tuning, 0]), better="lower"
    )
    return error(bandwidth, asked, lambda: exact[asked]), bandwidth
