"""What ghost batch normalization costs against torch's batch normalization, forward and backward, in one process.

Blocks of steps take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks.

    python benchmarks/ghost_batch_norm.py [--blocks 40] [--json PATH]
"""

import torch
from alternating import Step, alternate, compare, report
from torch import nn

from paperweight.training import GhostBatchNorm

SHAPES = {
    "maps 256 x 16 x 28 x 28, parts of 64": ((256, 16, 28, 28), 64, 2),
    "maps 512 x 32 x 14 x 14, parts of 64": ((512, 32, 14, 14), 64, 2),
    "flat 2,048 x 256, parts of 128": ((2_048, 256), 128, 10),
    "flat 2,048 x 64, parts of 64": ((2_048, 64), 64, 20),
}


def forward_and_backward(layer: nn.Module, shape: tuple[int, ...]) -> Step:
    """Make a forward and a backward pass of a layer on normal inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    gradient = torch.randn(shape, generator=generator)

    def step() -> None:
        x.grad = None
        layer(x).backward(gradient)

    return step


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure both layers on maps and on flat features."""
    results: dict[str, dict[str, float]] = {}
    for name, (shape, ghost_size, steps) in SHAPES.items():
        plain = nn.BatchNorm1d(shape[1]) if len(shape) == 2 else nn.BatchNorm2d(shape[1])
        layers = {"plain": plain, "ghost": GhostBatchNorm(shape[1], ghost_size)}
        runs = {which: forward_and_backward(layer, shape) for which, layer in layers.items()}
        results[name] = compare(alternate(runs, steps=steps, blocks=blocks), "ghost", "plain")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
