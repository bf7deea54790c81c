"""What Laplacian smoothing costs: a training step with it against one with torch's SGD, in one process.

Blocks of steps of the two optimizers take turns, on one CPU thread; each ratio is one of CPU times of neighbouring
blocks, and the median over the pairs is reported with its quartiles.

    python benchmarks/laplacian_smoothing.py [--blocks 40] [--json PATH]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import Parameter

from paperweight.nets import LeNet, count_parameters
from paperweight.optim.laplacian_smoothing import LaplacianSmoothingSGD

Optimizers = dict[str, Callable[[list[Parameter]], torch.optim.Optimizer]]
OPTIMIZERS: Optimizers = {
    "plain": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    "smoothed": lambda params: LaplacianSmoothingSGD(params, lr=1e-3, momentum=0.9, sigma=1.0),
}


def lenet_step(name: str) -> Callable[[], object]:
    """Make a training step of LeNet on a batch of 128 grey images of 28x28."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(128, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (128,), generator=generator)
    network = LeNet((1, 28, 28), 10)
    assert count_parameters(network) == 61_706
    optimizer = OPTIMIZERS[name](list(network.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def tensor_step(size: int) -> Callable[[str], Callable[[], object]]:
    """Make the optimizer's step alone, on one tensor."""

    def make(name: str) -> Callable[[], object]:
        weight = Parameter(torch.zeros(size))
        weight.grad = torch.randn(size, generator=torch.Generator().manual_seed(0))
        return OPTIMIZERS[name]([weight]).step

    return make


def block_time(step: Callable[[], object], steps: int) -> float:
    """Give the CPU milliseconds a step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps * 1e3


def measure(make: Callable[[str], Callable[[], object]], blocks: int, steps: int) -> dict[str, float]:
    """Give the median milliseconds a step of both, and the median ratio of neighbouring blocks."""
    runs = {name: make(name) for name in OPTIMIZERS}
    for step in runs.values():
        block_time(step, 3)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks):
        for name in sorted(runs, reverse=bool(block % 2)):
            times[name].append(block_time(runs[name], steps))
    ratios = [smoothed / plain for smoothed, plain in zip(times["smoothed"], times["plain"], strict=True)]
    return {
        "plain_ms": statistics.median(times["plain"]),
        "smoothed_ms": statistics.median(times["smoothed"]),
        "ratio": statistics.median(ratios),
        "ratio_low": statistics.quantiles(ratios, n=4)[0],
        "ratio_high": statistics.quantiles(ratios, n=4)[2],
    }


def main() -> None:
    """Measure on one thread, print a table and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each optimizer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {
        "LeNet, batch 128, whole step": measure(lenet_step, arguments.blocks, steps=10),
        "1,000,000 in one tensor, step()": measure(tensor_step(1_000_000), arguments.blocks, steps=5),
        "999,983 (a prime), step()": measure(tensor_step(999_983), arguments.blocks, steps=5),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'one thread':34}{'plain ms':>10}{'smoothed':>10}{'ratio':>8}{'quartiles':>16}")
    for name, row in results.items():
        spread = f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
        print(f"{name:34}{row['plain_ms']:10.3f}{row['smoothed_ms']:10.3f}{row['ratio']:8.3f}{spread:>16}")


if __name__ == "__main__":
    main()
