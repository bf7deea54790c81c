"""Checks of the kind "metric", which is called, or takes a stream by ``update`` and gives its value by ``compute``."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch

from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import changed_facts, close, identical, map_leaves, map_tensors, snapshot, tensors_of

__all__ = [
    "METRIC_LAWS",
    "MetricSubject",
    "check_global_random_state",
    "check_inputs_unmodified",
    "check_known_values",
    "check_metric",
    "check_null",
    "check_range",
    "check_repeatable",
    "check_stream_equals_batch",
    "check_symmetries",
    "metric_checks",
]

Inputs = tuple[Any, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSubject(Subject):
    """What the test of a metric declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give the metric: the class itself, or for a function
    ``f`` of inputs and keywords ``partial(partial, f)``. A metric that has ``update`` and ``compute`` is used by
    these, another is called; its value is a number, a tensor, or a sequence or mapping of them.

    Args:
        inputs: What it is given: one generic batch, at least three samples along the first dimension.
        known: Pairs of inputs and the value that they must give.
        range: Smallest and largest possible value; infinities where there is no bound.
        symmetries: What keeps the value, in words, to a function from the inputs to inputs of equal value.
        tolerance: Largest error of a value, relative or absolute.

    Example:
        >>> subject = MetricSubject(make=lambda: max, inputs=(1, 2), known=(((3, 4), 4),), range=(0, 9))
        >>> subject.use()
        2
    """

    inputs: Inputs
    known: tuple[tuple[Inputs, Any], ...]
    range: tuple[float, float]
    symmetries: Mapping[str, Callable[..., Inputs]] = field(default_factory=dict)
    tolerance: float = 1e-6

    def use(self, **given: Any) -> object:
        """Make the metric with these keywords and measure the inputs."""
        return _measure(partial(self.make, **given), self.inputs)


def _make(make: Callable[..., Any]) -> Any:
    with seeded(0):
        return make()


def _streams(metric: object) -> bool:
    return hasattr(metric, "update") and hasattr(metric, "compute")


def _makes_a_stream(make: Callable[..., Any]) -> bool:
    try:
        return _streams(_make(make))
    except Exception:
        return False  # what is raised here fails every check of the list


def _value(metric: Any, inputs: Inputs) -> Any:
    if not _streams(metric):
        return metric(*inputs)
    metric.update(*inputs)
    return metric.compute()


def _measure(make: Callable[..., Any], inputs: Inputs) -> Any:
    metric = _make(make)
    with seeded(0):
        return _value(metric, copy.deepcopy(inputs))


def _numbers(value: Any) -> list[float]:
    numbers: list[float] = []
    map_leaves(lambda leaf: numbers.extend(torch.as_tensor(leaf, dtype=torch.float64).flatten().tolist()), value)
    return numbers


def check_known_values(subject: MetricSubject) -> None:
    """Check that the inputs whose value is known give it.

    Args:
        subject: What is declared of the metric, with known values.

    Raises:
        CheckFailure: If one is another.

    Example:
        >>> known = (((2, 3), 3), ((5, 4), 5))
        >>> check_known_values(MetricSubject(make=lambda: max, inputs=(1, 2), known=known, range=(0, 9)))
    """
    for index, (inputs, expected) in enumerate(subject.known):
        value = _measure(subject.make, inputs)
        if not close(value, expected, subject.tolerance):
            raise CheckFailure(f"known value {index} is {value} and not {expected}", "compute it by hand and compare")


def check_range(subject: MetricSubject) -> None:
    """Check that the values of all declared inputs are within the range.

    Args:
        subject: What is declared of the metric.

    Raises:
        CheckFailure: If one is not, or is not a number.

    Example:
        >>> check_range(MetricSubject(make=lambda: max, inputs=(1, 2), known=(), range=(0, 9)))
    """
    low, high = subject.range
    for inputs in (subject.inputs, *(inputs for inputs, _ in subject.known)):
        for number in _numbers(_measure(subject.make, inputs)):
            if not low - subject.tolerance <= number <= high + subject.tolerance:
                raise CheckFailure(f"the value {number:g} is outside {low:g} to {high:g}", "correct value or range")


def check_repeatable(subject: MetricSubject) -> None:
    """Check that the same inputs give the same bits, whatever the global random state.

    Args:
        subject: What is declared of the metric.

    Raises:
        CheckFailure: If they do not, or a second ``compute`` gives another value than the first.

    Example:
        >>> check_repeatable(MetricSubject(make=lambda: max, inputs=(1, 2), known=(), range=(0, 9)))
    """
    values = []
    for seed in (0, 1):
        metric, given = _make(subject.make), copy.deepcopy(subject.inputs)
        with seeded(seed):
            values.append(_value(metric, given))
            if _streams(metric) and not identical(values[-1], metric.compute()):
                raise CheckFailure("a second compute gives another value", "change the state in update alone")
    if not identical(*values):
        raise CheckFailure("two calls with the same inputs differ", "draw only from a generator that is an argument")


def check_global_random_state(subject: MetricSubject) -> None:
    """Check that measuring leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the metric.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_global_random_state(MetricSubject(make=lambda: max, inputs=(1, 2), known=(), range=(0, 9)))
    """
    metric, given = _make(subject.make), copy.deepcopy(subject.inputs)
    if changed := changed_random_states(lambda: _value(metric, given)):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_inputs_unmodified(subject: MetricSubject) -> None:
    """Check that measuring leaves its inputs as they were; of a network also mode, gradients and hooks.

    Args:
        subject: What is declared of the metric.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_inputs_unmodified(MetricSubject(make=lambda: max, inputs=(1, 2), known=(), range=(0, 9)))
    """
    metric, given = _make(subject.make), copy.deepcopy(subject.inputs)
    before = snapshot(given)
    with seeded(0):
        _value(metric, given)
    if changed := changed_facts(before, snapshot(given)):
        raise CheckFailure(f"measuring modifies {', '.join(changed)}", "work on a copy, and put back what you set")


def check_stream_equals_batch(subject: MetricSubject) -> None:
    """Check that several updates with parts of the batch give the value of one update with all of it.

    Args:
        subject: What is declared of a metric with ``update`` and ``compute``.

    Raises:
        CheckFailure: If they do not, ``reset``, where there is one, leaves something of the last stream, or the
            batch has fewer than three samples.

    Example:
        >>> class Mean:
        ...     total, count = 0.0, 0
        ...     def update(self, x):
        ...         self.total, self.count = self.total + x.sum(), self.count + len(x)
        ...     def compute(self):
        ...         return self.total / self.count
        >>> inputs = (torch.arange(4.0),)
        >>> check_stream_equals_batch(MetricSubject(make=Mean, inputs=inputs, known=(), range=(0, 9)))
    """
    if any(tensor.ndim and len(tensor) < 3 for tensor in tensors_of(subject.inputs)):
        raise CheckFailure("the batch has fewer than 3 samples", "give more")
    expected = _measure(subject.make, subject.inputs)
    metric = _make(subject.make)

    def stream(parts: tuple[slice, ...]) -> Any:
        for part in parts:
            metric.update(*map_tensors(lambda t, part=part: t[part].clone() if t.ndim else t, subject.inputs))
        return metric.compute()

    value = stream((slice(1), slice(1, 2), slice(2, None)))
    if not close(value, expected, subject.tolerance):
        raise CheckFailure(
            f"three updates give {value}, one with the whole batch {expected}", "add up sums and counts, not means"
        )
    if hasattr(metric, "reset"):
        metric.reset()
        if not close(stream((slice(None),)), expected, subject.tolerance):
            raise CheckFailure("reset leaves something of the last stream", "set all state back in reset")


def check_symmetries(subject: MetricSubject) -> None:
    """Check that each declared symmetry keeps the value of the generic batch.

    Args:
        subject: What is declared of the metric, with symmetries.

    Raises:
        CheckFailure: If one does not, or leaves the inputs as they are and so shows nothing.

    Example:
        >>> swap = {"swapping the two": lambda a, b: (b, a)}
        >>> check_symmetries(MetricSubject(make=lambda: max, inputs=(1, 2), known=(), range=(0, 9), symmetries=swap))
    """
    expected = _measure(subject.make, subject.inputs)
    for words, transform in subject.symmetries.items():
        inputs = transform(*copy.deepcopy(subject.inputs))
        if not changed_facts(snapshot(subject.inputs), snapshot(inputs)) and tensors_of(subject.inputs):
            raise CheckFailure(f"{words} leaves the inputs as they are", "choose inputs on which it shows something")
        value = _measure(subject.make, inputs)
        if not close(value, expected, subject.tolerance):
            raise CheckFailure(f"{words} turns {expected} into {value}", "treat both sides alike")


def check_null(subject: MetricSubject) -> None:
    """Check that at its null setting it gives what its baseline gives, bit for bit.

    Args:
        subject: What is declared of the metric, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If the values differ.

    Example:
        >>> check_null(
        ...     MetricSubject(make=lambda: max, null=lambda: max, baseline=lambda: max, inputs=(1, 2), known=(),
        ...                   range=(0, 9))
        ... )
    """
    null, baseline = (_measure(make, subject.inputs) for make in (subject.null, subject.baseline) if make)
    if not identical(null, baseline):
        raise CheckFailure(
            f"at the null setting it is {null} and the baseline {baseline}",
            "at the null setting take the baseline's operations in the baseline's order",
        )


METRIC_LAWS: Laws[MetricSubject] = {
    check_range: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_inputs_unmodified: always,
    check_known_values: lambda subject: bool(subject.known),
    check_symmetries: lambda subject: bool(subject.symmetries),
    check_stream_equals_batch: lambda subject: _makes_a_stream(subject.make),
    check_null: declares_null,
}


def metric_checks(subject: MetricSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "metric".

    Args:
        subject: What the test of the metric declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> subject = MetricSubject(make=lambda: max, inputs=(1, 2), known=(((3, 4), 4),), range=(0, 9))
        >>> metric_checks(subject)["check_known_values"]()
    """
    return selected(METRIC_LAWS, subject)


def check_metric(
    make: Callable[..., Any],
    *inputs: Any,
    known: tuple[tuple[Inputs, Any], ...] = (),
    range: tuple[float, float] = (-float("inf"), float("inf")),
    symmetries: Mapping[str, Callable[..., Inputs]] | None = None,
    tolerance: float = 1e-6,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "metric".

    Args:
        make: A class whose arguments all have defaults, or a function that makes the metric; for a function ``f`` of
            inputs and keywords ``partial(partial, f)``.
        *inputs: What it is given: one generic batch, at least three samples along the first dimension.
        known: Pairs of inputs and the value that they must give.
        range: Smallest and largest possible value.
        symmetries: What keeps the value, in words, to a function from the inputs to inputs of equal value.
        tolerance: Largest error of a value, relative or absolute.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> def accuracy(guess, truth):
        ...     return (guess == truth).double().mean()
        >>> check_metric(partial(partial, accuracy), torch.tensor([0, 1, 1]), torch.ones(3), range=(0, 1)).passed
        True
    """
    subject = MetricSubject(
        make=make,
        inputs=inputs,
        known=known,
        range=range,
        symmetries=symmetries or {},
        tolerance=tolerance,
        null=null,
        baseline=baseline,
    )
    return run_checks(metric_checks(subject))
