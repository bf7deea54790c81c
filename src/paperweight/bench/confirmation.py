"""Whether other seeds confirm an official result, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from paperweight.bench.conclusion import Conclusion
from paperweight.bench.statistics import pairs_needed
from paperweight.bench.wording import number

__all__ = ["comparable", "confirmation"]


def comparable(official: Mapping[str, Any], conclusion: Conclusion) -> bool:
    """Return whether a weighing asks what an official result answers, tuned by its grids, with seeds not used by it.

    Args:
        official: The official result.
        conclusion: What follows from the weighing.
    """
    theirs, ours = official["measured"], conclusion.measured
    same = all(theirs[name] == ours[name] for name in ("budget", "data", "network"))
    apart = set(theirs["seeds"]).isdisjoint(ours["seeds"])
    grids = "tune" not in ours
    return same and grids and apart and official["concluded"]["method"] == conclusion.method


def confirmation(official: Mapping[str, Any], conclusion: Conclusion, *, stale: bool) -> str:
    """Return a line that compares the verdict on other seeds with the official one.

    Args:
        official: The official result.
        conclusion: What follows from the other seeds.
        stale: Whether what made the official result has changed since.

    Returns:
        Both verdicts, gains and intervals, and whether the new one confirms the old: the verdicts are the same, or the
        intervals overlap.
    """
    concluded = official["concluded"]
    old = next(found for found in concluded["metrics"][concluded["headline"]]["comparisons"] if found["primary"])
    new = conclusion.primary
    low, high = (float(end) for end in old["interval"])
    ends = (new.interval.low, new.interval.high)
    if len(conclusion.seeds) < pairs_needed():
        said = f"They are too few to confirm it; use at least {pairs_needed()}."
    elif old["verdict"] == new.verdict or (ends[0] <= high and low <= ends[1]):
        said = "They confirm it."
    else:
        said = "They do not confirm it: the verdicts differ and the intervals do not overlap."
    first = "Official result (stale)" if stale else "Official result"
    mine = _found(new.verdict, new.gain, *ends)
    official_one = _found(old["verdict"], float(old["gain"]), low, high)
    theirs = _seeds(official["measured"]["seeds"])
    return f"{first}, {theirs}: {official_one}; these seeds, {_seeds(conclusion.seeds)}: {mine}. {said}"


def _found(verdict: str, gain: float, low: float, high: float) -> str:
    return f"{verdict}, gain {number(gain)} ({number(low)} to {number(high)})"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
