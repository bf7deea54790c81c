"""The course of a screen: calibration, the baseline, tries of every recipe, the race, and confirmation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import final

from paperweight.bench.statistics import mean
from paperweight.bench.trial import FINISHED, TrialRecord
from paperweight.screens.asking import Asked, Bench
from paperweight.screens.confirmation import Confirmation
from paperweight.screens.outcome import Fate
from paperweight.screens.plan import (
    CONTROLS,
    MOST_CONFIRMED,
    PAIRS,
    RACE_SEEDS,
    TRIES,
    Costs,
    Plan,
    affordable,
    planned,
)
from paperweight.screens.racing import best_rate, far_behind, hopeless, leaders, next_rates
from paperweight.screens.readings import argument, failure, no_baseline, none_works, score, step_seconds
from paperweight.studies import Recipe
from paperweight.studies.screening import BASELINE, HALF, IDENTITY, OPTIMIZERS, TREES, ScreenArm, ScreenData

__all__ = ["Course", "Progress"]

_EXPLORED = 1000  # the first seed of those by which decisions are made; confirmation has seeds from 0
_CALIBRATED = 2000
_UNKNOWN = 1.5  # times the baseline's seconds: what a recipe is expected to take before it has run
_CALIBRATION = 2.0  # seconds of training by which a step is measured
_WARM = 8


@final
@dataclass(frozen=True)
class Progress:
    """How far a screen is.

    Attributes:
        stage: What it does, in a few words.
        done: Trials of this stage that are done.
        total: Trials of this stage; of confirmation at most.
        alive: Recipe to its mean gain so far, ``None`` before the first.
        left: Seconds that are left.
    """

    stage: str
    done: int
    total: int
    alive: Mapping[str, float | None]
    left: float


@final
class Course:
    """A screen on its way, and what it has found so far.

    Args:
        bench: What runs its trials.
        data: What they share.
        recipes: The recipes, by name.
        jobs: Trials at once.
        planned: What a trial costs and the plan, where it goes on; they are made anew where left out.
        waves: The recipes that are confirmed, wave by wave, as far as an earlier start has chosen them, so that the
            time that is left by then chooses no others.
        least: The smallest gain worth reporting, above 0.
        tell: Called after every trial.

    Attributes:
        planned: Costs and plan; ``None`` before they are made.
        waves: The recipes that are confirmed, wave by wave; empty before the race is over.
        optimizer: The baseline's optimizer, and the rates of each that were tried, with their scores.
        fates: Name to what became of each recipe.
        confirmation: The pairs; ``None`` before the first.
        baseline: The record of the baseline as it was chosen; ``None`` before.
    """

    def __init__(
        self,
        bench: Bench,
        data: ScreenData,
        recipes: Mapping[str, Recipe],
        *,
        jobs: int,
        planned: tuple[Costs, Plan] | None,
        waves: Sequence[Sequence[str]],
        least: float,
        tell: Callable[[Progress], None] | None,
    ) -> None:
        self.planned = planned
        self.waves = [list(names) for names in waves]
        self.optimizer = next(iter(OPTIMIZERS))
        self.scores: dict[str, dict[float, float]] = {}
        self.lr: float | None = None
        self.baseline: TrialRecord | None = None
        self.fates = {name: Fate(name, each.words, each.line, each.slots, "waiting") for name, each in recipes.items()}
        self.confirmation: Confirmation | None = None
        self.records: dict[Asked, TrialRecord] = {}
        self._bench = bench
        self._data = data
        self._recipes = recipes
        self._jobs = jobs
        self._least = least
        self._tell = tell
        self._ratios: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._margins: dict[str, float | None] = {}

    def go(self, keep: Callable[[], None]) -> None:
        """Go through all stages, as long as there is time.

        Args:
            keep: Called once costs and plan are made, and each time that it is chosen which recipes are confirmed.

        Raises:
            InputError: If no trial of the baseline finished.
        """
        if self.planned is None:
            self.planned = self._calibrated()
            if self.planned is None:
                return
            keep()
        costs, plan = self.planned
        self._data = replace(self._data, used=plan.examples)
        self._bench.seconds = lambda arm: costs.trial(arm.steps, self._ratio(arm.recipe))
        start = self._choose_optimizer(plan)
        if start is None:
            return
        rest = self._raced(costs, plan, self._try_recipes(plan, start))
        if rest is not None and self.lr is not None:
            keep()
            self._confirm(costs, plan, self.lr, rest, keep)

    @property
    def decided(self) -> bool:
        """Whether nothing is left to be confirmed."""
        return self.confirmation is not None and not self.confirmation.open

    def _ratio(self, recipe: str) -> float:
        return 1.0 if recipe in (BASELINE, IDENTITY, HALF) else self._ratios.get(recipe, _UNKNOWN)

    def _run(self, stage: str, every: Sequence[Asked], *, judged: bool = False) -> dict[Asked, TrialRecord]:
        self._bench.tell = lambda done, total: self._say(stage, done, total, self._margins)
        return self._bench.run(replace(self._data, judged=judged), every)

    def _say(self, stage: str, done: int, total: int, alive: Mapping[str, float | None]) -> None:
        if self._tell is not None:
            self._tell(Progress(stage, done, total, alive, self._bench.clock.left))

    def _calibrated(self) -> tuple[Costs, Plan] | None:
        """Measure what a step takes, with as many trials at once as there will be, and plan by it."""

        def timed(steps: int) -> list[TrialRecord]:
            arm = ScreenArm(BASELINE, self.optimizer, OPTIMIZERS[self.optimizer][1], steps)
            seeds = range(_CALIBRATED, _CALIBRATED + self._jobs)
            found = self._run("measuring a step", [(arm, seed) for seed in seeds], judged=True)
            finished = [record for record in found.values() if record.status in FINISHED]
            if found and not finished:
                raise no_baseline(next(iter(found.values())))
            return finished

        few = timed(_WARM)
        if not few:
            return None
        many = timed(max(_WARM + 1, min(200, math.ceil(_CALIBRATION / max(1e-4, step_seconds(few))))))
        if not many:
            return None
        rest = median(record.wall_seconds - argument(record, "training_seconds") for record in many)
        loading = min(argument(record, "loading_seconds") for record in many)
        costs = Costs(step=step_seconds(many), fixed=max(0.0, rest) + loading + 0.05)
        return costs, planned(
            costs,
            seconds=self._bench.clock.left,
            jobs=self._jobs,
            recipes=len(self.fates),
            examples=round(argument(many[0], "training_examples")),
            batch_size=self._data.batch_size,
        )

    def _tries(
        self, stage: str, steps: int, starts: Mapping[str, tuple[str, str, float]]
    ) -> dict[str, dict[float, TrialRecord]]:
        """Try the same number of rates of each, until time is over or none of its first rates works.

        Args:
            stage: What this is.
            steps: Updates of a try.
            starts: Name to recipe, the baseline's optimizer, and the rate from which its tries start.
        """
        tried: dict[str, dict[float, TrialRecord]] = {name: {} for name in starts}
        while True:
            every: dict[Asked, str] = {}
            for name, (recipe, optimizer, start) in starts.items():
                scores = _scores(tried[name])
                if none_works(scores):
                    continue
                for rate in next_rates(scores, start)[: TRIES - len(scores)]:
                    every[ScreenArm(recipe, optimizer, rate, steps), _EXPLORED] = name
            fresh = {asked: name for asked, name in every.items() if asked[0].lr not in tried[name]}
            found = self._run(stage, list(fresh))
            for asked, record in found.items():
                tried[fresh[asked]][asked[0].lr] = record
            self._note_margins(tried)
            if not fresh or len(found) < len(fresh):
                return tried

    def _note_margins(self, tried: Mapping[str, Mapping[float, TrialRecord]]) -> None:
        """Note by how much the best try of each recipe is ahead of the baseline's."""
        usual = max(_scores(tried.get(BASELINE, {})).values(), default=-math.inf)
        if not math.isfinite(usual):
            return
        for name in self.fates.keys() & tried.keys():
            scores = _scores(tried[name]).values()
            if not scores or max(scores) > -math.inf:
                self._margins[name] = max(scores) - usual if scores else None
            else:
                self._margins.pop(name, None)

    def _choose_optimizer(self, plan: Plan) -> float | None:
        """Choose the baseline's optimizer by tries as long as the race, and return its best rate so far.

        A try of recipes is too short for a choice that every comparison rests on.
        """
        starts = {name: (BASELINE, name, start) for name, (_, start) in OPTIMIZERS.items()}
        tried = self._tries("tuning the baseline", plan.race_steps, starts)
        self.scores = {name: _scores(found) for name, found in tried.items()}
        best = {name: max(scores.values(), default=-math.inf) for name, scores in self.scores.items()}
        self.optimizer = max(best, key=lambda name: best[name])
        if not all(len(scores) == TRIES or none_works(scores) for scores in self.scores.values()):
            return None
        start = best_rate(self.scores[self.optimizer])
        self.baseline = tried[self.optimizer][start]
        if self.baseline.status not in FINISHED:
            raise no_baseline(self.baseline)
        return start

    def _try_recipes(self, plan: Plan, start: float) -> dict[str, list[float]]:
        """Try rates of the baseline and of each recipe alike, and return those that each races at.

        Args:
            plan: The plan.
            start: The baseline's best rate so far.

        Returns:
            Name to the best rate of its tries, and the one that they started from; of what is not far behind.
        """
        starts = {BASELINE: (BASELINE, self.optimizer, start)}
        starts |= {name: (name, self.optimizer, each.lr or start) for name, each in self._recipes.items()}
        tried = self._tries("trying rates of each recipe", plan.try_steps, starts)
        usual = _scores(tried[BASELINE])
        if len(usual) < TRIES or none_works(usual):
            return {}
        seconds = median(record.cpu_seconds for record in tried[BASELINE].values() if record.status in FINISHED)
        examples = round(argument(tried[BASELINE][best_rate(usual)], "validation_examples"))
        racing: dict[str, list[float]] = {}
        for name, (_, _, first) in starts.items():
            scores = _scores(tried[name])
            finished = [record for record in tried[name].values() if record.status in FINISHED]
            if scores and not finished:
                reason = failure(next(iter(tried[name].values())))
                self.fates[name] = replace(self.fates[name], stage="misfit", reason=reason)
            elif len(scores) == TRIES:
                best = best_rate(scores)
                reason = far_behind(scores[best], max(usual.values()), examples)
                if not reason:
                    racing[name] = list(dict.fromkeys([best, next(rate for rate in scores if _same(rate, first))]))
                if name != BASELINE:
                    self._rates[name] = best
                    cost = self._ratios[name] = max(0.1, median(r.cpu_seconds for r in finished) / seconds)
                    tried_out = replace(self.fates[name], stage="tried", scores=scores, lr=best, cost=cost)
                    self.fates[name] = replace(tried_out, reason=reason)
        return racing

    def _raced(self, costs: Costs, plan: Plan, racing: Mapping[str, Sequence[float]]) -> list[str] | None:
        """Choose rates, drop the hopeless at half of the steps, choose what is confirmed first, and return the others.

        Args:
            costs: What a trial of the baseline takes.
            plan: The plan.
            racing: Name to the rates that it races at, the baseline among them.

        Returns:
            Those that the race left behind, the hopeless, and those that did not race, the best of each first; ``None``
            where the time did not suffice.
        """
        if BASELINE not in racing or any(fate.stage == "waiting" for fate in self.fates.values()):
            return None
        self._margins = {name: self._margins[name] for name in racing if name != BASELINE}
        seeds = range(_EXPLORED + 1, _EXPLORED + 1 + RACE_SEEDS)

        def arm(name: str, rate: float) -> ScreenArm:
            return ScreenArm(name, self.optimizer, rate, plan.race_steps)

        heats = [arm(name, rate) for name, rates in racing.items() for rate in rates]
        found = self._run("racing at half of the steps", [(each, seed) for seed in seeds for each in heats])
        if len(found) < RACE_SEEDS * len(heats):
            return None

        def results(name: str, rate: float) -> list[float]:
            return [score(found[arm(name, rate), seed]) for seed in seeds]

        rates = {name: max(tried, key=lambda rate: mean(results(name, rate))) for name, tried in racing.items()}
        self.lr = rates.pop(BASELINE)
        usual = results(BASELINE, self.lr)
        known = [place for place, value in enumerate(usual) if math.isfinite(value)]
        if not known:
            raise no_baseline(found[arm(BASELINE, self.lr), seeds[0]])
        gains: dict[str, tuple[float, ...]] = {}
        for name, rate in rates.items():
            own = results(name, rate)
            gains[name] = tuple(own[place] - usual[place] for place in known)
        self._rates |= rates
        lost, order = hopeless(gains), leaders(gains)
        if not self.waves or not set(self.waves[0]) <= set(order):
            leading = order[:MOST_CONFIRMED]
            count = self._affordable(costs, plan, leading, [PAIRS] * len(leading))
            self.waves = [order[: max(1, count)]]
        first = self.waves[0]
        if not {name for names in self.waves[1:] for name in names} <= set(self._rates) - set(first):
            self.waves = [first]
        for name, each in gains.items():
            dropped = _HOPELESS if all(map(math.isfinite, each)) else _FAILED
            behind = "others were ahead in the race, and the time does not suffice for more"
            reason = dropped if name in lost else "" if name in first else behind
            self.fates[name] = replace(self.fates[name], stage="raced", lr=rates[name], race=each, reason=reason)
        behind = sorted(lost, key=lambda name: -sum(gains[name]))
        far = sorted(set(self._rates) - set(gains), key=lambda name: -max((self.fates[name].scores or {}).values()))
        return [name for name in (*order, *behind, *far) if name not in first]

    def _affordable(
        self, costs: Costs, plan: Plan, names: Sequence[str], pairs: Sequence[int], controls: int = CONTROLS
    ) -> int:
        ratios = [self._ratios[name] for name in names]
        left = self._bench.clock.left
        return affordable(costs, plan, seconds=left, jobs=self._jobs, ratios=ratios, pairs=pairs, controls=controls)

    def _confirm(self, costs: Costs, plan: Plan, lr: float, rest: Sequence[str], keep: Callable[[], None]) -> None:
        """Train pairs wave by wave: where few of the recipes are still open, as many more begin as have time."""
        trees = [TREES] if self._data.target is not None else []
        rates = {BASELINE: lr, IDENTITY: lr, HALF: lr, **dict.fromkeys(trees, lr), **self._rates}
        arms = {name: ScreenArm(name, self.optimizer, rate, plan.steps) for name, rate in rates.items()}
        pairs = self.confirmation = Confirmation(arms, [*self.waves[0], *trees], rest, self._least)
        wave = 0
        while True:
            begun = {name for names in self.waves[: wave + 1] for name in names}
            waiting = [name for name in rest if name not in begun]
            self._pair(pairs, few=_FEW if waiting else 0)
            still = [name for name in pairs.series.open if name != TREES]
            if not waiting or len(still) > _FEW or self._bench.interrupted:
                break
            wave += 1
            if wave == len(self.waves):
                wanted = [*([0] * len(still)), *pairs.series.wanted(waiting)]
                controls = len(pairs.controls_open)
                count = self._affordable(costs, plan, [*still, *waiting], wanted, controls) - len(still)
                if count < 1:
                    break
                self.waves.append(waiting[:count])
                keep()
            pairs.series.begin(self.waves[wave])
        self._pair(pairs, few=0)

    def _pair(self, pairs: Confirmation, *, few: int) -> None:
        """Train pairs until all is decided, no more than a few recipes are open, or the time is over."""
        pairs.few = few

        def tell(done: int, total: int) -> None:
            gains = pairs.series.gains
            means = {name: mean(gains[name]) if gains[name] else None for name in pairs.series.open}
            self._say(f"confirming, {len(pairs.baseline)} pairs", done, total, means)

        self._bench.tell = tell
        self.records |= self._bench.run(replace(self._data, judged=True), pairs.every, pairs.want)
        pairs.want(self.records)


def _scores(tried: Mapping[float, TrialRecord]) -> dict[float, float]:
    return {rate: score(record) for rate, record in tried.items()}


def _same(rate: float, other: float) -> bool:
    return math.isclose(rate, other, rel_tol=1e-3)


_FEW = 2  # recipes that are open, when others begin
_HOPELESS = "it was behind the baseline in the race, by more than two standard errors"
_FAILED = "its training failed in the race"
