"""How near to the best value a search by Optuna comes, and how near a grid of as many tries.

A learning rate between 0.001 and 1 whose best value is drawn anew each time; the distance is that of logarithms,
averaged over draws. Three shapes of the loss: a parabola; one that explodes from 1.5 times the best value on and is
infinite from 4 times on, as where training diverges; a flat one with noise, and a cliff from twice the best value on.

    python benchmarks/tuning.py [--draws 20]
"""

import argparse
import math
import random
from collections.abc import Callable
from statistics import mean

import numpy as np
import torch

from paperweight.loops import Search, tune

LOW, HIGH = 0.001, 1.0
Loss = Callable[[float], float]


def parabola(best: float) -> Loss:
    """Give a smooth loss."""
    return lambda rate: math.log(rate / best) ** 2


def diverging(best: float) -> Loss:
    """Give a loss that explodes above the best rate."""

    def loss(rate: float) -> float:
        if rate < 1.5 * best:
            return math.log(rate / best) ** 2
        return 1e6 * rate if rate <= 4 * best else math.inf

    return loss


def noisy(best: float) -> Loss:
    """Give a flat loss with noise of its own at each rate, and a step up above the best one."""

    def loss(rate: float) -> float:
        noise = random.Random(f"{best} {rate}").gauss(0, 0.003)
        return 0.5 + 0.05 * math.log(rate / best) ** 2 + 2 * (rate > 2 * best) + noise

    return loss


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="best values that are drawn")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print(f"{'loss':12}{'tries':>6}{'search':>9}{'grid':>9}")
    for shape in (parabola, diverging, noisy):
        for tries in (4, 6, 8, 12):
            found: dict[str, list[float]] = {"search": [], "grid": []}
            for seed in range(draws):
                best = math.exp(random.Random(seed).uniform(math.log(LOW), math.log(HIGH)))
                loss = shape(best)
                grid = tuple(np.geomspace(LOW, HIGH, tries).tolist())
                with Search(tries, seed):
                    searched = tune(grid, loss, lambda value: value, better="lower")
                tried = tune(grid, loss, lambda value: value, better="lower")
                for name, tuned in (("search", searched), ("grid", tried)):
                    found[name].append(abs(math.log(tuned.value / best)))
            print(f"{shape.__name__:12}{tries:6}{mean(found['search']):9.3f}{mean(found['grid']):9.3f}", flush=True)


if __name__ == "__main__":
    main()
