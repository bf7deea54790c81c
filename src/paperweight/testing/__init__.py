"""Checks of the contracts in `paperweight.kinds`, as plain functions that raise `CheckFailure`."""

from paperweight.testing.attack import AttackSubject, check_attack
from paperweight.testing.command import check_object
from paperweight.testing.compressor import CompressorSubject, check_compressor
from paperweight.testing.contract import KIND_LAWS, contract
from paperweight.testing.data_transform import DataTransformSubject, check_data_transform
from paperweight.testing.defense import DefenseSubject, check_defense
from paperweight.testing.estimator import EstimatorSubject, check_estimator
from paperweight.testing.experiment import ExperimentSubject, check_experiment
from paperweight.testing.function import FunctionSubject, check_function
from paperweight.testing.gaussian import GaussianData
from paperweight.testing.guarded import GuardedDataset
from paperweight.testing.laws import always, declares_null
from paperweight.testing.layer import LayerSubject, check_layer
from paperweight.testing.loss import LossSubject, check_loss
from paperweight.testing.metric import MetricSubject, check_metric
from paperweight.testing.optimizer import OptimizerSubject, check_optimizer
from paperweight.testing.report import CheckFailure, CheckReport, CheckResult, NotApplicable, Subject, run_check
from paperweight.testing.sampler import SamplerSubject, check_sampler
from paperweight.testing.schedule import ScheduleSubject, check_schedule
from paperweight.testing.training_procedure import (
    PlainTraining,
    TrainingProcedureSubject,
    check_training_procedure,
)
from paperweight.testing.unlearner import UnlearnerSubject, check_unlearner

__all__ = [
    "KIND_LAWS",
    "AttackSubject",
    "CheckFailure",
    "CheckReport",
    "CheckResult",
    "CompressorSubject",
    "DataTransformSubject",
    "DefenseSubject",
    "EstimatorSubject",
    "ExperimentSubject",
    "FunctionSubject",
    "GaussianData",
    "GuardedDataset",
    "LayerSubject",
    "LossSubject",
    "MetricSubject",
    "NotApplicable",
    "OptimizerSubject",
    "PlainTraining",
    "SamplerSubject",
    "ScheduleSubject",
    "Subject",
    "TrainingProcedureSubject",
    "UnlearnerSubject",
    "always",
    "check_attack",
    "check_compressor",
    "check_data_transform",
    "check_defense",
    "check_estimator",
    "check_experiment",
    "check_function",
    "check_layer",
    "check_loss",
    "check_metric",
    "check_object",
    "check_optimizer",
    "check_sampler",
    "check_schedule",
    "check_training_procedure",
    "check_unlearner",
    "contract",
    "declares_null",
    "run_check",
]
