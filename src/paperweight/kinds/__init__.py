"""The kinds of methods: one Protocol a kind, whose docstring is the contract that `paperweight.testing` checks."""

from paperweight.kinds.attack import Attack
from paperweight.kinds.compressor import Compressor
from paperweight.kinds.data_transform import DataTransform
from paperweight.kinds.defense import Defense
from paperweight.kinds.estimator import Estimator
from paperweight.kinds.experiment import Experiment
from paperweight.kinds.function import Function
from paperweight.kinds.layer import Layer
from paperweight.kinds.loss import Loss
from paperweight.kinds.metric import Metric
from paperweight.kinds.network import Network
from paperweight.kinds.optimizer import Optimizer
from paperweight.kinds.regularizer import Regularizer
from paperweight.kinds.sampler import Sampler
from paperweight.kinds.schedule import Schedule
from paperweight.kinds.training_procedure import TrainingProcedure
from paperweight.kinds.unlearner import Unlearner

__all__ = [
    "Attack",
    "Compressor",
    "DataTransform",
    "Defense",
    "Estimator",
    "Experiment",
    "Function",
    "Layer",
    "Loss",
    "Metric",
    "Network",
    "Optimizer",
    "Regularizer",
    "Sampler",
    "Schedule",
    "TrainingProcedure",
    "Unlearner",
]
