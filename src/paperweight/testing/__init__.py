"""Checks of the contracts in `paperweight.kinds`, as plain functions that raise `CheckFailure`."""

from paperweight.testing.contract import contract
from paperweight.testing.function import check_function
from paperweight.testing.optimizer import check_null, check_optimizer
from paperweight.testing.report import CheckFailure, CheckReport, CheckResult, Subject, run_check

__all__ = [
    "CheckFailure",
    "CheckReport",
    "CheckResult",
    "Subject",
    "check_function",
    "check_null",
    "check_optimizer",
    "contract",
    "run_check",
]
