"""What the Fréchet distance costs against SciPy's square root of a matrix, and how far both are from the truth.

Blocks take turns, on one CPU thread each, BLAS included; each ratio is one of CPU times of neighbouring blocks, theirs
being the formula with `scipy.linalg.sqrtm`. The truth is known since both covariances have the same axes. Errors are
relative to the trace of the sum of both covariances.

    python benchmarks/frechet.py [--blocks 10] [--json PATH]
"""

from functools import partial

import torch
from alternating import alternate, compare, report
from scipy.linalg import sqrtm
from threadpoolctl import threadpool_limits
from torch import Tensor

from paperweight.gan.ttur import frechet_distance

Gaussians = tuple[Tensor, Tensor, Tensor, Tensor]


def with_sqrtm(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Compute the formula as it stands."""
    m1, c1, m2, c2 = (part.numpy() for part in (mean1, cov1, mean2, cov2))
    return float(((m1 - m2) ** 2).sum() + (c1 + c2 - 2 * sqrtm(c1 @ c2)).trace().real)


def spectra(size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the eigenvalues of pairs of covariances."""
    k = torch.arange(1, size + 1, dtype=torch.float64)
    half = (k <= size // 2).double()
    return {
        "conditions 2 and 2": (1 + k / size, 2 - k / size / 2),
        "eigenvalues 1 / k and 1 / k^2": (1 / k, 1 / k**2),
        "conditions 1e8 and 1e8": (10 ** (-8 * k / size), 10 ** (-8 * k / size).flip(0)),
        "conditions 1e8, common decay": (10 ** (-8 * k / size), 2 * 10 ** (-8 * k / size)),
        "one singular": (half / k, 1 / k),
        "both singular": (half, half / k),
    }


def gaussians(first: Tensor, second: Tensor) -> tuple[Gaussians, float]:
    """Turn eigenvalues into Gaussians with random common axes; return them and their distance."""
    size = len(first)
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    products = [(axes * values) @ axes.T for values in (first, second)]
    cov1, cov2 = ((product + product.T) / 2 for product in products)
    zero = torch.zeros(size, dtype=torch.float64)
    return (zero, cov1, zero, cov2), (first.sqrt() - second.sqrt()).square().sum().item()


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure time and error for several sizes and spectra."""
    results: dict[str, dict[str, float]] = {}
    for size, steps in ((84, 10), (512, 1)):
        for name, (first, second) in spectra(size).items():
            given, truth = gaussians(first, second)
            runs = {"ours": partial(frechet_distance, *given), "sqrtm": partial(with_sqrtm, *given)}
            with threadpool_limits(1):
                row = compare(alternate(runs, steps=steps, blocks=blocks), "ours", "sqrtm")
            scale = (first.sum() + second.sum()).item()
            errors = {f"{run}_error": abs(value() - truth) / scale for run, value in runs.items()}
            label = f"D = {size}, {name}"
            print(f"{label:48}errors: ours {errors['ours_error']:.0e}, sqrtm {errors['sqrtm_error']:.0e}")
            results[label] = row | errors
    return results


if __name__ == "__main__":
    report(__doc__, measure)
