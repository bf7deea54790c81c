"""How a screen spends its time: from what a step costs here to the number of steps and of recipes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from paperweight.studies.screening import OPTIMIZERS

__all__ = [
    "CONTROLS",
    "MOST_CONFIRMED",
    "PAIRS",
    "RACE_RATES",
    "RACE_SEEDS",
    "TRIES",
    "Costs",
    "Plan",
    "affordable",
    "planned",
]

TRIES = 5
"""Learning rates that are tried of each optimizer and of each recipe."""

CONTROLS = 2
"""Trainings of a pair beside the baseline and the recipes."""

PAIRS = 12
"""Pairs that the time has to suffice for, of each of the recipes that are confirmed first."""

MOST_CONFIRMED = 8
"""Recipes that are confirmed first, at most."""

RACE_SEEDS = 2
RACE_RATES = 2

_FEWEST_STEPS = 60
_SHORTEST_TRY = 40  # after fewer, what learns slowly at first looks hopeless
_FEWEST_PASSES, _MOST_PASSES = 10, 100
_STRIDE = 20  # a multiple of it lets what works in cycles of 5, 10 or 20 steps end with one
_USABLE = 0.92  # of the time: the rest goes by while the last trials of a stage run alone


@final
@dataclass(frozen=True)
class Costs:
    """What a trial of the baseline takes, while as many run at once as will.

    Args:
        step: Seconds of a step.
        fixed: Seconds beside the steps: drawing the data, and evaluation.
    """

    step: float
    fixed: float

    def trial(self, steps: int, ratio: float = 1.0) -> float:
        """Return the seconds of a trial.

        Args:
            steps: Number of steps.
            ratio: What the recipe takes in multiples of the baseline.

        Example:
            >>> Costs(step=0.01, fixed=0.5).trial(100)
            1.5
        """
        return self.fixed + self.step * steps * ratio


@final
@dataclass(frozen=True)
class Plan:
    """Numbers of steps and seeds of each stage.

    Attributes:
        steps: Updates of a full training.
        tries: Rates that are tried of each recipe, at ``try_steps`` updates, and before, at ``race_steps``, of each
            optimizer of the baseline.
        try_steps: Updates of a try.
        race_steps: Updates of the race, on ``RACE_SEEDS`` seeds, at up to ``RACE_RATES`` rates.
        examples: Training examples: no more than a full training passes over ten times.
    """

    steps: int
    tries: int
    try_steps: int
    race_steps: int
    examples: int


def _seconds(plan: Plan, costs: Costs, recipes: int, confirmed: int, ratio: float) -> float:
    """Return the seconds of one core that a plan takes."""
    tuning = plan.tries * len(OPTIMIZERS) * costs.trial(plan.race_steps)
    tries = plan.tries * (costs.trial(plan.try_steps) + recipes * costs.trial(plan.try_steps, ratio))
    heats = RACE_SEEDS * RACE_RATES
    race = heats * (costs.trial(plan.race_steps) + recipes * costs.trial(plan.race_steps, ratio))
    pair = (1 + CONTROLS) * costs.trial(plan.steps) + confirmed * costs.trial(plan.steps, ratio)
    return tuning + tries + race + PAIRS * pair


def _of_steps(steps: int, recipes: int, examples: int, batch_size: int) -> Plan:
    def share(parts: int) -> int:
        return math.ceil(steps / parts / _STRIDE) * _STRIDE

    return Plan(
        steps=steps,
        tries=TRIES,
        try_steps=share(4) if recipes <= 12 else max(share(8), min(share(4), _SHORTEST_TRY)),
        race_steps=share(2),
        examples=min(examples, max(batch_size, steps * batch_size // _FEWEST_PASSES)),
    )


def planned(costs: Costs, *, seconds: float, jobs: int, recipes: int, examples: int, batch_size: int) -> Plan:
    """Return the plan with the longest full training for which the time suffices.

    Args:
        costs: What a trial of the baseline takes.
        seconds: The time that is left.
        jobs: Trials at once.
        recipes: Recipes to look at.
        examples: Training examples that there are.
        batch_size: Examples a step.

    Returns:
        The plan; with the shortest training that makes sense where the time is too short for it, and no more than a
        hundred passes over the data.

    Example:
        >>> plan = planned(Costs(0.005, 0.3), seconds=570, jobs=2, recipes=7, examples=10_000, batch_size=64)
        >>> plan.steps, plan.try_steps, plan.race_steps, plan.examples
        (960, 240, 480, 6144)
    """
    most = max(_FEWEST_STEPS, _MOST_PASSES * max(1, examples // batch_size)) // _STRIDE
    confirmed = min(recipes, MOST_CONFIRMED)
    fitting = _FEWEST_STEPS // _STRIDE
    for count in range(fitting, most + 1):
        plan = _of_steps(count * _STRIDE, recipes, examples, batch_size)
        if _seconds(plan, costs, recipes, confirmed, ratio=1.5) > _USABLE * seconds * jobs:
            break
        fitting = count
    return _of_steps(fitting * _STRIDE, recipes, examples, batch_size)


def affordable(
    costs: Costs,
    plan: Plan,
    *,
    seconds: float,
    jobs: int,
    ratios: Sequence[float],
    pairs: Sequence[int],
    controls: int = CONTROLS,
) -> int:
    """Return of how many recipes, in their order, there will be enough pairs in the time that is left.

    Args:
        costs: What a trial of the baseline takes.
        plan: The plan.
        seconds: The time that is left.
        jobs: Trials at once.
        ratios: What each recipe takes in multiples of the baseline.
        pairs: How many pairs each must have; as many as there are ratios.
        controls: Trainings of a pair beside the baseline and the recipes.

    Returns:
        Their number; 0 where the time does not suffice for one.
    """
    for count in range(len(ratios), 0, -1):
        pair = (1 + controls) * costs.trial(plan.steps) + sum(
            costs.trial(plan.steps, ratio) for ratio in ratios[:count]
        )
        if max(pairs[:count]) * pair <= seconds * jobs:
            return count
    return 0
