"""How often do verdicts lie? Studies in which nothing differs, by simulation.

Every arm of a null study, the baseline too, draws its values from one distribution, so that all gains have their centre
at zero; they are correlated, since all are differences to the same baseline. Counted are the false verdicts *helps* and
*hurts* of the primary comparison, each at most 2.5%, and the studies in which any secondary comparison is called one of
both, at most 5%. The smallest effect worth reporting is so small that nothing counts as *no effect*.

The verdicts are computed for many studies at once, from counts over all subsets of the pairs; some of each kind are
compared with those of the library.

    python benchmarks/verdict_errors.py [--studies 100000]
"""

import argparse
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paperweight.bench.statistics import compare

SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]] = {
    "normal": lambda draw, size: draw.normal(size=size),
    "uniform": lambda draw, size: draw.uniform(-1, 1, size=size),
    "exponential": lambda draw, size: draw.exponential(size=size),
    "Student t2": lambda draw, size: draw.standard_t(2, size=size),
    "seldom far off": lambda draw, size: draw.normal(size=size) * np.where(draw.random(size) < 0.1, 10.0, 1.0),
}
SETTINGS = ((8, 5, 3), (8, 2, 3), (10, 5, 3))
BLOCK = 2_000


class Errors(NamedTuple):
    """Shares of null studies with a false verdict."""

    helps: float
    hurts: float
    secondary: float


def verdicts(gains: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return +1 for helps, -1 for hurts and 0 otherwise, (studies, comparisons); the first comparison is the primary.

    Args:
        gains: (studies, comparisons, pairs).
    """
    studies, comparisons, pairs = gains.shape
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=pairs))[1:])
    sums = gains.reshape(-1, pairs) @ subsets.T
    parts = len(subsets) + 1
    below = ((sums <= 0).sum(axis=1) + 1).reshape(studies, comparisons)
    above = ((sums >= 0).sum(axis=1) + 1).reshape(studies, comparisons)
    p = 2 * np.minimum(below, above) / parts
    tail = int(0.025 * parts)
    sides = (below <= tail).astype(np.int8) - (above <= tail)
    order = p[:, 1:].argsort(axis=1, kind="stable")
    steps = np.take_along_axis(p[:, 1:], order, axis=1) <= 0.05 / np.arange(comparisons - 1, 0, -1)
    passed = np.empty_like(steps)
    np.put_along_axis(passed, order, np.logical_and.accumulate(steps, axis=1), axis=1)
    return sides * np.concatenate([p[:, :1] <= 0.05, passed], axis=1)


def false_verdicts(shape: str, *, studies: int, pairs: int, arms: int, metrics: int, checked: int = 10) -> Errors:
    """Simulate null studies and return how often their verdicts are false.

    Args:
        shape: The distribution of all values, one of ``SHAPES``.
        studies: Number of studies, a multiple of 2,000.
        pairs: Pairs a study.
        arms: Arms beside the baseline.
        metrics: Metrics; drawn apart.
        checked: How many studies of a block are compared with the library, those with a verdict first.
    """
    draw = np.random.default_rng([pairs, arms, metrics, *shape.encode()])
    found: list[NDArray[np.int8]] = []
    for _ in range(studies // BLOCK):
        values = SHAPES[shape](draw, (BLOCK, metrics, 1 + arms, pairs))
        gains = (values[:, :, 1:] - values[:, :, :1]).reshape(BLOCK, metrics * arms, pairs)
        block = verdicts(gains)
        for study in np.argsort(-np.abs(block).sum(axis=1), kind="stable")[:checked]:
            check(gains[study], block[study])
        found.append(block)
    told = np.concatenate(found)
    return Errors((told[:, 0] == 1).mean(), (told[:, 0] == -1).mean(), told[:, 1:].any(axis=1).mean())


def check(gains: NDArray[np.float64], told: NDArray[np.int8]) -> None:
    """Assert that the library gives the verdicts ``told`` for the gains of one study, (comparisons, pairs)."""
    by_key = {("metric", str(number)): each.tolist() for number, each in enumerate(gains)}
    library = compare(by_key, {"metric": 1e-9}, primary=("metric", "0"))
    words = {1: "helps", -1: "hurts", 0: "inconclusive"}
    assert [c.verdict for c in library.values()] == [words[int(sign)] for sign in told]


def main() -> None:
    """Print a row for each distribution and size of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    studies = parser.parse_args().studies
    print(f"{studies:,} null studies a row; arms beside the baseline\n")
    print("| values | pairs | arms x metrics | primary: false helps | false hurts | secondary: any false |")
    print("|---|---|---|---|---|---|")
    for pairs, arms, metrics in SETTINGS:
        for shape in SHAPES:
            found = false_verdicts(shape, studies=studies, pairs=pairs, arms=arms, metrics=metrics)
            shares = " | ".join(f"{share:.2%}" for share in found)
            print(f"| {shape} | {pairs} | {arms} x {metrics} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
