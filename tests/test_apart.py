"""`paperweight check` runs code of strangers in a process of its own: how that ends is told, its streams are kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paperweight.processes.guard import descendants

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

CODE = """
import ctypes, os, resource, signal, subprocess, sys, time
from paperweight.cli import apart

def run():
    {body}

apart._PATIENCE = {patience}
sys.exit(apart.run_apart(run, ["check", "layer", "mine:X\\x1b"]))
"""
ENDS = {
    "an answer": ("print('shown'); print('said', file=sys.stderr); return 1", 1, "shown\n", "said\n"),
    "input": ("print(sys.stdin.read()); return 0", 0, "given\n", ""),
    "an abort": ("os.abort()", 3, "", "signal 6 (SIGABRT) before there was an answer"),
    "a kill": ("os.kill(os.getpid(), signal.SIGKILL)", 3, "", "signal 9 (SIGKILL)"),
    "a wrong address": ("resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)", 3, "", "(SIGSEGV)"),
    "an exit as if all were well": ("os._exit(0)", 3, "", "exit status 0 before there was an answer"),
    "an exit with a status": ("os._exit(1)", 3, "", "exit status 1 before there was an answer"),
    "an end after the answer": ("import atexit; atexit.register(os.abort); return 0", 0, "", ""),
}


def start(body: str, patience: float = 20.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE.format(body=body, patience=patience)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@pytest.mark.parametrize("end", ENDS)
def test_every_end_of_the_process_has_a_status_and_a_line(end: str) -> None:
    body, status, output, words = ENDS[end]
    shown, errors = (process := start(body)).communicate("given")
    assert (process.returncode, shown) == (status, output), errors
    assert words in errors
    if status == 3:
        assert errors.startswith("paperweight: check layer mine:X\\x1b: its process was ended")
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_reaches_the_process(number: signal.Signals) -> None:
    process = start(
        f"signal.signal({int(number)}, lambda *_: sys.exit(7)); print('begun', flush=True); time.sleep(60); return 0"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "exit status 7" in errors


def test_a_process_that_does_not_stop_is_killed_with_all_that_it_started() -> None:
    body = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN); subprocess.Popen(['sleep', '60'], start_new_session=True); "
        "print('begun', flush=True); time.sleep(60); return 0"
    )
    process = start(body, patience=0.5)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    below = descendants(process.pid)
    assert len(below) == (2 if sys.platform == "linux" else 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "it was killed, since it did not end within 0.5 s of being told to" in errors
    assert not any(Path(f"/proc/{each}").exists() for each in below)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end a process with its parent")
def test_a_killed_command_takes_the_process_with_it() -> None:
    process = start("print('begun', flush=True); time.sleep(60); return 0")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    (child,) = descendants(process.pid)
    process.kill()
    process.communicate(timeout=30)
    until = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("raise SystemExit(0)", 2, "'mine:make' fails on import: SystemExit: 0; mend its module"),
        ("import os; os.abort()", 3, "check layer mine:make --input 4x5: its process was ended by signal 6 (SIGABRT)"),
        ("from torch.nn import ReLU as make", 0, ""),
        ("from torch.nn import Dropout as make; print('loaded')", 0, ""),
    ],
)
def test_the_command_tells_how_a_module_ended_it(body: str, status: int, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(body)
    command = [sys.executable, "-m", "paperweight.cli", "check", "layer", "mine:make", "--input", "4x5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == bool(words)
    assert done.stdout.startswith("loaded\n") == ("print" in body)
    assert done.stdout.endswith("checks passed\n") == (status == 0)
