"""Weighing until it is decided: how often its verdicts lie, how soon they come, and what other designs would take.

python benchmarks/until_decided.py [--studies N] [--pairs N]

First, studies in which nothing differs, and those that differ by just the minimal effect, of four distributions: how
often is there a false verdict within so many pairs? Then true effects: the share decided and the mean number of pairs,
beside eight fixed pairs. Last, the effects that results/ hold: the mean trials of baseline and method until a
verdict, beside those of two independent groups, unpaired, of a size fixed for a power of 90% at the same 5%; and the
verdict that their own pairs give when each is looked at as it comes.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paperweight.bench.anytime import anytime_interval, anytime_p, log_evidence, pairs_needed
from paperweight.bench.conclusion import Conclusion
from paperweight.bench.loading import load_study
from paperweight.bench.statistics import compare, sign_flip_p

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]

DRAWS: dict[str, Draw] = {
    "normal": lambda draw, shape: draw.standard_normal(shape),
    "uniform": lambda draw, shape: draw.uniform(-math.sqrt(3), math.sqrt(3), shape),
    "Student t2": lambda draw, shape: draw.standard_t(2, shape),
    "seldom far off": lambda draw, shape: (
        draw.standard_normal(shape) * np.where(draw.random(shape) < 0.1, 10.0, 1.0) / math.sqrt(10.9)
    ),
}
EFFECTS = (0.5, 1.0, 2.0, 4.0)
WANTED = math.log(40)
NORMAL_975, NORMAL_90 = 1.959964, 1.281552


def first(series: NDArray[np.float64], centre: float) -> float:
    """Return after how many pairs a centre and all below it are refuted."""
    reached = log_evidence(series, centre) >= WANTED
    return float(reached.argmax() + 1) if reached.any() else math.inf


def ends(series: NDArray[np.float64], smallest: float) -> tuple[str, float]:
    """Return the verdict and the number of pairs after which it is there."""
    found = {
        "helps": first(series, 0.0),
        "hurts": first(-series, 0.0),
        "no effect": max(first(series, -smallest), first(-series, -smallest)),
    }
    verdict = min(found, key=found.__getitem__)
    return (verdict, found[verdict]) if math.isfinite(found[verdict]) else ("inconclusive", math.inf)


def share(verdicts: list[str], verdict: str) -> str:
    """Return a share in percent."""
    return f"{100 * verdicts.count(verdict) / len(verdicts):.2f}%"


def lies(studies: int, pairs: int) -> None:
    """Print how often verdicts are false."""
    print(f"\n| differences | centre | false verdicts of {studies:,} studies within {pairs} pairs |")
    print("|---|---|---|")
    for name, values in DRAWS.items():
        draw = np.random.default_rng(0)
        null = [(first(s, 0.0) < math.inf, first(-s, 0.0) < math.inf) for s in values(draw, (studies, pairs))]
        helps, hurts = (100 * sum(side) / studies for side in zip(*null, strict=True))
        print(f"| {name} | 0 | helps {helps:.2f}%, hurts {hurts:.2f}% |")
        at_the_bound = [ends(series + 1.5, 1.5)[0] for series in values(draw, (studies, pairs))]
        print(
            f"| {name} | the minimal effect, 1.5 standard deviations | no effect {share(at_the_bound, 'no effect')} |"
        )


def power(studies: int, pairs: int) -> None:
    """Print how often and how soon true effects are found."""
    print(f"\n| differences | effect, deviations | decided within {pairs} pairs | mean pairs | by 8 fixed pairs |")
    print("|---|---|---|---|---|")
    for name, values in DRAWS.items():
        for effect in EFFECTS:
            draw = np.random.default_rng(1)
            drawn = values(draw, (studies, pairs)) + effect
            times = [first(series, 0.0) for series in drawn]
            mean = statistics.fmean(min(time, pairs) for time in times)
            fixed = [sign_flip_p(series[:8].tolist()) <= 0.05 and series[:8].mean() > 0 for series in drawn[:1000]]
            decided = 100 * sum(map(math.isfinite, times)) / studies
            print(f"| {name} | {effect:g} | {decided:.1f}% | {mean:.1f} | {100 * statistics.fmean(fixed):.1f}% |")


def results(pairs: int) -> None:
    """Print what the effects of the stored results would take."""
    print("\n| result | effect / paired deviation | correlation | trials until a verdict | unpaired, fixed | ratio |")
    print("|---|---|---|---|---|---|")
    ratios: list[float] = []
    for path in sorted(Path("results").glob("*/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found = Conclusion(load_study(path.stem).declaration, record["measured"])
        series = [(p.baseline, p.arm, p.gain) for p in found.pairs_of(found.method, found.study.headline)]
        if any(value is None or not math.isfinite(value) for each in series for value in each):
            continue
        base, arm, gain = np.array(series, dtype=np.float64).T
        deviation, centre = gain.std(ddof=1), gain.mean()
        smallest = found.study.metrics[found.study.headline].minimal_effect
        if not deviation > 0:
            continue
        variance = base.var(ddof=1) + arm.var(ddof=1)
        apart = abs(centre) if abs(centre) >= smallest else smallest
        unpaired = 2 * max(2, math.ceil((NORMAL_975 + NORMAL_90) ** 2 * variance / apart**2))
        draw = np.random.default_rng(2)
        drawn = draw.standard_normal((400, pairs)) * deviation + centre
        mine = 2 * statistics.fmean(min(ends(one, smallest)[1], pairs) for one in drawn)
        ratios.append(mine / unpaired)
        cells = (path.stem, f"{centre / deviation:.2f}", f"{np.corrcoef(base, arm)[0, 1]:.2f}")
        print(f"| {' | '.join(cells)} | {mine:.1f} | {unpaired:,} | {ratios[-1]:.3f} |")
    print(
        f"\nmedian ratio {statistics.median(ratios):.3f}; "
        f"at most a tenth in {sum(ratio <= 0.1 for ratio in ratios)} of {len(ratios)}"
    )


def before_and_after() -> None:
    """Print the verdicts that the pairs of the stored results give if they are looked at as they come."""
    print("\n| result | pairs | verdict | pairs until a verdict | that verdict |")
    print("|---|---|---|---|---|")
    for path in sorted(Path("results").glob("*/*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found = Conclusion(load_study(path.stem).declaration, record["measured"])
        smallest = found.study.metrics[found.study.headline].minimal_effect
        gains = [pair.gain for pair in found.pairs_of(found.method, found.study.headline)]
        verdict, used = "inconclusive", len(gains)
        for count in range(pairs_needed(), len(gains) + 1):
            compared = compare(
                {("", ""): gains[:count]}, {"": smallest}, ("", ""), interval=anytime_interval, p_value=anytime_p
            )
            if compared["", ""].verdict != "inconclusive":
                verdict, used = compared["", ""].verdict, count
                break
        print(f"| {path.stem} | {len(gains)} | {found.verdict} | {used} | {verdict} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=64)
    given = parser.parse_args()
    lies(given.studies, given.pairs)
    power(given.studies // 5, given.pairs)
    results(given.pairs)
    before_and_after()


if __name__ == "__main__":
    main()
