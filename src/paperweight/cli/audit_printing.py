"""What ``paperweight audit`` prints; torch is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from paperweight.cli.printing import printed, shown

if TYPE_CHECKING:
    from paperweight.audits.backdoor_inspection import BackdoorInspection
    from paperweight.audits.erasure_inspection import ErasureInspection
    from paperweight.audits.inspection import Inspection
    from paperweight.audits.robustness_inspection import RobustnessInspection

__all__ = ["print_audit", "print_backdoor", "print_erasure", "print_robustness"]


def print_audit(found: "Inspection", report: Path) -> None:
    """Print an audit of memorization."""
    from rich.box import SIMPLE
    from rich.table import Table

    from paperweight.bench.wording import number

    result = found.audit
    colour = "red" if result.alarm else "yellow"
    with printed() as console:
        console.print(f"\n[bold {colour}]{result.verdict.upper()}[/bold {colour}]  {shown(result.words())}\n")
        table = Table(title="Records within a distance of their key", box=SIMPLE, title_justify="left")
        for title in ("distance", "trained", "expected without memory", "95% range", "held out"):
            table.add_column(title)
        for count in result.counts:
            low, high = count.null.low, count.null.high
            held_out = f"{count.held_out} of {len(result.held_out)}" if result.held_out else "none"
            trained = f"{count.trained} of {len(result.trained)}"
            table.add_row(f"{count.delta:g}", trained, number(count.null.mean), f"{low} to {high}", held_out)
        console.print(table)
        if len(result.groups) > 1:
            table = Table(title="By number of copies", box=SIMPLE, title_justify="left")
            for title in ("copies", "records", "within 0.05", "expected", "AUC", "AUC without memory", "p"):
                table.add_column(title)
            for group in result.groups:
                low, high = group.auc_null
                cells = (group.copies, group.records, group.hits, number(group.null.mean), number(group.auc))
                table.add_row(*map(str, cells), f"{low:.2f} to {high:.2f}", f"{group.p:.2g}")
            console.print(table)
        for sentence in result.limits():
            console.print(shown(sentence), style="dim")
        console.print(f"Report: {shown(report)}", soft_wrap=True)


def print_erasure(found: "ErasureInspection", report: Path) -> None:
    """Print an audit of erasure."""
    from rich.box import SIMPLE
    from rich.table import Table

    result = found.audit
    colour = {"removed": "green", "undecided": "yellow"}.get(result.verdict, "red")
    with printed() as console:
        console.print(f"\n[bold {colour}]{result.verdict.upper()}[/bold {colour}]  {shown(result.in_words())}\n")
        table = Table(title="Right images by word", box=SIMPLE, title_justify="left")
        for title in ("word", "before", "erased"):
            table.add_column(title)
        for word in result.words:
            old, new = (result.rate(word, erased=erased) for erased in (False, True))
            table.add_row(shown(word), f"{old.share:.0%}", f"{new.share:.0%}")
        console.print(table)
        for sentence in result.limits():
            console.print(shown(sentence), style="dim")
        console.print(f"Report: {shown(report)}", soft_wrap=True)


def print_robustness(found: "RobustnessInspection", report: Path) -> None:
    """Print an audit of robustness."""
    from rich.box import SIMPLE
    from rich.table import Table

    from paperweight.audits.robustness_findings import rate

    result = found.audit
    colour = "red" if result.alarm else "yellow"
    with printed() as console:
        console.print(f"\n[bold {colour}]{result.verdict.upper()}[/bold {colour}]  {shown(result.in_words())}\n")
        table = Table(title="Right images", box=SIMPLE, title_justify="left")
        for title in ("images", "right", "95% interval"):
            table.add_column(title)
        rows = {"unchanged": result.accuracy}
        rows |= {f"shift: {name}": rate(right) for name, right in result.shifted.items()}
        rows |= {f"attack: {each.name}": rate(each.held) for each in result.attacked}
        rows |= {"all attacks": result.held()}
        rows |= {} if result.proved is None else {"proved": rate(result.proved)}
        for name, each in rows.items():
            table.add_row(shown(name.replace("_", " ")), f"{each.share:.1%}", f"{each.low:.1%} to {each.high:.1%}")
        console.print(table)
        for sentence in result.limits():
            console.print(shown(sentence), style="dim")
        console.print(f"Report: {shown(report)}", soft_wrap=True)


def print_backdoor(found: "BackdoorInspection", report: Path) -> None:
    """Print an audit for backdoors."""
    from rich.box import SIMPLE
    from rich.table import Table

    result = found.audit
    colour = "red" if result.alarm else "yellow"
    with printed() as console:
        console.print(f"\n[bold {colour}]{result.verdict.upper()}[/bold {colour}]  {shown(result.in_words())}\n")
        table = Table(title="Smallest triggers", box=SIMPLE, title_justify="left")
        for title in ("class", "patch covers", "clean twins, median", "pattern's length", "clean twins, median"):
            table.add_column(title)
        for row in result.rows():
            table.add_row(shown(row.name), f"{row.patch:.2%}", f"{row.patch_twins:.2%}", *(f"{x:.2f}" for x in row[3:]))
        console.print(table)
        for sentence in result.limits():
            console.print(shown(sentence), style="dim")
        console.print(f"Report: {shown(report)}", soft_wrap=True)
