"""The kinds of methods: one Protocol a kind, whose docstring is the contract that `paperweight.testing` checks."""

from paperweight.kinds.function import Function
from paperweight.kinds.optimizer import Optimizer

__all__ = ["Function", "Optimizer"]
