"""What a study declares and what one run of it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from paperweight.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from paperweight.loops import Tuned

__all__ = ["BUDGETS", "DEFAULT_SEEDS", "Arm", "Budget", "Metric", "Outcome", "Study"]

Make = TypeVar("Make")

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

    Example:
        >>> Metric.lower("test loss", 0.02, "nats").better
        'lower'
    """

    label: str
    unit: str
    better: Literal["higher", "lower"]
    minimal_effect: float

    def __post_init__(self) -> None:
        if not self.minimal_effect > 0:
            raise InputError(f"minimal_effect of {self.label!r} must be positive, got {self.minimal_effect}")

    @classmethod
    def higher(cls, label: str, minimal_effect: float, unit: str = "") -> "Metric":
        """Return a metric of which the claim calls higher values better."""
        return cls(label=label, unit=unit, better="higher", minimal_effect=minimal_effect)

    @classmethod
    def lower(cls, label: str, minimal_effect: float, unit: str = "") -> "Metric":
        """Return a metric of which the claim calls lower values better."""
        return cls(label=label, unit=unit, better="lower", minimal_effect=minimal_effect)


@dataclass(frozen=True, slots=True)
class Arm(Generic[Make]):
    """One of the compared conditions.

    Args:
        description: What it is, in a few words.
        make: What it differs in from the others: a class, a function, a `functools.partial`, or values of the study's
            own. It is handed to ``run`` as it is.
        name: Its name in the study, filled in by `Study.arm`.

    Example:
        >>> Arm("twice as long", 2).make
        2
    """

    description: str
    make: Make
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The declaration of a study.

    Args:
        paper: Stem of the paper whose claim is weighed.
        question: The question that the verdict answers, for a reader who does not know the paper.
        claim: The claim in one sentence, as it can be refuted here.
        arms: Name to `Arm`. The first is the baseline, the second is the method as the claim has it, on which the
            verdict of the study rests; what follows are variants and controls.
        metrics: Metric to its declaration.
        headline: The metric on which the verdict rests.
        tuned: What was tuned, over what, and on which split; the same for every arm.
        limits: What the study cannot show at its scale.
        seeds: How many pairs it takes to decide: those of the official result, and of a weighing that is not told.

    Raises:
        InputError: If there are fewer than two arms, if seeds is below 1, or the headline is not among the metrics.

    Example:
        >>> study = Study(
        ...     paper="a_method", question="Does it help?", claim="It helps.",
        ...     arms={"base": Arm("without", False), "method": Arm("with", True)},
        ...     metrics={"loss": Metric(label="loss", unit="nats", better="lower", minimal_effect=0.01)},
        ...     headline="loss", tuned="nothing", limits="toy data",
        ... )
        >>> study.baseline, study.method
        ('base', 'method')
    """

    paper: str
    question: str
    claim: str
    arms: Mapping[str, Arm[Any]]
    metrics: Mapping[str, Metric]
    headline: str
    tuned: str
    limits: str
    seeds: int = DEFAULT_SEEDS

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise InputError(f"arms of study {self.paper!r} must be at least two, got {list(self.arms)}")
        if self.seeds < 1:
            raise InputError(f"seeds of study {self.paper!r} must be at least 1, got {self.seeds}")
        if self.headline not in self.metrics:
            raise InputError(
                f"headline of study {self.paper!r} must be one of {list(self.metrics)}, got {self.headline!r}"
            )

    def arm(self, name: str) -> Arm[Any]:
        """Return an arm with its name, as ``run`` is given it."""
        return replace(self.arms[name], name=name)

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
        made: What the arm made, by what it is, such as ``{"optimizer": optimizer}``: of tries the chosen one. The bench
            reads every argument of its constructor, defaults included, into the row.
        tuned: What was tuned, by name, with its tries. The bench records the value and the grid, and says where a
            value lies at the edge of its grid.
        arguments: What else the run resolved, such as sizes.
        curves: Curve to its points (x, y), for the report.
        images: Caption to images of shape (N, C, H, W) in [0, 1], at most 64 of each, for the report.
        correct: Per test example whether it was right, shape (N,); the examples must be the same in every arm.
    """

    metrics: Mapping[str, float]
    made: Mapping[str, object] = field(default_factory=dict[str, object])
    tuned: "Mapping[str, Tuned[Any]]" = field(default_factory=dict[str, "Tuned[Any]"])
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(
        default_factory=dict[str, Sequence[tuple[float, float]]]
    )
    images: "Mapping[str, Tensor]" = field(default_factory=dict[str, "Tensor"])
    correct: "Tensor | None" = None
