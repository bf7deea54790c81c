"""What a screen shows while it runs: its stage, which recipes are alive and by what margin, and the time left."""

from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from paperweight.texts import visible

if TYPE_CHECKING:
    from paperweight.screens import Progress

__all__ = ["Live"]

_ROWS = 12


class Live:
    """A picture of the race on the error stream; a line a stage where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = RichLive(console=self._console, transient=True, auto_refresh=False)
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, progress: "Progress") -> None:
        """Show how far the screen is."""
        stage = progress.stage.partition(",")[0]
        if not self._console.is_terminal:
            if stage != self._stage:
                self._console.print(f"{stage}, {_clock(progress.left)} left", markup=False, highlight=False)
            self._stage = stage
            return
        self._live.start()
        self._live.update(picture(progress), refresh=True)


def picture(progress: "Progress") -> Group:
    """Return the picture of a screen on its way."""
    head = Text(f"{progress.stage}; {_clock(progress.left)} left")
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, progress.total), completed=progress.done, width=40))
    table = Table.grid(padding=(0, 2))
    known = {name: gain for name, gain in progress.alive.items() if gain is not None}
    ranked = sorted(progress.alive, key=lambda name: -known.get(name, 0.0))
    for name in ranked[:_ROWS]:
        gain = "" if name not in known else f"{known[name]:+.4f}"
        table.add_row(Text(visible(name)), Text(gain, style="green" if known.get(name, 0.0) > 0 else ""))
    if len(ranked) > _ROWS:
        table.add_row(Text(f"and {len(ranked) - _ROWS} more"), Text())
    return Group(head, bar, table)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
