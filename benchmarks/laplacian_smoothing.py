"""What Laplacian smoothing costs: steps with it against steps of plain SGD, in one process.

Blocks of steps of both take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks.

    python benchmarks/laplacian_smoothing.py [--blocks 40] [--json PATH]
"""

import torch
from alternating import Make, alternate, compare, lenet_step, report, tensors_step

from paperweight.optim.laplacian_smoothing import LaplacianSmoothingSGD

OPTIMIZERS: dict[str, Make] = {
    "plain": lambda params: torch.optim.SGD(params, lr=1e-3, foreach=True),
    "smoothed": lambda params: LaplacianSmoothingSGD(params, lr=1e-3, sigma=1.0),
}


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure a whole training step, and the step alone on a long ring, also one of prime length."""
    whole = {name: lenet_step(make) for name, make in OPTIMIZERS.items()}
    results = {"LeNet, batch 128, whole step": compare(alternate(whole, steps=10, blocks=blocks), "smoothed", "plain")}
    for size in (1_000_000, 999_983):
        alone = {name: tensors_step(make, [size]) for name, make in OPTIMIZERS.items()}
        results[f"{size:,} in one tensor, step()"] = compare(
            alternate(alone, steps=5, blocks=blocks), "smoothed", "plain"
        )
    return results


if __name__ == "__main__":
    report(__doc__, measure)
