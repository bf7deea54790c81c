"""Faults in figures, in short: writers and readers at once, and planted divergences, on SQLite and PostgreSQL."""

import subprocess
import sys
from pathlib import Path

import pytest

from paperweight import weigh
from paperweight.bench.trial import TrialSpec

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(sys.platform == "win32", reason="writers are forked")
def test_writers_and_readers_at_once_get_no_error_and_lose_no_row(place: str) -> None:
    words = [str(BENCHMARKS / "writers.py"), "--writers", "4", "--readers", "2", "--rows", "20"]
    words += ["--postgresql", place] if "://" in place else []
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 4 x 20 | 2 | 0 | 0 | 0 |" in done.stdout


def test_planted_divergences_are_recorded_outcomes(
    place: str, ran: list[TrialSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from divergences import APART, PLANTED, faults, write_study

    names = [name for name in PLANTED if name not in APART]
    weighing = weigh(str(write_study(tmp_path, names)), budget="smoke", seeds=1, ledger=place)
    assert len(ran) == len(names) + 1 == len(weighing.records)
    assert faults(place, names, 1) == []
