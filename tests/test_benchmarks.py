"""Benchmarks of faults run in short, and every benchmark says what it is for."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_is_for_or_what_it_needs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    before, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    for name in set(sys.modules) - before:
        if str(path.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    told = said.getvalue() + str(ended.value.code or "")
    assert ended.value.code in (0, None) or re.search("is missing|is not installed", told), told
    assert "usage:" in told or "missing" in told or "not installed" in told


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_table_of_faults_is_without_fault_in_short() -> None:
    words = [sys.executable, str(ROOT / "benchmarks/faults.py"), "--short", "--parts", "studies", "data"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\| none \|", done.stdout)) == 2
