"""The contract of a kind as a list of checks on one public object of a paper."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter

from paperweight.testing.function import FUNCTION_CHECKS
from paperweight.testing.optimizer import OPTIMIZER_CHECKS, check_null
from paperweight.testing.public import (
    check_bad_values,
    check_documented_arguments,
    check_example_runs,
    check_no_var_keywords,
    check_source_and_deviations,
)
from paperweight.testing.report import Subject

__all__ = ["contract"]

_PUBLIC_CHECKS = (
    check_no_var_keywords,
    check_documented_arguments,
    check_example_runs,
    check_source_and_deviations,
)


def contract(kind: str, public: Callable[..., Any], subject: Subject) -> dict[str, Callable[[], None]]:
    """List the checks that an object must pass.

    Args:
        kind: Kind of the object, one of `paperweight.catalogue.KINDS`.
        public: The class or function that users import.
        subject: What its test declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Raises:
        ValueError: If the kind has no contract.

    Example:
        >>> subject = Subject(make=torch.sin, arguments={"input": torch.ones(2)})
        >>> contract("function", torch.sin, subject)["check_repeatable"]()
    """
    checks = {check.__name__: partial(check, public) for check in _PUBLIC_CHECKS}
    make = partial(subject.make, **subject.arguments)
    if kind == "optimizer":
        checks |= {check.__name__: partial(check, make) for check in OPTIMIZER_CHECKS}
        call = partial(make, [Parameter(torch.ones(3))])
        if subject.null is not None and subject.baseline is not None:
            checks[check_null.__name__] = partial(check_null, subject.null, subject.baseline)
    elif kind == "function":
        checks |= {check.__name__: partial(check, subject.make, subject.arguments) for check in FUNCTION_CHECKS}
        call = make
    else:
        raise ValueError(f"kind must have a contract, got {kind!r}; there are those of function and optimizer")
    checks[check_bad_values.__name__] = partial(check_bad_values, call, subject.bad)
    return checks
