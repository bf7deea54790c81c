"""What AdaBelief's step costs against that of torch's AdamW, fused and of foreach functions, in one process.

Blocks of steps of the optimizers take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks,
and the median over the blocks is reported with its quartiles. All have the same weight decay.

    python benchmarks/adabelief.py [--blocks 40] [--json PATH]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn import Parameter

from paperweight.optim.adabelief import AdaBelief

OPTIMIZERS: dict[str, Callable[[list[Parameter]], torch.optim.Optimizer]] = {
    "adabelief": partial(AdaBelief, lr=1e-3, weight_decay=0.01),
    "fused": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, fused=True),
    "foreach": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, foreach=True),
}
SHAPES = {"10 x 1,000,000": (10, 1_000_000, 2), "200 x 4,096": (200, 4096, 20), "6 x 1,024": (6, 1024, 400)}


def make_step(name: str, count: int, size: int) -> Callable[[], object]:
    """Make the step of an optimizer on normal weights with normal gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(size, generator=generator)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(size, generator=generator)
    return OPTIMIZERS[name](params).step


def block_time(step: Callable[[], object], steps: int) -> float:
    """Give the CPU milliseconds a step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps * 1e3


def measure(count: int, size: int, steps: int, blocks: int) -> dict[str, float]:
    """Give the median milliseconds a step, and the median ratios of neighbouring blocks."""
    runs = {name: make_step(name, count, size) for name in OPTIMIZERS}
    for step in runs.values():
        block_time(step, 3)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks):
        for name in sorted(runs, reverse=bool(block % 2)):
            times[name].append(block_time(runs[name], steps))
    result = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    for rival in ("fused", "foreach"):
        ratios = [ours / theirs for ours, theirs in zip(times["adabelief"], times[rival], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result |= {f"to_{rival}": middle, f"to_{rival}_low": low, f"to_{rival}_high": high}
    return result


def main() -> None:
    """Measure on one thread, print a table and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each optimizer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(*shape, arguments.blocks) for name, shape in SHAPES.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'one thread':18}{'AdaBelief ms':>13}{'to fused AdamW':>24}{'to foreach AdamW':>24}")
    for name, row in results.items():
        cells = (
            f"{row[f'to_{r}']:.2f} ({row[f'to_{r}_low']:.2f}-{row[f'to_{r}_high']:.2f})" for r in ("fused", "foreach")
        )
        print(f"{name:18}{row['adabelief_ms']:13.3f}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
