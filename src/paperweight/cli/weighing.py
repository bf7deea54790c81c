"""The command ``paperweight weigh``; torch is imported when it runs."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from paperweight.cli.printing import print_whole, printed, shown

if TYPE_CHECKING:
    from rich.console import Console

    from paperweight.bench import Weighing
    from paperweight.bench.statistics import Comparison

__all__ = ["weigh"]


def weigh(
    study: str,
    *,
    data: str | None = None,
    network: str | None = None,
    budget: Literal["smoke", "desk", "gpu"] = "desk",
    seeds: int | None = None,
    first_seed: int = 0,
    until_decided: Annotated[bool, Parameter(negative=())] = False,
    most: int | None = None,
    arms: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    tune: int | None = None,
    jobs: int | None = None,
    engine: str = "local",
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
        data: Your data in place of the study's: a folder of class folders, a Parquet file or folder, an .npz file, a
            folder of IDX files, or the name of a set under PAPERWEIGHT_DATA.
        network: Your network in place of the study's, as package.module:factory.
        budget: How much to compute: smoke takes seconds, desk minutes on two cores, gpu one large GPU.
        seeds: Number of pairs, as the study declares where left out; below 6 no verdict is possible.
        first_seed: The first seed. Official results use seeds from 0: try a study on seeds from 1000 on.
        until_decided: Look at each pair as it comes, and stop once there is a verdict, in place of a fixed number of
            pairs; interval and p allow for it.
        most: Pairs after which that stops without a verdict; 64 where left out.
        arms: Arms to run beside the baseline; all where left out.
        tune: Number of tries, at least 3, that each arm gets in place of those of its grids, at values that Optuna
            suggests between the smallest and the largest of the grid; needs the extra tune.
        jobs: Worker processes; as many as there are cores where left out.
        engine: Where they are: local, ray (Ray's own cluster on this machine), or ray:HOST:PORT (a cluster that runs;
            code, own studies and data lie at the same path on all its nodes); needs the extra ray.
        device: cpu or cuda.
        time_limit: Seconds a trial may take.
        retry: Run trials again that crashed, ran out of memory or time.
        ledger: SQLAlchemy URL or path of the ledger; ledger.sqlite in --out where left out.
        out: Folder of the report.
    """
    from paperweight.processes import start_worker

    with closing(start_worker()) as worker:
        from paperweight.bench import weigh as run
        from paperweight.bench.declaring import declared_study
        from paperweight.cli.announcing import announce
        from paperweight.cli.bars import Bars
        from paperweight.reports import write_report
        from paperweight.reports.pages import check_folder

        check_folder(out)
        with Bars() as bars:
            if data is not None:
                declared_study(study)
                announce(data, bars, name=study)
            weighing = run(
                study,
                data=data,
                network=network,
                budget=budget,
                seeds=seeds,
                first_seed=first_seed,
                until_decided=until_decided,
                most=most,
                arms=arms,
                tune=tune,
                jobs=jobs,
                engine=engine,
                device=device,
                time_limit=time_limit,
                retry=retry,
                ledger=ledger or out / "ledger.sqlite",
                progress=bars.progress(study),
                worker=worker,
            )
    report = write_report(weighing, out)
    with printed() as console:
        _print_weighing(console, weighing, report)


def _print_weighing(console: "Console", weighing: "Weighing", report: Path) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from paperweight.bench.wording import number

    study = weighing.study
    colour = {"helps": "green", "hurts": "red"}.get(weighing.verdict, "yellow")
    console.print(f"\n[bold]{shown(study.question)}[/bold]")
    console.print(f"[bold {colour}]{weighing.verdict.upper()}[/bold {colour}]  {shown(weighing.words())}\n")

    def gains(title: str, first: str, *more: str) -> Table:
        table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), title_justify="left")
        table.add_column(first, min_width=12, overflow="fold")
        for column in ("gain", "interval", "p", "verdict", *more):
            table.add_column(column, no_wrap=True)
        return table

    def add(table: Table, label: str, comparison: "Comparison", *cells: str, bold: bool = False) -> None:
        interval = comparison.interval
        table.add_row(
            shown(label),
            number(comparison.gain),
            f"{number(interval.low)} to {number(interval.high)}",
            f"{comparison.p_adjusted:.2g}",
            comparison.verdict,
            *cells,
            style="bold" if bold else None,
        )

    headline = study.metrics[study.headline]
    title = f"Gain over {shown(weighing.arms[0])} in {shown(headline.label)}; above zero is better"
    table = gains(title, "arm", "", "time")
    for arm, comparison in weighing.comparisons(study.headline).items():
        cost = f"x {number(weighing.cost(arm).cpu)}"
        add(table, arm, comparison, "primary" if comparison.primary else "secondary", cost, bold=comparison.primary)
    print_whole(console, table)
    others = gains(f"Secondary measures of {shown(weighing.method)}", "measure")
    for name, metric in study.metrics.items():
        if name != study.headline:
            unit = f", {metric.unit}" if metric.unit else ""
            add(others, metric.label + unit, weighing.comparisons(name)[weighing.method])
    if others.rows:
        print_whole(console, others)
    for record in weighing.failures:
        reason = record.message.strip().splitlines()[-1] if record.message else ""
        console.print(
            f"[red]{record.status}[/red]: arm {shown(record.spec.arm)}, seed {record.spec.seed}. {shown(reason)}"
        )
    console.print(f"Report: {shown(report)}", soft_wrap=True)
