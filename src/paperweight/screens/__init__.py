"""Screens: which published methods help on a person's data, in minutes."""

from paperweight.screens.course import Progress
from paperweight.screens.outcome import Screen
from paperweight.screens.screen import screen

__all__ = ["Progress", "Screen", "screen"]
