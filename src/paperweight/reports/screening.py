"""The report of a screen: one self-contained page, and its numbers as JSON."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from paperweight import nets
from paperweight.catalogue import Entry, entries
from paperweight.reports.pages import rendered, write_page
from paperweight.reports.screening_figures import costs_figure, ranking_figure, rates_figure
from paperweight.screens import Screen
from paperweight.screens.outcome import Fate, spanned

__all__ = ["render_screen", "write_screen_report"]

_ENDS = {
    "decided": (
        "It ended when each recipe that was confirmed had a verdict, had failed three times in a row, or had 100 pairs."
    ),
    "time": "It ended when the time was over.",
    "interrupted": "It was stopped before its time; the same command goes on with it.",
}


def write_screen_report(screen: Screen, out: str | Path = "screens") -> Path:
    """Write ``screen-<data>-<hash>.html`` and, beside it, the numbers as JSON; earlier ones are replaced.

    Args:
        screen: The screen.
        out: The folder.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    mark = hashlib.sha256(screen.command.encode()).hexdigest()[:8]
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in screen.data)[:60] or "data"
    return write_page(Path(out) / f"screen-{stem}-{mark}.html", render_screen(screen), screen.record())


def render_screen(screen: Screen) -> str:
    """Return the whole report.

    Args:
        screen: The screen.

    Returns:
        An HTML page that needs no network and no script.
    """
    known = {entry.stem: entry for entry in entries()}
    return rendered(
        "screen.html.j2",
        screen=screen,
        end=_ENDS[screen.end],
        ranking=Markup(ranking_figure(screen)) if screen.confirmed else None,
        costs=Markup(costs_figure(screen)) if screen.confirmed else None,
        rates=Markup(rates_figure(screen)) if screen.scores else None,
        papers=known,
        imports={fate.name: _imports(fate, known) for fate in screen.fates},
        left=_left(screen.fates),
        spanned=spanned,
    )


def _imports(fate: Fate, known: dict[str, Entry]) -> str:
    """Return the lines that import what a recipe's line names, of its paper and of the networks' tools."""
    if fate.name not in known:
        return ""
    entry = known[fate.name]
    named = set(re.findall(r"\w+", fate.line))
    sources = {f"paperweight.{entry.field}": list(entry.paper.provides), "paperweight.nets": nets.__all__}
    found = {module: [name for name in names if name in named] for module, names in sources.items()}
    return "\n".join(f"from {module} import {', '.join(names)}" for module, names in found.items() if names)


def _left(fates: Sequence[Fate]) -> list[tuple[Fate, float | None]]:
    """Return the recipes that were not confirmed, though they may fit, with what each gained on validation examples."""
    return [
        (fate, sum(fate.race) / len(fate.race) if fate.race else None)
        for fate in fates
        if fate.stage in ("tried", "raced", "waiting")
    ]
