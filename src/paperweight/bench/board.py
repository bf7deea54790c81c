"""Official results: what is stale is renewed or weighed again, what is missing is weighed, and all is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paperweight.bench.conclusion import conclude
from paperweight.bench.curves import later_curves, strays
from paperweight.bench.loading import load_study
from paperweight.bench.renewal import Revisions, attempt_renewal, renewed
from paperweight.bench.runner import Progress, weigh
from paperweight.bench.statistics import benjamini_hochberg
from paperweight.bench.weighing import Weighing
from paperweight.catalogue import (
    Entry,
    OfficialResult,
    entries,
    find,
    official_result,
    result_path,
    results_root,
    write_result,
)
from paperweight.errors import InputError
from paperweight.provenance import here

__all__ = ["BoardRow", "Done", "board", "conclude_again", "draw_curves", "due", "explain"]

Done = Literal["weighed", "renewed", "concluded", "curves drawn", ""]

_DRAWN_SEEDS = 2


@dataclass(frozen=True, slots=True)
class BoardRow:
    """The state of one study after a run of the board.

    Args:
        stem: The paper.
        verdict: Its official verdict.
        p: The sign-flip p of the method on the headline metric.
        p_adjusted: The same after Benjamini-Hochberg over all studies that have a result.
        gain: The mean gain in the headline metric.
        done: What this run did to it.
    """

    stem: str
    verdict: str
    p: float
    p_adjusted: float
    gain: float | str
    done: Done


def due(names: Sequence[str] = ()) -> list[Entry]:
    """Return the papers whose official result is missing or stale, or the named ones.

    Raises:
        InputError: If a name is unknown.
    """
    if names:
        return [find(name) for name in names]
    waiting: list[Entry] = []
    for entry in entries():
        official = official_result(entry)
        if entry.study_path.is_file() and (official is None or official.stale):
            waiting.append(entry)
    return waiting


def board(
    names: Sequence[str] = (),
    *,
    renew: bool = False,
    ledger: str = "weighings/ledger.sqlite",
    jobs: int | None = None,
    engine: str = "local",
    progress: Callable[[str], Progress] | None = None,
    weighed: Callable[[Weighing], object] | None = None,
    refused: Callable[[str, Sequence[str]], object] | None = None,
) -> list[BoardRow]:
    """Weigh what is stale or missing on the studies' own data at the desk budget, and write ``results/``.

    Args:
        names: The papers; all that are stale or missing where empty.
        renew: Whether stale results are replayed first, see `paperweight.bench.renewal`, and only those weighed that
            a replay does not renew; named results that are not stale are left as they are.
        ledger: A SQLAlchemy URL or the path of an SQLite file.
        jobs: Number of worker processes.
        engine: Where they are, as in `weigh`; a replay is on this machine.
        progress: Given a paper's stem, returns what is called with the progress of its weighing.
        weighed: Called with each weighing when its result is written.
        refused: Called with the stem and the reasons of each result that a replay does not renew.

    Returns:
        One row a study that has a result, by adjusted p-value.

    Raises:
        InputError: If a name is unknown, trials were killed from outside, or this is an installed package without a
            folder of results to write to.
    """
    _refuse_installed()
    done: dict[str, Done] = {}
    with Revisions(here().package.parents[1]) as revisions:
        for entry in due(names):
            official = official_result(entry)
            told = None if progress is None else progress(entry.stem)
            if renew and official is not None:
                if not official.stale:
                    continue
                renewal = attempt_renewal(entry.stem, official.record, result_path(entry), revisions, told)
                if renewal.entry is not None:
                    _write(entry, renewed(official.record, renewal.entry))
                    done[entry.stem] = "renewed"
                    continue
                if refused is not None:
                    refused(entry.stem, renewal.reasons)
            weighing = weigh(entry.stem, ledger=ledger, jobs=jobs, engine=engine, progress=told)
            if any(record.status == "killed" for record in weighing.failures):
                raise InputError(
                    f"trials of {entry.stem} were killed from outside; the same command runs them again, and until "
                    "then there is no result to write"
                )
            write_result(entry, weighing.record())
            done[entry.stem] = "weighed"
            if weighed is not None:
                weighed(weighing)
    return _rows(done)


def explain(name: str, reason: str) -> None:
    """Write into a stale result why it holds for the definitions as they are now, though no replay shows it.

    Args:
        name: The paper.
        reason: Why, in a sentence.

    Raises:
        InputError: If the paper has no result, it is not stale, or the reason is empty.
    """
    _refuse_installed()
    entry = find(name)
    official = official_result(entry)
    if official is None or not official.stale:
        raise InputError(
            f"{entry.stem} has no stale result to explain; paperweight show {entry.stem} says how it stands"
        )
    if not reason.strip():
        raise InputError("explain must be a reason in words, got an empty text")
    tree = here()
    units = {unit: tree.digest(unit) for unit in official.changed}
    before: str = official.record.get("explained", {}).get("reason", "")
    _write(entry, {**official.record, "explained": {"reason": f"{before} {reason}".strip(), "units": units}})


def conclude_again(names: Sequence[str] = ()) -> list[BoardRow]:
    """Write anew what is concluded from the measured part of official results; nothing is run.

    Args:
        names: The papers; all that have a result where empty.

    Returns:
        One row a study that has a result, by adjusted p-value.

    Raises:
        InputError: If a name is unknown, this is an installed package, or studies no longer fit their measured parts;
            all others are concluded before.
    """
    _refuse_installed()
    done: dict[str, Done] = {}
    unfit: list[str] = []
    for entry in [find(name) for name in names] or entries():
        official = official_result(entry)
        try:
            if official is not None and _concluded(entry, official) != official.concluded:
                _write(entry, official.record)
                done[entry.stem] = "concluded"
        except InputError as error:
            unfit.append(str(error))
    if unfit:
        raise InputError("; ".join(unfit))
    return _rows(done)


def draw_curves(
    names: Sequence[str],
    *,
    ledger: str = "weighings/ledger.sqlite",
    jobs: int | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> list[BoardRow]:
    """Run the first two seeds of official results that keep no curves again, and add the curves of these trials.

    What was measured and concluded stays as it is. Beside the curves stands by how much the headline metric of the
    trials differs from what was measured: by nothing where processor and versions compute alike; elsewhere a training
    may end as far away as with another seed, but not farther.

    Args:
        names: The papers.
        ledger: A SQLAlchemy URL or the path of an SQLite file.
        jobs: Number of worker processes.
        progress: Given a paper's stem, returns what is called with the progress of its trials.

    Returns:
        One row a study that has a result, by adjusted p-value.

    Raises:
        InputError: If a name is unknown, this is an installed package, or a result is missing, stale, not of the desk
            budget, or has curves already, before anything runs; or, once curves are added to the others, if trials draw
            none or their headline metric is not among what all seeds gave, which the minimal effect widens.
    """
    _refuse_installed()
    found: list[tuple[Entry, OfficialResult]] = []
    for entry in map(find, names):
        official = official_result(entry)
        if official is None or official.stale or official.measured["budget"] != "desk":
            raise InputError(f"{entry.stem} has no desk result that holds; weigh it again, and it keeps its curves")
        if official.measured.get("curves"):
            raise InputError(f"the result of {entry.stem} keeps curves of all its seeds already; leave it out")
        found.append((entry, official))
    done: dict[str, Done] = {}
    refused: list[str] = []
    for entry, official in found:
        told = None if progress is None else progress(entry.stem)
        weighing = weigh(entry.stem, seeds=_DRAWN_SEEDS, ledger=ledger, jobs=jobs, progress=told)
        study, again = weighing.study, weighing.conclusion.measured
        metric = study.metrics[study.headline]
        if not again["curves"]:
            refused.append(f"the trials of {entry.stem} draw no curves; there is nothing to add")
        elif arms := strays(official.measured, again, study.headline, metric.minimal_effect):
            refused.append(
                f"{metric.label} of {entry.stem} lies outside what was measured by the minimal effect or more, of "
                f"{', '.join(arms)}; weigh it again"
            )
        else:
            drawn = later_curves(official.measured, again, study.headline)
            _write(entry, {**official.record, "later_curves": drawn})
            done[entry.stem] = "curves drawn"
    if refused:
        raise InputError("; ".join(refused))
    return _rows(done)


def _concluded(entry: Entry, official: OfficialResult) -> dict[str, Any]:
    return conclude(load_study(entry.stem).declaration, official.measured)


def _write(entry: Entry, record: Mapping[str, Any]) -> None:
    concluded = conclude(load_study(entry.stem).declaration, record["measured"])
    write_result(entry, {**record, "concluded": concluded})


def _refuse_installed() -> None:
    if results_root().name == "_results":
        raise InputError("board writes the results of a checkout; an installed package has none to write to")


def _rows(done: Mapping[str, Done]) -> list[BoardRow]:
    found = [(entry.stem, official.concluded) for entry in entries() if (official := official_result(entry))]
    primaries = [
        next(each for each in concluded["metrics"][concluded["headline"]]["comparisons"] if each["primary"])
        for _, concluded in found
    ]
    adjusted = benjamini_hochberg([primary["p"] for primary in primaries])
    rows = [
        BoardRow(stem, concluded["verdict"], primary["p"], p, primary["gain"], done.get(stem, ""))
        for (stem, concluded), primary, p in zip(found, primaries, adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: row.p_adjusted)
