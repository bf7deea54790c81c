"""The bench: it runs studies, pairs their trials, and states what follows."""

from paperweight.bench.runner import weigh
from paperweight.bench.weighing import Weighing

__all__ = ["Weighing", "weigh"]
