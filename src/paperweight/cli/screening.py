"""The command ``paperweight screen``; torch is imported when it runs."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from paperweight.cli.printing import print_whole, printed, shown

if TYPE_CHECKING:
    from rich.console import Console

    from paperweight.screens import Screen

__all__ = ["screen"]

_STARTED = time.monotonic()


def screen(
    *,
    data: str,
    target: str | None = None,
    network: str | None = None,
    minutes: float = 10.0,
    least: float = 0.01,
    field: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    with_: Annotated[list[str] | None, Parameter(name="--with", consume_multiple=True, negative=())] = None,
    jobs: int | None = None,
    engine: str = "local",
    ledger: str | None = None,
    out: Path = Path("screens"),
) -> int:
    """Find out which published methods help on your data, in the minutes that you give.

    Every method that fits is tried; those that look best are confirmed on fresh pairs. What is finished is kept: the
    same command goes on where it was stopped.

    Args:
        data: Your images, as paperweight weigh takes them, or a table: a CSV file.
        target: The column of a table to predict, a class; the last one where left out.
        network: Your network, as package.module:factory, called with the shape of an input and the number of classes;
            a small one where left out.
        minutes: How long it may take.
        least: The smallest gain in test accuracy worth reporting; with a larger one more is decided in the same time.
        field: Fields whose methods are looked at; all where left out.
        with_: Recipes of your own, each a paperweight.studies.Recipe, as package.module:recipe.
        jobs: Trials at once; as many as there are cores where left out.
        engine: Where they run: local, ray, or ray:HOST:PORT, as for weigh.
        ledger: SQLAlchemy URL or path of the ledger; ledger.sqlite in --out where left out.
        out: Folder of the report.
    """
    from paperweight.processes import start_worker

    with closing(start_worker()) as worker:
        from paperweight.cli.announcing import announce, announce_table
        from paperweight.cli.bars import Bars
        from paperweight.cli.racing import Live
        from paperweight.data import is_embedded
        from paperweight.reports import write_screen_report
        from paperweight.reports.pages import check_folder
        from paperweight.screens import screen as run

        check_folder(out)
        if target is None and not data.lower().endswith(".csv"):
            with Bars() as bars:
                announce(data, bars, name="screen")
        elif not is_embedded(data):
            announce_table(data, target)
        with Live() as live:
            found = run(
                data,
                target=target,
                network=network,
                minutes=minutes,
                least=least,
                fields=field,
                recipes=with_ or (),
                jobs=jobs,
                engine=engine,
                out=out,
                ledger=ledger,
                progress=live.show,
                worker=worker,
                started=_STARTED,
            )
    report = write_screen_report(found, out)
    with printed() as console:
        _print_screen(console, found, report)
    if found.end == "interrupted":
        raise KeyboardInterrupt
    return 0


def _print_screen(console: "Console", screen: "Screen", report: Path) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from paperweight.bench.wording import number
    from paperweight.screens.outcome import spanned

    tone = "green" if screen.winners else "yellow"
    console.print(f"\n[bold {tone}]{shown(screen.words())}[/bold {tone}]\n")
    rows = screen.confirmed
    if rows:
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0), title="Gain in test accuracy over the tuned baseline")
        table.title_justify = "left"
        table.add_column("recipe", overflow="fold")
        for column in ("gain", "interval", "pairs", "time", "verdict"):
            table.add_column(column, no_wrap=True)
        for fate in rows:
            if fate.confirmed is not None:
                table.add_row(
                    shown(fate.name),
                    number(fate.confirmed.gain),
                    spanned(fate.confirmed.interval),
                    str(len(fate.confirmed.gains)),
                    "" if fate.cost is None else f"x {number(fate.cost)}",
                    fate.verdict if screen.ranks else "a control failed",
                    style="bold" if fate in screen.winners else None,
                )
        print_whole(console, table)
    alike: dict[str, list[str]] = {}
    for fate in screen.fates:
        if fate.confirmed is None or fate.reason:
            said = f"{fate.verdict}{fate.reason and f'. {fate.reason}'}"
            alike.setdefault(said, []).append(fate.name)
    for said, names in alike.items():
        console.print(f"{shown(', '.join(names))}: {shown(said)}", soft_wrap=True)
    for fate in (*screen.winners, *screen.savers):
        console.print(f"\n{shown(fate.name)}:\n  {shown(fate.line)}", soft_wrap=True)
    console.print(f"\nReport: {shown(report)}", soft_wrap=True)
