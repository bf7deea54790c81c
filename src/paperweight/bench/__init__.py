"""The bench: it runs studies, pairs their trials, and states what follows."""

from paperweight.bench.weighing import Weighing, weigh

__all__ = ["Weighing", "weigh"]
