"""What checks raise and report, and what a method's test declares to be checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CheckFailure", "CheckReport", "CheckResult", "NotApplicable", "Subject", "run_check", "run_checks"]


class CheckFailure(Exception):  # noqa: N818 (it is a finding about an object, not an error)
    """An object breaks a law of its kind.

    Args:
        reason: What was seen, with the values.
        remedy: What to change.

    Example:
        >>> raise CheckFailure("the loss rose from 1 to 2", "step against the gradient")
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: the loss rose from 1 to 2; step against the gradient
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class NotApplicable(Exception):  # noqa: N818 (it is a finding about an object, not an error)
    """A law asks for what an object, in its own words, does not take.

    Args:
        reason: What it does not take, and how it says so.

    Example:
        >>> raise NotApplicable("it refuses a second group of parameters: one group only")
        Traceback (most recent call last):
        ...
        paperweight.testing.report.NotApplicable: it refuses a second group of parameters: one group only
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check: it passes, fails, or does not apply.

    Args:
        name: Name of the check.
        passed: Whether the law applies and holds.
        reason: What was seen where it does not hold, or why it does not apply.
        remedy: What to change where it does not hold.
        applicable: Whether the law applies.

    Example:
        >>> print(CheckResult("check_closure", True))
        passed  check_closure
        >>> print(CheckResult("check_closure", False, "it refuses a closure", applicable=False))
        not applicable  check_closure: it refuses a closure
    """

    name: str
    passed: bool
    reason: str = ""
    remedy: str = ""
    applicable: bool = True

    def __str__(self) -> str:
        if self.passed:
            return f"passed  {self.name}"
        if not self.applicable:
            return f"not applicable  {self.name}: {self.reason}"
        return f"FAILED  {self.name}: {self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcomes of all checks of a kind on one object.

    Args:
        results: One a check, in the order in which they ran.

    Example:
        >>> report = CheckReport((CheckResult("check_closure", True),))
        >>> report.passed, report.failures
        (True, ())
    """

    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every law holds that applies."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The results of the laws that apply and do not hold."""
        return tuple(result for result in self.results if result.applicable and not result.passed)

    @property
    def inapplicable(self) -> tuple[CheckResult, ...]:
        """The results of the laws that do not apply."""
        return tuple(result for result in self.results if not result.applicable)

    def __str__(self) -> str:
        summary = f"{sum(result.passed for result in self.results)} of {len(self.results)} checks passed"
        if self.inapplicable:
            summary += f", {len(self.inapplicable)} not applicable"
        return "\n".join([*map(str, self.results), summary])


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the test of a method declares, so that its contract can be checked; each kind adds what its checks need.

    Args:
        make: The public object, or a function that makes it.
        bad: Argument name to values that must be refused.
        null: As ``make``, for the method at its null setting.
        baseline: As ``make``, for what ``null`` must equal.
        expected_failures: Name of a check to the reason why this method does not meet it.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> Subject(make=dict, null=dict)
        Traceback (most recent call last):
        ...
        ValueError: null and baseline must be given together, got only one of them
    """

    make: Callable[..., Any]
    bad: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    null: Callable[..., Any] | None = None
    baseline: Callable[..., Any] | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.null is None) != (self.baseline is None):
            raise ValueError("null and baseline must be given together, got only one of them")

    def use(self, **given: Any) -> object:
        """Make the object with these arguments, valid ones for the rest, and use it once; bad values must fail here."""
        return self.make(**given)


def run_check(name: str, check: Callable[[], None]) -> CheckResult:
    """Run one check; an error of any other sort than `CheckFailure` and `NotApplicable` is a failure, too.

    Args:
        name: Name of the check.
        check: The check, with its arguments bound.

    Returns:
        The outcome.

    Example:
        >>> run_check("check_division", lambda: print(1 / 0)).reason
        'it raised ZeroDivisionError: division by zero'
    """
    try:
        check()
    except CheckFailure as failure:
        return CheckResult(name, False, failure.reason, failure.remedy)
    except NotApplicable as finding:
        return CheckResult(name, False, finding.reason, applicable=False)
    except Exception as error:
        reason = f"it raised {type(error).__name__}: {error}"
        return CheckResult(name, False, reason, "make it work on the toy problem of this check")
    return CheckResult(name, True)


def run_checks(checks: Mapping[str, Callable[[], None]]) -> CheckReport:
    """Run checks one after the other.

    Args:
        checks: Name of the check to the check, with its arguments bound.

    Returns:
        All outcomes.

    Example:
        >>> print(run_checks({"check_nothing": lambda: None}))
        passed  check_nothing
        1 of 1 checks passed
    """
    return CheckReport(tuple(run_check(name, check) for name, check in checks.items()))
