"""Checks of the kind "schedule"; each is given what makes one from an optimizer."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from paperweight.kinds import Schedule
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks

__all__ = [
    "SCHEDULE_LAWS",
    "ScheduleSubject",
    "check_documented_values",
    "check_every_group_is_scheduled",
    "check_global_random_state",
    "check_meets_protocol",
    "check_null",
    "check_other_settings_unmodified",
    "check_repeatable",
    "check_resume_is_exact",
    "check_schedule",
    "check_values_are_finite",
    "schedule_checks",
]


def _advance(schedule: Any, step: int) -> None:
    schedule.step()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSubject(Subject):
    """What the test of a schedule declares; ``make``, ``null`` and ``baseline`` take an optimizer and keywords.

    Args:
        values: Step to the documented value, where step k is after k calls of ``step``; empty where none is
            documented.
        setting: Key of the parameter group that it sets.
        start: The value that the optimizer is made with.
        steps: Number of steps that the checks take, at least 4.
        advance: Steps the schedule; takes it and the number of the step, from 0. Only for one whose ``step`` has
            arguments.

    Raises:
        ValueError: If a step is outside 0 to ``steps``, or ``steps`` is below 4.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> ScheduleSubject(make=halving, values={0: 1.0, 1: 1.0, 2: 0.5}).steps
        12
    """

    values: Mapping[int, float]
    setting: str = "lr"
    start: float = 1.0
    steps: int = 12
    advance: Callable[[Any, int], object] = _advance

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if self.steps < 4:
            raise ValueError(f"steps must be at least 4, got {self.steps}")
        if outside := [step for step in self.values if not 0 <= step <= self.steps]:
            raise ValueError(f"values must name steps within 0 to steps={self.steps}, got {outside}")

    def use(self, **given: Any) -> object:
        """Make the schedule of a new optimizer with these keywords."""
        return self.make(_optimizer(self, "SGD"), **given)


def _optimizer(subject: ScheduleSubject, name: str) -> Optimizer:
    """Make an optimizer with two equal groups, every parameter with a gradient of zero."""
    parameters = [Parameter(torch.ones(2)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.zeros(2)
    groups = [{"params": [parameter]} for parameter in parameters]
    optimizer = SGD(groups, lr=0.1, momentum=0.9) if name == "SGD" else Adam(groups, lr=0.1)
    for group in optimizer.param_groups:
        group[subject.setting] = subject.start
    return optimizer


def _value(subject: ScheduleSubject, optimizer: Optimizer, group: int = 0) -> float:
    return float(optimizer.param_groups[group][subject.setting])


def _walk(
    subject: ScheduleSubject, optimizer: Optimizer, schedule: Any, first: int, last: int, group: int = 0
) -> list[float]:
    """Take the steps from ``first`` to ``last``, and give the value after each."""
    values = []
    for step in range(first, last):
        optimizer.step()
        subject.advance(schedule, step)
        values.append(_value(subject, optimizer, group))
    return values


def _values(subject: ScheduleSubject, make: Callable[..., Any], name: str = "SGD", group: int = 0) -> list[float]:
    """Give the value at each step from 0."""
    optimizer = _optimizer(subject, name)
    schedule = make(optimizer)
    return [_value(subject, optimizer, group), *_walk(subject, optimizer, schedule, 0, subject.steps, group)]


def _state_beside(optimizer: Optimizer, setting: str) -> dict[str, Any]:
    """Copy parameters, gradients and every setting but one."""
    facts: dict[str, Any] = {}
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key == "params":
                facts[f"the parameters of group {index}"] = [parameter.tolist() for parameter in value]
                facts[f"the gradients of group {index}"] = [
                    None if parameter.grad is None else parameter.grad.tolist() for parameter in value
                ]
            elif key != setting:
                facts[f"{key} of group {index}"] = copy.deepcopy(value)
    return facts


def check_meets_protocol(subject: ScheduleSubject) -> None:
    """Check that it is made from an optimizer and has every member of `paperweight.kinds.Schedule`.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If a member is missing.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> check_meets_protocol(ScheduleSubject(make=halving, values={}))
    """
    schedule = subject.use()
    if not isinstance(schedule, Schedule):
        missing = [name for name in dir(Schedule) if not name.startswith("_") and not hasattr(schedule, name)]
        raise CheckFailure(f"the object lacks {', '.join(missing)}", "derive it from torch's LRScheduler")


def check_documented_values(subject: ScheduleSubject) -> None:
    """Check that at the named steps the setting has the documented values, with SGD and with Adam.

    Args:
        subject: What is declared of the schedule, with values.

    Raises:
        CheckFailure: If one differs by more than 1e-6 of it.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> check_documented_values(ScheduleSubject(make=halving, values={0: 1.0, 4: 0.25}))
    """
    for name in ("SGD", "Adam"):
        values = _values(subject, subject.make, name)
        for step, expected in subject.values.items():
            if not math.isclose(values[step], expected, rel_tol=1e-6, abs_tol=1e-12):
                raise CheckFailure(
                    f"with {name} at step {step} {subject.setting} is {values[step]:.8g} and not {expected:.8g}",
                    "count steps from 0, the value before the first call of step",
                )


def check_values_are_finite(subject: ScheduleSubject) -> None:
    """Check that every value is finite and at least 0.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If one is not.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> check_values_are_finite(ScheduleSubject(make=halving, values={}))
    """
    for step, value in enumerate(_values(subject, subject.make)):
        if not 0 <= value < math.inf:
            raise CheckFailure(f"{subject.setting} is {value} at step {step}", "hold the last value after the end")


def check_every_group_is_scheduled(subject: ScheduleSubject) -> None:
    """Check that two parameter groups that start alike have the same values at every step.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If they differ.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> check_every_group_is_scheduled(ScheduleSubject(make=halving, values={}))
    """
    first, second = (_values(subject, subject.make, group=group) for group in (0, 1))
    for step, pair in enumerate(zip(first, second, strict=True)):
        if pair[0] != pair[1]:
            raise CheckFailure(f"at step {step} equal groups have {pair[0]} and {pair[1]}", "set every group")


def check_other_settings_unmodified(subject: ScheduleSubject) -> None:
    """Check that it sets nothing else: no other setting of a group, no parameter, no gradient.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If something else changed; a setting that was not there before may be added.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> check_other_settings_unmodified(ScheduleSubject(make=halving, values={}))
    """
    for name in ("SGD", "Adam"):
        optimizer = _optimizer(subject, name)

        before = _state_beside(optimizer, subject.setting)
        _walk(subject, optimizer, subject.make(optimizer), 0, subject.steps)
        after = _state_beside(optimizer, subject.setting)
        if changed := [key for key in before if key not in after or before[key] != after[key]]:
            raise CheckFailure(f"with {name} it changes {', '.join(changed)}", "set nothing but its setting")


def check_resume_is_exact(subject: ScheduleSubject) -> None:
    """Check that a fresh schedule with the loaded state, of an optimizer with its own, goes on with the same values.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If a value differs in a bit.

    Example:
        >>> from functools import partial
        >>> cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12)
        >>> check_resume_is_exact(ScheduleSubject(make=cosine, values={}))
    """
    for cut in (1, subject.steps // 2, subject.steps - 1):
        first = _optimizer(subject, "SGD")
        straight = subject.make(first)
        _walk(subject, first, straight, 0, cut)
        second = _optimizer(subject, "SGD")
        resumed = subject.make(second)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
        expected = _walk(subject, first, straight, cut, subject.steps)
        values = _walk(subject, second, resumed, cut, subject.steps)
        for step, pair in enumerate(zip(values, expected, strict=True), start=cut + 1):
            if pair[0] != pair[1]:
                raise CheckFailure(
                    f"resumed after step {cut}, at step {step} {subject.setting} is {pair[0]!r} and not {pair[1]!r}",
                    "keep in state_dict all that a step needs",
                )


def check_repeatable(subject: ScheduleSubject) -> None:
    """Check that two schedules give the same values, whatever the global random state.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> from functools import partial
        >>> cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12)
        >>> check_repeatable(ScheduleSubject(make=cosine, values={}))
    """
    walks = []
    for seed in (0, 1):
        with seeded(seed):
            walks.append(_values(subject, subject.make))
    if walks[0] != walks[1]:
        raise CheckFailure("two schedules differ", "draw only from a generator that is an argument")


def check_global_random_state(subject: ScheduleSubject) -> None:
    """Check that making and stepping it leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the schedule.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> from functools import partial
        >>> cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12)
        >>> check_global_random_state(ScheduleSubject(make=cosine, values={}))
    """
    if changed := changed_random_states(lambda: _values(subject, subject.make)):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_null(subject: ScheduleSubject) -> None:
    """Check that at its null setting it gives the values of its baseline, bit for bit.

    Args:
        subject: What is declared of the schedule, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If a value differs.

    Example:
        >>> from functools import partial
        >>> null = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=1.0)
        >>> baseline = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
        >>> check_null(ScheduleSubject(make=null, null=null, baseline=baseline, values={}))
    """
    null, baseline = (_values(subject, make) for make in (subject.null, subject.baseline) if make)
    for step, pair in enumerate(zip(null, baseline, strict=True)):
        if pair[0] != pair[1]:
            raise CheckFailure(
                f"at the null setting {subject.setting} is {pair[0]} at step {step} and the baseline's {pair[1]}",
                "at the null setting take the baseline's operations in the baseline's order",
            )


SCHEDULE_LAWS: Laws[ScheduleSubject] = {
    check_meets_protocol: always,
    check_values_are_finite: always,
    check_every_group_is_scheduled: always,
    check_other_settings_unmodified: always,
    check_resume_is_exact: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_documented_values: lambda subject: bool(subject.values),
    check_null: declares_null,
}


def schedule_checks(subject: ScheduleSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "schedule".

    Args:
        subject: What the test of the schedule declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> from functools import partial
        >>> halving = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
        >>> schedule_checks(ScheduleSubject(make=halving, values={4: 0.25}))["check_documented_values"]()
    """
    return selected(SCHEDULE_LAWS, subject)


def check_schedule(
    make: Callable[..., Any],
    *,
    values: Mapping[int, float] | None = None,
    setting: str = "lr",
    start: float = 1.0,
    steps: int = 12,
    advance: Callable[[Any, int], object] = _advance,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "schedule".

    Args:
        make: A class or function that makes it from an optimizer alone.
        values: Step to the value that the setting must have after so many calls of ``step``.
        setting: Key of the parameter group that it sets.
        start: The value that the optimizer is made with.
        steps: Number of steps that the checks take, at least 4.
        advance: Steps the schedule; takes it and the number of the step, from 0.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given, or a step is outside 0 to ``steps``.

    Example:
        >>> from functools import partial
        >>> check_schedule(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5), values={3: 0.125}).passed
        True
    """
    subject = ScheduleSubject(
        make=make,
        values=values or {},
        setting=setting,
        start=start,
        steps=steps,
        advance=advance,
        null=null,
        baseline=baseline,
    )
    return run_checks(schedule_checks(subject))
