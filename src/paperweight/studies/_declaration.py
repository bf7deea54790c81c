"""What a study declares and what one run of it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from paperweight.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BUDGETS", "DEFAULT_SEEDS", "Budget", "Metric", "Outcome", "Study"]

Budget = Literal["smoke", "desk", "gpu"]

BUDGETS: tuple[Budget, ...] = ("smoke", "desk", "gpu")

DEFAULT_SEEDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a trial measures, and how a difference in it is to be read.

    Args:
        label: A short name for tables and plots.
        unit: The unit, or a range such as ``"fraction"``; empty where the number has none.
        better: Which direction the claim calls better.
        minimal_effect: The smallest difference between two arms worth reporting, in the metric's unit; positive.

    Raises:
        InputError: If the minimal effect is not positive.
    """

    label: str
    unit: str
    better: Literal["higher", "lower"]
    minimal_effect: float

    def __post_init__(self) -> None:
        if not self.minimal_effect > 0:
            raise InputError(f"minimal_effect of {self.label!r} must be positive, got {self.minimal_effect}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The declaration of a study, in literals.

    Args:
        paper: Stem of the paper whose claim is weighed.
        question: The question that the verdict answers, for a reader who does not know the paper.
        claim: The claim in one sentence, as it can be refuted here.
        arms: Arm to its description. The first is the baseline, the second is the method as the claim has it, on
            which the verdict of the study rests; what follows are variants and controls.
        metrics: Metric to its declaration.
        headline: The metric on which the verdict rests.
        tuned: What was tuned, over what, and on which split; the same for every arm.
        limits: What the study cannot show at its scale.

    Raises:
        InputError: If there are fewer than two arms, or the headline is not among the metrics.

    Example:
        >>> study = Study(
        ...     paper="a_method", question="Does it help?", claim="It helps.",
        ...     arms={"base": "without", "method": "with"},
        ...     metrics={"loss": Metric(label="loss", unit="nats", better="lower", minimal_effect=0.01)},
        ...     headline="loss", tuned="nothing", limits="toy data",
        ... )
        >>> study.baseline, study.method
        ('base', 'method')
    """

    paper: str
    question: str
    claim: str
    arms: Mapping[str, str]
    metrics: Mapping[str, Metric]
    headline: str
    tuned: str
    limits: str

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise InputError(f"arms of study {self.paper!r} must be at least two, got {list(self.arms)}")
        if self.headline not in self.metrics:
            raise InputError(
                f"headline of study {self.paper!r} must be one of {list(self.metrics)}, got {self.headline!r}"
            )

    @property
    def baseline(self) -> str:
        """The arm that every other is compared with."""
        return next(iter(self.arms))

    @property
    def method(self) -> str:
        """The arm on which the verdict rests."""
        return list(self.arms)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a study returns.

    Args:
        metrics: Metric to its value, for every metric of the study. A value that is not finite is recorded as such
            and counts as the worst for its arm.
        arguments: The arguments that the run resolved: tuned values, number of tries, sizes.
        curves: Curve to its points (x, y), for the report.
        images: Caption to images of shape (N, C, H, W) in [0, 1], at most 64 of each, for the report.
        correct: Per test example whether it was right, shape (N,); the examples must be the same in every arm.
    """

    metrics: Mapping[str, float]
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(
        default_factory=dict[str, Sequence[tuple[float, float]]]
    )
    images: "Mapping[str, Tensor]" = field(default_factory=dict[str, "Tensor"])
    correct: "Tensor | None" = None
