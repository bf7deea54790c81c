"""Screens of recipes whose effects are known: how often a verdict is false, and how many of the true helpers are found.

python benchmarks/screen_errors.py [--screens N] [--jobs N]

Each screen has 40 recipes and the computing time that a plan of the screen reckons with: tries at a quarter of the
steps, the race at a half, and as many full trainings as twelve pairs of eight recipes and the controls take; others
begin where two or fewer recipes are open and as many pairs of them as may decide have time. The
decisions are those of `paperweight.screens`; only accuracies are drawn. A recipe shares its baseline's luck in none of
it: the two accuracies of a pair vary independently, each with the given deviation, and a race on validation examples
is noisier. Effects at fewer steps are smaller. In the first rows nothing has an effect; then five recipes help by two
points.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from paperweight.bench.anytime import log_evidence
from paperweight.screens.confirmation import IDENTITY_PAIRS
from paperweight.screens.evidence import Series
from paperweight.screens.plan import CONTROLS, MOST_CONFIRMED, PAIRS, RACE_SEEDS, TRIES
from paperweight.screens.racing import far_behind, leaders

RECIPES, HELPERS, EFFECT, HALF = 40, 5, 0.02, -0.02
EXAMPLES, LEVEL = 1_000, 0.9
FEW = 2
MINIMAL = 0.01


def draw_noise(draw: np.random.Generator, law: str, deviation: float, shape: tuple[int, ...]) -> np.ndarray:
    """Return the luck of trainings."""
    if law == "normal":
        return deviation * draw.standard_normal(shape)
    if law == "Student t3":
        return deviation * draw.standard_t(3, shape) / np.sqrt(3)
    return deviation * (draw.exponential(1.0, shape) - 1.0)


def screened(law: str, deviation: float, helpers: int, seed: int) -> tuple[float, ...]:
    """Run one screen.

    Returns:
        False and true "helps", "hurts" of what does not, whether half of the data hurt, all verdicts, and the share of
        them that is wrong.
    """
    draw = np.random.default_rng(seed)
    names = [f"recipe {number}" for number in range(RECIPES)]
    effect = dict(zip(names, draw.permutation([EFFECT] * helpers + [0.0] * (RECIPES - helpers)), strict=True))
    validation = float(np.hypot(deviation, np.sqrt(LEVEL * (1 - LEVEL) / EXAMPLES)))

    def accuracy(gain: float, spread: float, count: int) -> np.ndarray:
        return LEVEL + gain + draw_noise(draw, law, spread, (count,))

    tried = {name: accuracy(0.5 * gain, validation, TRIES).max() for name, gain in effect.items()}
    best = accuracy(0.0, validation, TRIES).max()
    racing = [name for name in names if not far_behind(tried[name], best, EXAMPLES)]
    baseline = accuracy(0.0, validation, RACE_SEEDS)
    race = {name: (accuracy(0.75 * effect[name], validation, RACE_SEEDS) - baseline).tolist() for name in racing}
    order = leaders(race)
    first, waiting = order[:MOST_CONFIRMED], [*order[MOST_CONFIRMED:], *(name for name in names if name not in order)]
    series = Series(first, waiting, MINIMAL)
    trainings, pairs, half = PAIRS * (1 + CONTROLS + MOST_CONFIRMED), 0, list[float]()
    half_hurts = False
    while True:
        spent = 1 + (pairs < IDENTITY_PAIRS) + (not half_hurts)
        if waiting and len(series.open) <= FEW:
            fits = [
                count
                for count, wanted in enumerate(series.wanted(waiting), 1)
                if wanted * (spent + len(series.open) + count) <= trainings
            ]
            series.begin(waiting[: max(fits, default=0)])
            waiting = waiting[max(fits) :] if fits else []
        if not series.open or trainings < spent + len(series.open):
            break
        trainings -= spent + len(series.open)
        pairs += 1
        base = accuracy(0.0, deviation, 1)[0]
        if not half_hurts:
            half.append(accuracy(HALF, deviation, 1)[0] - base)
            half_hurts = bool(log_evidence(-np.array(half), 0.0)[-1] >= np.log(2 / 0.05))  # as its interval has it
        series.add({name: accuracy(effect[name], deviation, 1)[0] - base for name in series.open})
    found = series.verdicts
    helps = [name for name, verdict in found.items() if verdict == "helps"]
    true = sum(effect[name] > 0 for name in helps)
    hurts = sum(verdict == "hurts" for verdict in found.values())
    missed = sum(verdict == "no effect" and effect[name] > MINIMAL for name, verdict in found.items())
    false = len(helps) - true
    wrong = (false + hurts + missed) / max(1, len(found))
    return false, true, hurts, half_hurts, len(found), wrong


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    print(
        "| luck of a training | helpers | any false helps | any false hurts | helpers found | half of the data hurts | "
        "verdicts | wrong of them |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(given.jobs) as pool:
        for helpers in (0, HELPERS):
            for law in ("normal", "Student t3", "exponential"):
                for deviation in (0.003, 0.008):
                    run = partial(screened, law, deviation, helpers)
                    rows = np.array(list(pool.map(run, range(given.screens), chunksize=50)), dtype=float)
                    wrong, hurt = ((rows[:, column] > 0).mean() for column in (0, 2))
                    power = f"{rows[:, 1].mean():.2f} of {helpers}" if helpers else ""
                    print(
                        f"| {law}, deviation {deviation:g} | {helpers} | {wrong:.2%} | {hurt:.2%} | {power} | "
                        f"{rows[:, 3].mean():.1%} | {rows[:, 4].mean():.1f} | {rows[:, 5].mean():.2%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
