"""Checks of the kind "function": it is pure."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, run_checks

__all__ = [
    "FUNCTION_CHECKS",
    "check_arguments_unmodified",
    "check_function",
    "check_global_random_state",
    "check_repeatable",
]


def _equal(first: object, second: object) -> bool:
    try:
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, check_stride=False)
    except AssertionError:
        return False
    return True


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
    if not _equal(*results):
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
        if isinstance(value, torch.Tensor) and not _equal(value, given[name]):
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


FUNCTION_CHECKS = (check_repeatable, check_arguments_unmodified, check_global_random_state)


def check_function(function: Callable[..., Any], arguments: Mapping[str, Any]) -> CheckReport:
    """Run all checks of the kind "function".

    Args:
        function: The function.
        arguments: Valid arguments by name.

    Returns:
        One result a check.

    Example:
        >>> check_function(torch.sin, {"input": torch.ones(2)}).passed
        True
    """
    return run_checks((check.__name__, lambda check=check: check(function, arguments)) for check in FUNCTION_CHECKS)
