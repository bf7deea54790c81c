"""The command ``paperweight board``; torch is imported when it runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from paperweight.cli.printing import printed, say
from paperweight.errors import InputError

__all__ = ["board"]


def board(
    names: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    /,
    *,
    renew: Annotated[bool, Parameter(negative=())] = False,
    conclude: Annotated[bool, Parameter(negative=())] = False,
    explain: str | None = None,
    curves: Annotated[bool, Parameter(negative=())] = False,
    jobs: int | None = None,
    engine: str = "local",
    out: Path = Path("weighings"),
) -> None:
    """Weigh every study whose official result is missing or stale, and write results/ (in a checkout).

    Args:
        names: Papers to weigh in place of those.
        renew: First replay what is stale in the revision that it was measured with and in the present one; what is
            equal bit for bit is renewed, and only the rest is weighed again.
        conclude: Run nothing, but conclude again from what was measured: of the named papers, or of all.
        explain: Run nothing, but write into the one named result why it holds for the code as it is now.
        curves: Run the first two seeds of the named papers again, whose results keep no curves, and add those of these.
        jobs: Worker processes; as many as there are cores where left out.
        engine: Where they are: local, ray, or ray:HOST:PORT, as for weigh; a replay is on this machine.
        out: Folder of reports and ledger.
    """
    from rich.table import Table

    from paperweight.bench import board as official
    from paperweight.cli.bars import Bars
    from paperweight.reports import write_report

    if explain is not None:
        if len(names or ()) != 1:
            raise InputError(f"explain wants the one paper whose result it explains, got {len(names or ())}")
        official.explain((names or [""])[0], explain)
        return

    if curves and not names:
        raise InputError("curves wants the papers whose results keep no curves; name them")

    def refused(stem: str, reasons: Sequence[str]) -> None:
        say(f"{stem} must be weighed again: {'; '.join(reasons)}")

    if conclude:
        rows = official.conclude_again(names or ())
    elif curves:
        with Bars() as bars:
            rows = official.draw_curves(
                names or (), ledger=str(out / "ledger.sqlite"), jobs=jobs, progress=bars.progress
            )
    else:
        with Bars() as bars:
            rows = official.board(
                names or (),
                renew=renew,
                ledger=str(out / "ledger.sqlite"),
                jobs=jobs,
                engine=engine,
                progress=bars.progress,
                weighed=lambda weighing: write_report(weighing, out),
                refused=refused,
            )
    table = Table(title="Official results, p adjusted over all studies (Benjamini-Hochberg)", title_justify="left")
    for title in ("study", "verdict", "gain", "p", "p adjusted", ""):
        table.add_column(title)
    for row in rows:
        gain = row.gain if isinstance(row.gain, str) else f"{row.gain:.3g}"
        table.add_row(row.stem, row.verdict, gain, f"{row.p:.2g}", f"{row.p_adjusted:.2g}", row.done)
    with printed() as console:
        console.print(table)
