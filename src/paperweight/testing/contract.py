"""The contract of a kind as a list of checks on one public object of a paper."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from paperweight.testing.attack import ATTACK_LAWS, attack_checks
from paperweight.testing.compressor import COMPRESSOR_LAWS, compressor_checks
from paperweight.testing.data_transform import DATA_TRANSFORM_LAWS, data_transform_checks
from paperweight.testing.defense import DEFENSE_LAWS, defense_checks
from paperweight.testing.estimator import ESTIMATOR_LAWS, estimator_checks
from paperweight.testing.experiment import EXPERIMENT_LAWS, experiment_checks
from paperweight.testing.function import FUNCTION_LAWS, function_checks
from paperweight.testing.laws import Laws
from paperweight.testing.layer import LAYER_LAWS, layer_checks
from paperweight.testing.loss import LOSS_LAWS, loss_checks
from paperweight.testing.metric import METRIC_LAWS, metric_checks
from paperweight.testing.optimizer import OPTIMIZER_LAWS, optimizer_checks
from paperweight.testing.public import (
    check_bad_values,
    check_documented_arguments,
    check_example_runs,
    check_keeps_arguments,
    check_no_var_keywords,
    check_source_and_deviations,
)
from paperweight.testing.report import Subject
from paperweight.testing.sampler import SAMPLER_LAWS, sampler_checks
from paperweight.testing.schedule import SCHEDULE_LAWS, schedule_checks
from paperweight.testing.training_procedure import TRAINING_PROCEDURE_LAWS, training_procedure_checks
from paperweight.testing.unlearner import UNLEARNER_LAWS, unlearner_checks

__all__ = ["KIND_CHECKS", "KIND_LAWS", "contract"]

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
    "experiment": experiment_checks,
    "estimator": estimator_checks,
    "function": function_checks,
}
KIND_LAWS: Mapping[str, Laws[Any]] = {
    "optimizer": OPTIMIZER_LAWS,
    "schedule": SCHEDULE_LAWS,
    "layer": LAYER_LAWS,
    "network": LAYER_LAWS,
    "loss": LOSS_LAWS,
    "regularizer": LOSS_LAWS,
    "metric": METRIC_LAWS,
    "attack": ATTACK_LAWS,
    "defense": DEFENSE_LAWS,
    "unlearner": UNLEARNER_LAWS,
    "sampler": SAMPLER_LAWS,
    "compressor": COMPRESSOR_LAWS,
    "training-procedure": TRAINING_PROCEDURE_LAWS,
    "data-transform": DATA_TRANSFORM_LAWS,
    "experiment": EXPERIMENT_LAWS,
    "estimator": ESTIMATOR_LAWS,
    "function": FUNCTION_LAWS,
}


def contract(kind: str, public: Callable[..., Any], subject: Subject) -> dict[str, Callable[[], None]]:
    """List the checks that an object must pass: those of every public object and those of its kind.

    Bad values, and arguments that are kept, are asked for but of a class that takes no argument. The running example
    comes last: what it notices, a law should have noticed.

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
        raise ValueError(f"kind must have a contract, got {kind!r}; there are contracts of {', '.join(KIND_CHECKS)}")
    documented = (check_no_var_keywords, check_documented_arguments, check_source_and_deviations)
    checks: dict[str, Callable[[], None]] = {check.__name__: partial(check, public) for check in documented}
    if not isinstance(public, type):
        checks[check_bad_values.__name__] = partial(check_bad_values, subject.use, subject.bad)
    elif public.__init__ is not object.__init__:
        checks[check_bad_values.__name__] = partial(check_bad_values, subject.use, subject.bad)
        checks[check_keeps_arguments.__name__] = partial(check_keeps_arguments, public, subject.use)
    return checks | KIND_CHECKS[kind](subject) | {check_example_runs.__name__: partial(check_example_runs, public)}
