"""The command line: ``paperweight list``, ``show``, ``weigh``, ``board``, ``check``, ``plant`` and ``audit``.

Listing and help import no torch. A person's mistake ends in one message and exit status 2.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from paperweight import __version__
from paperweight.audits.commands import audit, plant
from paperweight.catalogue import Entry, find, official_result, select, signatures
from paperweight.errors import InputError

if TYPE_CHECKING:
    from paperweight.bench.statistics import Comparison
    from paperweight.bench.weighing import Weighing

__all__ = ["main"]

app = App(
    name="paperweight",
    help="Published deep-learning methods, and the bench that weighs them.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
app.command(plant)
app.command(audit)


@app.command(name="list")
def list_papers(
    *, field: str | None = None, kind: str | None = None, search: str | None = None, json: bool = False
) -> None:
    """List the papers of the library.

    Args:
        field: Only this research field, such as optim.
        kind: Only papers that provide this kind, such as optimizer.
        search: Only papers in whose card all these words occur.
        json: Print JSON instead of a table.
    """
    found = select(field=field, kind=kind, search=search)
    if json:
        _print_json([_card(entry) for entry in found])
        return
    if not found:
        sys.stdout.write("No paper meets these conditions.\n")
        return
    width = max(len(entry.stem) for entry in found)
    for entry in found:
        paper = entry.paper
        sys.stdout.write(f"{entry.stem:{width}}  {entry.field:16}  {paper.year}  {paper.title}\n")
    sys.stdout.write(f"\n{len(found)} paper{'' if len(found) == 1 else 's'}. More on one: paperweight show NAME\n")


@app.command
def show(name: str, *, json: bool = False) -> None:
    """Show a paper: its card, what it provides, its claim, and the official result of its study.

    Args:
        name: Stem of the paper, or a name that it provides.
        json: Print JSON instead of text.
    """
    entry = find(name)
    official = official_result(entry)
    if json:
        result = None if official is None else {**official.record, "stale": official.stale, "changed": official.changed}
        _print_json({**_card(entry), "signatures": signatures(entry), "result": result})
        return
    paper = entry.paper
    lines = [
        f"{paper.title} ({paper.year})",
        ", ".join(paper.authors),
        paper.url,
        "",
        f"Claim   {paper.claim}",
        f"Field   {entry.field}",
        f"Null    {', '.join(f'{k}={v}' for k, v in paper.null.items()) or 'none'}",
        "",
        f"from paperweight.{entry.field} import {', '.join(paper.provides)}",
        *(f"  {paper.provides[public]:12} {call}" for public, call in signatures(entry).items()),
        "",
    ]
    if official is None:
        lines.append(f"There is no official result yet. Weigh it: paperweight weigh {entry.stem}")
    else:
        record = official.record
        lines += [
            f"Official result ({record['budget']} budget, {record['seeds']} seeds, {record['measured_on']}): "
            f"{record['verdict'].upper()}",
            record["words"],
            f"Limits: {record['limits']}",
        ]
        if official.stale:
            lines.append(
                f"STALE: the {', the '.join(official.changed)} code changed since. Weigh again: "
                f"paperweight weigh {entry.stem}"
            )
    sys.stdout.write("\n".join(lines) + "\n")


@app.command
def weigh(
    study: str,
    *,
    data: str | None = None,
    network: str | None = None,
    budget: Literal["smoke", "desk", "gpu"] = "desk",
    seeds: int | None = None,
    arms: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    jobs: int | None = None,
    device: str | None = None,
    time_limit: float | None = None,
    retry: Annotated[bool, Parameter(negative=())] = False,
    ledger: str | None = None,
    out: Path = Path("weighings"),
) -> None:
    """Weigh a study: run baseline and method over paired seeds and say whether the method helps, and what it costs.

    Finished trials are kept in a ledger: the same command goes on where it was stopped.

    Args:
        study: Stem of a paper, or the path of a study file.
        data: Your data in place of the study's: a folder of class folders, a Parquet file or folder, an .npz file, or
            the name of a set under PAPERWEIGHT_DATA.
        network: Your network in place of the study's, as package.module:factory.
        budget: How much to compute: smoke takes seconds, desk minutes on two cores, gpu one large GPU.
        seeds: Number of pairs; below 6 no verdict is possible. Where left out 8, or as many more as so many arms need.
        arms: Arms to run beside the baseline; all where left out.
        jobs: Worker processes; as many as there are cores where left out.
        device: cpu or cuda.
        time_limit: Seconds a trial may take.
        retry: Run trials again that crashed, ran out of memory or time.
        ledger: SQLAlchemy URL or path of the ledger; ledger.sqlite in --out where left out.
        out: Folder of the report.
    """
    from paperweight.bench.bars import Bars
    from paperweight.bench.weighing import weigh as run

    with Bars() as bars:
        weighing = run(
            study,
            data=data,
            network=network,
            budget=budget,
            seeds=seeds,
            arms=arms,
            jobs=jobs,
            device=device,
            time_limit=time_limit,
            retry=retry,
            ledger=ledger,
            out=out,
            progress=bars.progress(study),
        )
    _print_weighing(weighing)


@app.command
def board(
    names: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    /,
    *,
    jobs: int | None = None,
    out: Path = Path("weighings"),
) -> None:
    """Weigh every study whose official result is missing or stale, and write results/ (in a checkout).

    Args:
        names: Papers to weigh in place of those.
        jobs: Worker processes; as many as there are cores where left out.
        out: Folder of reports and ledger.
    """
    from rich.console import Console
    from rich.table import Table

    from paperweight.bench.bars import Bars
    from paperweight.bench.board import board as run

    with Bars() as bars:
        rows = run(names or (), out=out, jobs=jobs, progress=bars.progress)
    table = Table(title="Official results, p adjusted over all studies (Benjamini-Hochberg)", title_justify="left")
    for title in ("study", "verdict", "gain", "p", "p adjusted", ""):
        table.add_column(title)
    for row in rows:
        gain = row.gain if isinstance(row.gain, str) else f"{row.gain:.3g}"
        table.add_row(
            row.stem, row.verdict, gain, f"{row.p:.2g}", f"{row.p_adjusted:.2g}", "new" if row.written else ""
        )
    Console().print(table)


@app.command
def check(
    kind: str,
    name: str,
    *,
    input: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
) -> None:
    """Check an object of your own against the contract of its kind; exit with status 1 if it breaks a law.

    Args:
        kind: What it is, such as optimizer, layer or loss.
        name: Where it is, as package.module:name: a class or function that makes it, or a subject of
            paperweight.testing, which tells more and has more checked. An optimizer is made from parameters, a schedule
            from an optimizer, a defense or training procedure from a model, the others without arguments; a function
            may also be named itself.
        input: What a layer, network, loss, regularizer, metric or function is called with, one word an argument: 8x5
            is a tensor of that shape of normal numbers, 8:10 one of whole numbers from 0 to 9; the first dimension is
            the batch.
    """
    from paperweight.testing import check_object

    report = check_object(kind, name, inputs=input or ())
    sys.stdout.write(f"{report}\n")
    if not report.passed:
        sys.exit(1)


def _card(entry: Entry) -> dict[str, object]:
    paper = entry.paper
    return {
        "stem": entry.stem,
        "field": entry.field,
        "title": paper.title,
        "authors": paper.authors,
        "year": paper.year,
        "url": paper.url,
        "provides": paper.provides,
        "claim": paper.claim,
        "null": paper.null,
        "builds_on": paper.builds_on,
    }


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _print_weighing(weighing: "Weighing") -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from paperweight.bench.weighing import number

    console = Console()
    study = weighing.study
    colour = {"helps": "green", "hurts": "red"}.get(weighing.verdict, "yellow")
    console.print(f"\n[bold]{escape(study.question)}[/bold]")
    console.print(f"[bold {colour}]{weighing.verdict.upper()}[/bold {colour}]  {escape(weighing.words())}\n")

    def gains(title: str, first: str, *more: str) -> Table:
        table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), title_justify="left")
        table.add_column(first)
        for column in ("gain", "95% interval", "p", "verdict", *more):
            table.add_column(column, no_wrap=True)
        return table

    def add(table: Table, label: str, comparison: "Comparison", *cells: str, bold: bool = False) -> None:
        interval = comparison.interval
        table.add_row(
            escape(label),
            number(comparison.gain),
            f"{number(interval.low)} to {number(interval.high)}",
            f"{comparison.p_holm:.2g}",
            comparison.verdict,
            *cells,
            style="bold" if bold else None,
        )

    headline = study.metrics[study.headline]
    title = f"Gain over {escape(weighing.arms[0])} in {escape(headline.label)}; above zero is better"
    table = gains(title, "arm", "time")
    for arm, comparison in weighing.comparisons(study.headline).items():
        cost = f"x {number(weighing.cost(arm).cpu)}"
        add(table, arm, comparison, cost, bold=arm == weighing.method)
    console.print(table)
    others = gains(f"Other measures of {escape(weighing.method)}", "measure")
    for name, metric in study.metrics.items():
        if name != study.headline:
            unit = f", {metric.unit}" if metric.unit else ""
            add(others, metric.label + unit, weighing.comparisons(name)[weighing.method])
    if others.rows:
        console.print(others)
    for record in weighing.failures:
        reason = record.message.strip().splitlines()[-1] if record.message else ""
        console.print(
            f"[red]{record.status}[/red]: arm {escape(record.spec.arm)}, seed {record.spec.seed}. {escape(reason)}"
        )
    console.print(f"Report: {escape(str(weighing.report))}", soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 when it worked, 2 after a person's mistake, 130 when interrupted.

    Args:
        arguments: The words after the program's name; those of the process where left out.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except InputError as error:
        sys.stderr.write(f"paperweight: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Finished trials are kept; the same command goes on with the rest.\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
