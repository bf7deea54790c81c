"""Official results: every study that is stale or missing is weighed at the desk budget and written to ``results/``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paperweight.bench.statistics import benjamini_hochberg
from paperweight.bench.weighing import Progress, weigh
from paperweight.catalogue import Entry, entries, find, official_result, results_root
from paperweight.errors import InputError

__all__ = ["BoardRow", "board", "due"]


@dataclass(frozen=True, slots=True)
class BoardRow:
    """The state of one study after a run of the board.

    Args:
        stem: The paper.
        verdict: Its official verdict.
        p: The sign-flip p of the method on the headline metric, adjusted within the study.
        p_adjusted: The same after Benjamini-Hochberg over all studies that have a result.
        gain: The mean gain in the headline metric.
        written: Whether this run wrote it.
    """

    stem: str
    verdict: str
    p: float
    p_adjusted: float
    gain: float | str
    written: bool


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
    out: Path = Path("weighings"),
    jobs: int | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> list[BoardRow]:
    """Weigh what is stale or missing on the studies' own data at the desk budget, and write ``results/``.

    Args:
        names: The papers to weigh; all that are stale or missing where empty.
        out: Folder of reports and ledger.
        jobs: Number of worker processes.
        progress: Given a paper's stem, returns what is called with the progress of its weighing.

    Returns:
        One row a study that has a result, by adjusted p-value.

    Raises:
        InputError: If a name is unknown, or this is an installed package without a folder of results to write to.
    """
    root = results_root()
    if root.name == "_results":
        raise InputError("board writes the results of a checkout; an installed package has none to write to")
    written: set[str] = set()
    for entry in due(names):
        weighing = weigh(entry.stem, out=out, jobs=jobs, progress=None if progress is None else progress(entry.stem))
        path = root / entry.field / f"{entry.stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(weighing.record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
        written.add(entry.stem)
    return _rows(written)


def _rows(written: set[str]) -> list[BoardRow]:
    found = [(entry.stem, official.record) for entry in entries() if (official := official_result(entry)) is not None]
    headlines = [
        next(c for c in record["metrics"][record["headline"]]["comparisons"] if c["arm"] == record["method"])
        for _, record in found
    ]
    adjusted = benjamini_hochberg([headline["p_holm"] for headline in headlines])
    rows = [
        BoardRow(stem, record["verdict"], headline["p_holm"], p, headline["gain"], stem in written)
        for (stem, record), headline, p in zip(found, headlines, adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: row.p_adjusted)
