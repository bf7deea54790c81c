"""Checks of the kind "function": it is pure."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import identical

__all__ = [
    "FUNCTION_LAWS",
    "FunctionSubject",
    "check_arguments_unmodified",
    "check_function",
    "check_global_random_state",
    "check_null",
    "check_repeatable",
    "function_checks",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSubject(Subject):
    """What the test of a function declares; ``make`` is the function itself, ``null`` and ``baseline`` are functions.

    Args:
        arguments: Valid arguments by name; all three functions take them.

    Example:
        >>> FunctionSubject(make=torch.sin, arguments={"input": torch.zeros(2)}).use()
        tensor([0., 0.])
    """

    arguments: Mapping[str, Any]

    def use(self, **given: Any) -> object:
        """Call the function with these arguments, valid ones for the rest."""
        return self.make(**{**self.arguments, **given})


def check_repeatable(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that the same arguments give the same result, whatever the global random state.

    Args:
        function: The function; it returns tensors, numbers, or sequences or mappings of them.
        arguments: Its arguments by name; copied before each call, generators included.

    Raises:
        CheckFailure: If two results differ in a bit.

    Example:
        >>> check_repeatable(torch.sin, {"input": torch.ones(2)})
    """
    results = []
    for seed in (0, 1):
        with seeded(seed):
            results.append(function(**copy.deepcopy(dict(arguments))))
    if not identical(*results):
        raise CheckFailure("two calls with the same arguments differ", "draw only from a generator that is an argument")


def check_arguments_unmodified(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that a call leaves every tensor among its arguments as it was.

    Args:
        function: The function.
        arguments: Its arguments by name; copied before the call.

    Raises:
        CheckFailure: If an argument changed.

    Example:
        >>> check_arguments_unmodified(torch.relu_, {"input": torch.ones(2) * -1})
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: the argument input was modified; work on a copy
    """
    given = copy.deepcopy(dict(arguments))
    function(**given)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and not identical(value, given[name]):
            raise CheckFailure(f"the argument {name} was modified", "work on a copy")


def check_global_random_state(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        function: The function.
        arguments: Its arguments by name; copied before the call.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_global_random_state(torch.sin, {"input": torch.ones(2)})
    """
    changed = changed_random_states(lambda: function(**copy.deepcopy(dict(arguments))))
    if changed:
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_null(null: Callable[..., Any], baseline: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that the function at its null setting gives what its baseline gives, bit for bit.

    Args:
        null: The function at its null setting.
        baseline: What it must equal.
        arguments: Arguments of both by name; copied before each call.

    Raises:
        CheckFailure: If the results differ.

    Example:
        >>> check_null(lambda x: 1.0 * x, lambda x: x, {"x": torch.ones(2)})
    """
    if not identical(*(function(**copy.deepcopy(dict(arguments))) for function in (null, baseline))):
        raise CheckFailure(
            "at the null setting the result differs from the baseline's",
            "at the null setting take the baseline's operations in the baseline's order",
        )


FUNCTION_LAWS: Laws[FunctionSubject] = {
    check_repeatable: always,
    check_arguments_unmodified: always,
    check_global_random_state: always,
    check_null: declares_null,
}


def function_checks(subject: FunctionSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "function".

    Args:
        subject: What the test of the function declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> list(function_checks(FunctionSubject(make=torch.sin, arguments={"input": torch.ones(2)})))
        ['check_repeatable', 'check_arguments_unmodified', 'check_global_random_state']
    """
    pair = (subject.null, subject.baseline)
    return selected(
        FUNCTION_LAWS,
        subject,
        lambda check: (*(pair if check is check_null else (subject.make,)), subject.arguments),
    )


def check_function(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "function".

    Args:
        function: The function.
        arguments: Valid arguments by name.
        null: The function at its null setting; takes the same arguments. Left out where there is none.
        baseline: What ``null`` must equal; takes the same arguments.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> check_function(torch.sin, {"input": torch.ones(2)}).passed
        True
    """
    return run_checks(
        function_checks(FunctionSubject(make=function, arguments=arguments, null=null, baseline=baseline))
    )
