"""What a step of each element-wise optimizer costs against torch's AdamW, and against its twin in another package.

Blocks of steps take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks. All have the same
weight decay. The compilation of compiled steps, a minute or two for 200 tensors, is left out. Twins are those of
pytorch_optimizer, where ``requirements-strangers.txt`` is installed.

    python benchmarks/elementwise.py [--blocks 40] [--json PATH]
"""

from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from alternating import Make, alternate, compare, report, tensors_step

from paperweight.optim import AdaBelief, EXAdam, Grams

OURS: dict[str, Make] = {
    "AdaBelief": partial(AdaBelief, lr=1e-3, weight_decay=0.01),
    "EXAdam": partial(EXAdam, lr=1e-3, weight_decay=0.01),
    "Grams": partial(Grams, lr=1e-3, weight_decay=0.01),
}
SHAPES = {"10 x 1,000,000": [1_000_000] * 10, "200 x 4,096": [4096] * 200, "6 x 1,024": [1024] * 6}
STEPS = {"10 x 1,000,000": 2, "200 x 4,096": 20, "6 x 1,024": 400}


def rivals() -> dict[str, Make]:
    """Make torch's AdamW, fused and of foreach functions, and the twins that are installed."""
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    made: dict[str, Make] = {"fused AdamW": partial(adamw, fused=True), "foreach AdamW": partial(adamw, foreach=True)}
    if find_spec("pytorch_optimizer"):
        package = import_module("pytorch_optimizer")
        made |= {
            f"{name} of pytorch_optimizer": partial(getattr(package, name), lr=1e-3, weight_decay=0.01) for name in OURS
        }
    return made


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure the step alone on few long, many middling and few short tensors."""
    results: dict[str, dict[str, float]] = {}
    others = rivals()
    for shape, sizes in SHAPES.items():
        makes = others | OURS | {f"{name} compiled": partial(make, compiled=True) for name, make in OURS.items()}
        runs = {name: tensors_step(make, sizes) for name, make in makes.items()}
        times = alternate(runs, steps=STEPS[shape], blocks=blocks)
        for ours in OURS:
            results[f"{shape}: {ours} compiled / fused AdamW"] = compare(times, f"{ours} compiled", "fused AdamW")
            results[f"{shape}: {ours} / foreach AdamW"] = compare(times, ours, "foreach AdamW")
            if (twin := f"{ours} of pytorch_optimizer") in others:
                results[f"{shape}: {ours} / twin"] = compare(times, ours, twin)
    return results


if __name__ == "__main__":
    report(__doc__, measure)
