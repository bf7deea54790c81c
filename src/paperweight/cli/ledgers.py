"""The commands ``paperweight ledger merge``, ``export`` and ``send``; the bench is imported when they run."""

from pathlib import Path

from cyclopts import App

from paperweight.cli.printing import write

__all__ = ["ledger"]

ledger = App(
    name="ledger",
    help="What a ledger holds, put into another one, written as a table, or sent to a tracker.",
    help_format="plaintext",
)


@ledger.command
def merge(file: Path, *, ledger: str = "weighings/ledger.sqlite") -> None:
    """Put trials and verdicts of a ledger file into another ledger; what is there already is left out.

    Args:
        file: The ledger to read; it stays as it is.
        ledger: SQLAlchemy URL or path of the ledger to write into.
    """
    from paperweight.bench.transfer import merge_ledger

    merged = merge_ledger(ledger, file)
    write(
        f"{merged.trials} trials and {merged.verdicts} verdicts went into {ledger}; {merged.there} rows were there "
        "already\n"
    )


@ledger.command
def export(file: Path, *, ledger: str = "weighings/ledger.sqlite") -> None:
    """Write all trials of a ledger as a Parquet file, a row a trial, a column for each metric and argument.

    Args:
        file: The file to write.
        ledger: SQLAlchemy URL or path of the ledger.
    """
    from paperweight.bench.transfer import export_trials

    write(f"{export_trials(ledger, file)} trials are in {file}\n")


@ledger.command
def send(to: str, *, study: str | None = None, ledger: str = "weighings/ledger.sqlite") -> None:
    """Send trials to MLflow or TensorBoard, one run each, and the last verdict on each study as a summary.

    What was sent before is not sent again. It needs the extra mlflow or tensorboard.

    Args:
        to: mlflow:URI, such as mlflow:sqlite:///mlflow.db, or tensorboard:FOLDER.
        study: The only study whose trials are sent; all where left out.
        ledger: SQLAlchemy URL or path of the ledger.
    """
    from paperweight.bench.trackers import send as run

    sent = run(ledger, to, study=study)
    write(f"{sent.trials} trials and {sent.summaries} summaries were sent to {to}; it had {sent.there} already\n")
