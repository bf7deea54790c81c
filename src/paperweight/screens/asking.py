"""The trials of a screen: what is asked of the bench, and no longer than the time lasts."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from paperweight.bench.engine import Engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.sharing import complete
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import interruption
from paperweight.studies.screening import ScreenArm, ScreenData

__all__ = ["Asked", "Bench", "Clock", "Want"]

Asked = tuple[ScreenArm, int]
"""An arm and a seed."""

Want = Callable[[Mapping[Asked, TrialRecord]], Sequence[Asked]]
"""Maps what is done to all that is wanted, that which is done included."""


@final
class Clock:
    """The time of a screen.

    Args:
        seconds: How long it may last.
        started: When it began, by `time.monotonic`; now where left out.
    """

    def __init__(self, seconds: float, started: float | None = None) -> None:
        self.seconds = seconds
        self._started = time.monotonic() if started is None else started

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds that are left, below zero after the end."""
        return self.seconds - self.spent


@final
@dataclass
class Bench:
    """What runs the trials of a screen.

    Attributes:
        ledger: Where they are kept.
        engine: What runs them.
        spec: What all trials have alike; study, arm and seed are filled in.
        clock: The time. No trial begins that would not end in it.
        seconds: Gives the seconds that an arm's trial is expected to take.
        tell: Called after every trial with the numbers of those done and of all in this stage.
        interrupted: Whether a person has stopped it.
    """

    ledger: Ledger
    engine: Engine
    spec: TrialSpec
    clock: Clock
    seconds: Callable[[ScreenArm], float] = field(default=lambda _: 0.0)
    tell: Callable[[int, int], None] = field(default=lambda _, __: None)
    interrupted: bool = False

    @property
    def over(self) -> bool:
        """Whether no more trials are to begin."""
        return self.interrupted or self.clock.left <= 0

    def run(self, data: ScreenData, every: Sequence[Asked], want: Want | None = None) -> dict[Asked, TrialRecord]:
        """Run trials and return the records of those that were wanted and had time, or that are there from before.

        Args:
            data: What they share.
            every: All that may be wanted, in the order in which they are to start.
            want: Says which of them are wanted, given what is done; all where left out.
        """
        specs = {asked: self._spec(data, asked) for asked in every}
        keys = {spec.key(): asked for asked, spec in specs.items()}
        latest: dict[Asked, TrialRecord] = {}

        def wanted(found: Mapping[str, TrialRecord]) -> list[TrialSpec]:
            latest.update({keys[key]: record for key, record in found.items()})
            now = every if want is None else want(latest)
            left = self.clock.left
            plan = [asked for asked in now if asked in latest or self.seconds(asked[0]) <= left]
            self.tell(sum(asked in latest for asked in plan), len(plan))
            return [specs[asked] for asked in plan]

        if self.over:
            wanted(self.ledger.find(list(specs.values())))
        elif every:
            try:
                complete(
                    self.ledger,
                    self.engine,
                    list(specs.values()),
                    baseline=every[0][0].name,
                    retry=False,
                    progress=None,
                    recording=False,
                    wanted=wanted,
                )
            except (KeyboardInterrupt, RuntimeError) as error:
                if interruption(error) is None:
                    raise
                self.interrupted = True
        return latest

    def _spec(self, data: ScreenData, asked: Asked) -> TrialSpec:
        arm, seed = asked
        return self.spec.model_copy(update={"study": data.study(), "arm": arm.name, "seed": seed})
