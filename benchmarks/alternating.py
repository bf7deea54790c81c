"""What the benchmarks of optimizers share: steps to time, and blocks of them that take turns in one process."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn import Parameter

from paperweight.nets import LeNet

Step = Callable[[], object]
Make = Callable[[list[Parameter]], torch.optim.Optimizer]


def lenet_step(make: Make) -> Step:
    """Make a whole training step of LeNet on a batch of 128 grey images of 28x28."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(128, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (128,), generator=generator)
    torch.manual_seed(0)
    network = LeNet((1, 28, 28), 10)
    optimizer = make(list(network.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def tensors_step(make: Make, sizes: Sequence[int]) -> Step:
    """Make the optimizer's step alone, on normal weights with normal gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(size, generator=generator)) for size in sizes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(params).step


def block_time(step: Step, steps: int) -> float:
    """Give the CPU milliseconds a step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps * 1e3


def alternate(runs: Mapping[str, Step], *, steps: int, blocks: int) -> dict[str, list[float]]:
    """Give the CPU milliseconds a step of every block; the blocks take turns, and their order does, too."""
    for step in runs.values():
        block_time(step, steps)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks):
        for name in sorted(runs, reverse=bool(block % 2)):
            times[name].append(block_time(runs[name], steps))
    return times


def compare(times: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Give the median milliseconds of both, and the median and quartiles of the ratio of neighbouring blocks."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(times[ours], times[theirs], strict=True)], n=4)
    medians = {"theirs_ms": statistics.median(times[theirs]), "ours_ms": statistics.median(times[ours])}
    return medians | {"ratio": middle, "ratio_low": low, "ratio_high": high}


def report(description: str | None, measure: Callable[[int], dict[str, dict[str, float]]]) -> None:
    """Measure on one thread with the number of blocks asked for, print a table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(arguments.blocks)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{'one thread':48}{'theirs ms':>10}{'ours ms':>10}{'ratio':>8}{'quartiles':>14}")
    for name, row in results.items():
        spread = f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
        print(f"{name:48}{row['theirs_ms']:10.3f}{row['ours_ms']:10.3f}{row['ratio']:8.3f}{spread:>14}")
