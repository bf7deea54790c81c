"""The contract of a kind as a list of checks on one public object of a paper."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from paperweight.testing.attack import attack_checks
from paperweight.testing.compressor import compressor_checks
from paperweight.testing.data_transform import data_transform_checks
from paperweight.testing.defense import defense_checks
from paperweight.testing.function import function_checks
from paperweight.testing.layer import layer_checks
from paperweight.testing.loss import loss_checks
from paperweight.testing.metric import metric_checks
from paperweight.testing.optimizer import optimizer_checks
from paperweight.testing.public import (
    check_bad_values,
    check_documented_arguments,
    check_example_runs,
    check_no_var_keywords,
    check_source_and_deviations,
)
from paperweight.testing.report import Subject
from paperweight.testing.sampler import sampler_checks
from paperweight.testing.schedule import schedule_checks
from paperweight.testing.training_procedure import training_procedure_checks
from paperweight.testing.unlearner import unlearner_checks

__all__ = ["KIND_CHECKS", "contract"]

KIND_CHECKS: Mapping[str, Callable[[Any], dict[str, Callable[[], None]]]] = {
    "optimizer": optimizer_checks,
    "schedule": schedule_checks,
    "layer": layer_checks,
    "network": layer_checks,
    "loss": loss_checks,
    "regularizer": loss_checks,
    "metric": metric_checks,
    "attack": attack_checks,
    "defense": defense_checks,
    "unlearner": unlearner_checks,
    "sampler": sampler_checks,
    "compressor": compressor_checks,
    "training-procedure": training_procedure_checks,
    "data-transform": data_transform_checks,
    "function": function_checks,
}
_PUBLIC_CHECKS = (
    check_no_var_keywords,
    check_documented_arguments,
    check_example_runs,
    check_source_and_deviations,
)


def contract(kind: str, public: Callable[..., Any], subject: Subject) -> dict[str, Callable[[], None]]:
    """List the checks that an object must pass: those of every public object and those of its kind.

    Bad values are asked for but of a class that takes no argument.

    Args:
        kind: Kind of the object, one of `paperweight.catalogue.KINDS`.
        public: The class or function that users import.
        subject: What its test declares, the subject of this kind.

    Returns:
        Name of the check to the check, with its arguments bound.

    Raises:
        ValueError: If the kind has no contract.

    Example:
        >>> import torch
        >>> from paperweight.testing import FunctionSubject
        >>> subject = FunctionSubject(make=torch.sin, arguments={"input": torch.ones(2)})
        >>> contract("function", torch.sin, subject)["check_repeatable"]()
    """
    if kind not in KIND_CHECKS:
        raise ValueError(f"kind must have a contract, got {kind!r}; there are those of {', '.join(KIND_CHECKS)}")
    checks: dict[str, Callable[[], None]] = {check.__name__: partial(check, public) for check in _PUBLIC_CHECKS}
    if not (isinstance(public, type) and public.__init__ is object.__init__):
        checks[check_bad_values.__name__] = partial(check_bad_values, subject.use, subject.bad)
    return checks | KIND_CHECKS[kind](subject)
