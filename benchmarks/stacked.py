"""How many times as fast many seeds train at once, stacked by `fit_stacked`, as one after another by `fit_classifier`.

Blocks of both take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks, one after another
(ours in the table) over stacked.

    python benchmarks/stacked.py [--blocks 40] [--json PATH]
"""

from collections.abc import Callable
from functools import partial

import torch
from alternating import alternate, compare, report
from torch import Tensor, nn

from paperweight.loops import fit_classifier, fit_stacked, stacking_pays
from paperweight.nets import MLP, LeNet

STEPS = 100
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)


def data(seeds: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Give 512 normal inputs for each seed, labelled by the sign of the product of two entries."""
    inputs = torch.randn(seeds, 512, *shape, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.flatten(2)[..., 0] * inputs.flatten(2)[..., 1] > 0).long()


def row(build: Callable[[], nn.Module], make: partial, inputs: Tensor, labels: Tensor, batch: int, blocks: int) -> dict:
    """Compare both ways for one network."""
    seeds = len(inputs)
    torch.manual_seed(0)
    models, alone = [[build() for _ in range(seeds)] for _ in range(2)]
    draws = [torch.Generator().manual_seed(seed) for seed in range(seeds)]

    def stacked() -> None:
        fit_stacked(models, make, inputs, labels, steps=STEPS, batch_size=batch, generators=draws)

    def single() -> None:
        for seed, model in enumerate(alone):
            optimizer = make(list(model.parameters()))
            own = inputs[seed], labels[seed]
            fit_classifier(model, optimizer, *own, steps=STEPS, batch_size=batch, generator=draws[seed])

    times = alternate({"single": single, "stacked": stacked}, steps=1, blocks=blocks)
    return compare(times, "single", "stacked") | {
        "three_steps": stacking_pays(models, make, inputs, labels, batch_size=batch).ratio
    }


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure networks, numbers of seeds, batches and optimizers."""
    small: tuple[int, int, int] = (1, 1, 2)
    cases = [
        *(("2-32-32-2", partial(MLP, small, 2, (32, 32)), small, SGD, seeds, 16) for seeds in (1, 8, 64)),
        ("2-32-32-2", partial(MLP, small, 2, (32, 32)), small, ADAM, 64, 16),
        ("2-32-32-2", partial(MLP, small, 2, (32, 32)), small, SGD, 64, 64),
        ("LeNet", partial(LeNet, (1, 28, 28), 2), (1, 28, 28), SGD, 8, 32),
        ("784-512-512-2", partial(MLP, (1, 28, 28), 2, (512, 512)), (1, 28, 28), SGD, 8, 64),
    ]
    results: dict[str, dict[str, float]] = {}
    for name, build, shape, make, seeds, batch in cases:
        found = row(build, make, *data(seeds, shape), batch, blocks if shape == small else max(2, blocks // 4))
        results[f"{name}, {make.func.__name__}, batch {batch}, {seeds} seeds"] = found
    return results


if __name__ == "__main__":
    report(__doc__, measure)
