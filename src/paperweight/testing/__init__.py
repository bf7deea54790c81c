"""Checks of the contracts in `paperweight.kinds`, as plain functions that raise `CheckFailure`."""

from paperweight.testing.command import check_object
from paperweight.testing.contract import contract
from paperweight.testing.function import FunctionSubject, check_function
from paperweight.testing.layer import LayerSubject, check_layer
from paperweight.testing.loss import LossSubject, check_loss
from paperweight.testing.metric import MetricSubject, check_metric
from paperweight.testing.optimizer import OptimizerSubject, check_optimizer
from paperweight.testing.report import CheckFailure, CheckReport, CheckResult, Subject, run_check
from paperweight.testing.schedule import ScheduleSubject, check_schedule

__all__ = [
    "CheckFailure",
    "CheckReport",
    "CheckResult",
    "FunctionSubject",
    "LayerSubject",
    "LossSubject",
    "MetricSubject",
    "OptimizerSubject",
    "ScheduleSubject",
    "Subject",
    "check_function",
    "check_layer",
    "check_loss",
    "check_metric",
    "check_object",
    "check_optimizer",
    "check_schedule",
    "contract",
    "run_check",
]
