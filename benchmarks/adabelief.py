"""What AdaBelief's step costs against that of torch's AdamW, fused and of foreach functions, in one process.

Blocks of steps take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks. All have the same
weight decay. The compilation of the compiled step, a minute or two for 200 tensors, is left out.

    python benchmarks/adabelief.py [--blocks 40] [--json PATH]
"""

from functools import partial

import torch
from alternating import Make, alternate, compare, report, tensors_step

from paperweight.optim.adabelief import AdaBelief

OPTIMIZERS: dict[str, Make] = {
    "adabelief": partial(AdaBelief, lr=1e-3, weight_decay=0.01),
    "compiled": partial(AdaBelief, lr=1e-3, weight_decay=0.01, compiled=True),
    "fused": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, fused=True),
    "foreach": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, foreach=True),
}


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure the step alone on few long, many middling and few short tensors, and on all of them at once."""
    results: dict[str, dict[str, float]] = {}
    shapes = {"10 x 1,000,000": [1_000_000] * 10, "200 x 4,096": [4096] * 200, "6 x 1,024": [1024] * 6}
    shapes["all"] = [size for sizes in shapes.values() for size in sizes]
    for (name, sizes), steps in zip(shapes.items(), (2, 20, 400, 2), strict=True):
        runs = {optimizer: tensors_step(make, sizes) for optimizer, make in OPTIMIZERS.items()}
        times = alternate(runs, steps=steps, blocks=blocks)
        for ours in ("adabelief", "compiled"):
            for rival in ("fused", "foreach"):
                results[f"{name}, {ours} to {rival} AdamW"] = compare(times, ours, rival)
    return results


if __name__ == "__main__":
    report(__doc__, measure)
