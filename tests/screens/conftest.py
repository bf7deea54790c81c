"""Screens whose trials are drawn in place of trained: the course of a screen without its cost."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.screens.asking import Asked, Clock
from paperweight.screens.course import Course, Progress
from paperweight.studies import Recipe
from paperweight.studies.screening import BASELINE, HALF, ScreenData

RECIPE = Recipe(words="it does", line="do()", penalty=lambda model: torch.zeros(()))


@dataclass
class DrawnBench:
    """Draws the accuracy of a trial from the effect of its recipe, and counts seconds in place of spending them."""

    effects: Mapping[str, float]
    minutes: float = 10.0
    slow: Mapping[str, float] = field(default_factory=dict)
    misfits: Sequence[str] = ()
    failing: Sequence[str] = ()  # at full length
    interrupted_at: str = ""
    step_seconds: float = 0.004
    best: float = 0.05
    early: tuple[int, float] = (0, 0.05)  # up to so many updates another rate is best
    noise: float = 0.004
    least: float = 0.01
    interrupted: bool = False
    stages: list[str] = field(default_factory=list)
    told: list[Progress] = field(default_factory=list)
    asked: list[tuple[ScreenData, Asked]] = field(default_factory=list)
    seconds: Callable[..., float] = lambda _: 0.0
    tell: Callable[[int, int], None] = lambda _, __: None
    spent: float = 0.0
    kept: dict[Asked, TrialRecord] = field(default_factory=dict)  # the ledger

    def __post_init__(self) -> None:
        self.clock = Clock(60 * self.minutes)

    def record(self, data: ScreenData, asked: Asked) -> TrialRecord:
        arm, seed = asked
        self.asked.append((data, asked))
        spec = TrialSpec(study=data.study(), arm=arm.name, seed=seed, budget="desk")
        if arm.recipe in self.misfits:
            return TrialRecord(spec=spec, status="crashed", message="Traceback\nValueError: it has no convolutions")
        if arm.recipe in self.failing and data.judged:
            return TrialRecord(spec=spec, status="timed-out", message="it took more than 60 seconds")
        draw = random.Random(f"{arm.recipe} {seed} {arm.steps} {arm.lr}")
        best = self.early[1] if arm.steps <= self.early[0] else self.best
        best = best if arm.optimizer == "sgd" else best / 12
        loss = 0.02 * abs(math.log(arm.lr / best)) if data.judged is False else 0.0
        effect = {HALF: -0.03, BASELINE: 0.0}.get(arm.recipe, 0.0) + self.effects.get(arm.recipe, 0.0)
        accuracy = 0.9 - loss + effect + draw.gauss(0, self.noise) + (0.005 if arm.optimizer == "sgd" else 0.0)
        seconds = 0.2 + self.step_seconds * arm.steps * self.slow.get(arm.recipe, 1.0)
        self.clock.seconds -= seconds / 2
        metrics = {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy}
        if data.judged:
            metrics |= {"accuracy": accuracy, "test_loss": 1 - accuracy}
        arguments = {
            "training_examples": 8_000,
            "validation_examples": 2_000,
            "loading_seconds": 0.05,
            "training_seconds": seconds - 0.2,
            "steps": arm.steps,
        }
        return TrialRecord(
            spec=spec,
            status="finished",
            metrics=metrics,
            arguments=arguments,
            wall_seconds=seconds,
            cpu_seconds=seconds,
            message="toy: 8000 / 2000 / 4000 images",
        )

    def run(self, data: ScreenData, every: Sequence[Asked], want: object = None) -> dict[Asked, TrialRecord]:
        latest: dict[Asked, TrialRecord] = {}
        queue: list[Asked] = []
        while not self.interrupted and self.clock.left > 0:
            plan = every if want is None else want(latest)
            plan = [asked for asked in plan if asked in latest or self.seconds(asked[0]) <= self.clock.left]
            self.tell(sum(asked in latest for asked in plan), len(plan))
            wanted = set(plan)
            while queue and (queue[0] not in wanted or queue[0] in latest):
                queue.pop(0)
            if not queue:  # as an engine does, which takes all that is wanted, and looks for more once that is done
                queue = [asked for asked in plan if asked not in latest]
            if not queue:
                break
            asked = queue.pop(0)
            latest[asked] = self.kept[asked] = self.kept.get(asked) or self.record(data, asked)
            if self.stages and self.interrupted_at and self.stages[-1].startswith(self.interrupted_at):
                self.interrupted = True
        if want is not None:
            latest |= {asked: self.kept[asked] for asked in every if asked in self.kept}
            want(latest)
        return latest

    def course(self, recipes: Sequence[str], *, target: str | None = None, after: Course | None = None) -> Course:
        def told(progress: Progress) -> None:
            self.stages.append(progress.stage)
            self.told.append(progress)

        data = ScreenData(train=10_000, used=10_000, validation=3_000, test=7_000, batch_size=64, target=target)
        course = Course(
            self,  # pyright: ignore[reportArgumentType]
            data,
            dict.fromkeys(recipes, RECIPE),
            jobs=2,
            planned=None if after is None else after.planned,
            waves=() if after is None else after.waves,
            least=self.least,
            tell=told,
        )
        course.go(keep=lambda: None)
        return course


@pytest.fixture
def drawn() -> type[DrawnBench]:
    return DrawnBench
