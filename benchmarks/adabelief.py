"""What AdaBelief's step costs against that of torch's AdamW, fused and of foreach functions, in one process.

Blocks of steps take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks. All have the same
weight decay.

    python benchmarks/adabelief.py [--blocks 40] [--json PATH]
"""

from functools import partial

import torch
from alternating import Make, alternate, compare, report, tensors_step

from paperweight.optim.adabelief import AdaBelief

OPTIMIZERS: dict[str, Make] = {
    "adabelief": partial(AdaBelief, lr=1e-3, weight_decay=0.01),
    "fused": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, fused=True),
    "foreach": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, foreach=True),
}


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure the step alone on few long, many middling and few short tensors."""
    results: dict[str, dict[str, float]] = {}
    for count, size, steps in ((10, 1_000_000, 2), (200, 4096, 20), (6, 1024, 400)):
        runs = {name: tensors_step(make, count, size) for name, make in OPTIMIZERS.items()}
        times = alternate(runs, steps=steps, blocks=blocks)
        for rival in ("fused", "foreach"):
            results[f"{count} x {size:,}, to {rival} AdamW"] = compare(times, "adabelief", rival)
    return results


if __name__ == "__main__":
    report(__doc__, measure)
