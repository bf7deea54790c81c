"""Tells a person how far an audit is."""

from collections.abc import Callable
from typing import final

__all__ = ["Progress", "Stages"]

Progress = Callable[[str, int, int], None]
"""Called with words, the number of stages done, and of all."""


@final
class Stages:
    """Tells which of so many stages begins."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self, words: str) -> None:
        """Tell that a stage begins, by its words; empty ones after the last."""
        if self._progress is not None:
            self._progress(words or "done", self._done, self._total)
        self._done += 1
