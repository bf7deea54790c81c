"""A weighing that is interrupted or killed loses nothing that was finished and leaves no worker behind."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paperweight.cli import main

STUDY = """
    import os, time
    from pathlib import Path
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="stopped", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm: Arm, setting: Setting) -> Outcome:
        here = Path(__file__).parent
        (here / f"pid-{os.getpid()}").touch()
        while setting.seed >= 1 and (here / "slow").exists():
            time.sleep(0.05)
        return Outcome(metrics={"score": float(arm.name == "method") + 0.01 * setting.seed})
"""


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


def running(pid: int) -> bool:
    """Tell whether a process is there and is no zombie, which has ended but has no parent that asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_finished_trials_survive_interruption_and_kill_and_the_same_command_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "stopped.py"
    study.write_text(textwrap.dedent(STUDY))
    slow = tmp_path / "slow"
    slow.touch()
    ledger = tmp_path / "out" / "ledger.sqlite"
    words = ["weigh", str(study), "--budget", "smoke", "--seeds", "6", "--jobs", "2", "--out", str(ledger.parent)]

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "paperweight.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PAPERWEIGHT_CACHE": str(tmp_path / "cache")},
        )

    def trials() -> list[tuple[str, int, str]]:
        try:
            file = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        except sqlite3.OperationalError:
            return []
        try:
            return sorted(file.execute("SELECT arm, seed, status FROM trial").fetchall())
        except sqlite3.OperationalError:
            return []
        finally:
            file.close()

    def workers() -> list[int]:
        return [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]

    first = [("base", 0, "finished"), ("method", 0, "finished")]
    driver = start()
    assert wait_for(lambda: trials() == first)
    assert len([pid for pid in workers() if running(pid)]) == 2
    driver.send_signal(signal.SIGINT)
    output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "Finished trials are kept" in errors
    assert "Traceback" not in errors + output
    assert [pid for pid in workers() if running(pid)] == []
    assert trials() == first

    driver = start()
    assert wait_for(lambda: len(workers()) == 4)
    driver.kill()
    driver.communicate(timeout=120)
    assert wait_for(lambda: not any(running(pid) for pid in workers()), seconds=5)  # in the midst of an endless trial
    assert trials() == first
    slow.unlink()

    driver = start()
    output, errors = driver.communicate(timeout=120)
    assert (driver.returncode, "Traceback" in errors) == (0, False)
    assert output.split().count("HELPS") == 1
    assert trials() == sorted((arm, seed, "finished") for arm in ("base", "method") for seed in range(6))
    (report,) = ledger.parent.glob("stopped-smoke-*.html")
    assert report.name in output.replace("\n", "")
    assert wait_for(lambda: not any(running(pid) for pid in workers()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_is_an_interruption_with_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def told(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("paperweight.cli._app", told)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        main(["weigh"])
    assert stop.value.code == 128 + number
    assert "Finished trials are kept" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.cli._app", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as stop:
            main([])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stop.value.code == 0
