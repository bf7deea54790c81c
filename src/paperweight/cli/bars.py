"""Progress bars of the command line."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from paperweight.texts import visible

__all__ = ["Bars"]


class Bars:
    """Progress bars on the error stream, so that standard output holds results only."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def progress(self, name: str) -> Callable[[str, int, int], None]:
        """Return what shows a bar for each of the words that it is called with, with the number done and of all.

        Args:
            name: What the bars belong to; of a path the stem is shown.
        """
        tasks: dict[str, TaskID] = {}

        def update(words: str, done: int, total: int) -> None:
            self._progress.start()
            if words not in tasks:
                tasks[words] = self._progress.add_task(visible(f"{Path(name).stem}: {words}"), total=total)
            self._progress.update(tasks[words], completed=done, total=total)

        return update
