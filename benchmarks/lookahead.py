"""What Lookahead costs: steps with it against steps of its inner optimizer alone, in one process.

Blocks of whole cycles of both take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks.

    python benchmarks/lookahead.py [--blocks 40] [--json PATH]
"""

from collections.abc import Callable

import torch
from alternating import Make, Step, alternate, compare, lenet_step, report, tensors_step

from paperweight.optim.lookahead import Lookahead

CYCLE = 5
INNER: dict[str, Make] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-3),
}
TASKS: dict[str, Callable[[Make], Step]] = {
    "LeNet, batch 128, whole step": lenet_step,
    "1,000,000 in one tensor, step()": lambda make: tensors_step(make, [1_000_000]),
    "200 x 4,096, step()": lambda make: tensors_step(make, [4096] * 200),
}


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure every task with every inner optimizer."""
    results: dict[str, dict[str, float]] = {}
    for name, inner in INNER.items():
        for task, build in TASKS.items():
            runs = {
                "inner": build(inner),
                "lookahead": build(lambda params, inner=inner: Lookahead(inner(params), k=CYCLE)),
            }
            results[f"{name}: {task}"] = compare(alternate(runs, steps=3 * CYCLE, blocks=blocks), "lookahead", "inner")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
