"""The kinds of methods: one Protocol a kind, whose docstring is the contract that `paperweight.testing` checks."""

from paperweight.kinds.function import Function
from paperweight.kinds.layer import Layer
from paperweight.kinds.loss import Loss
from paperweight.kinds.metric import Metric
from paperweight.kinds.network import Network
from paperweight.kinds.optimizer import Optimizer
from paperweight.kinds.regularizer import Regularizer
from paperweight.kinds.schedule import Schedule

__all__ = ["Function", "Layer", "Loss", "Metric", "Network", "Optimizer", "Regularizer", "Schedule"]
