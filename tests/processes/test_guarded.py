"""A guarded process ends with whoever started it, with all that was started below it, and it is told how it ended."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paperweight.processes import GuardedProcess, Processes, StoppedError, guard

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux returns lost processes to the guard")

FAMILY = """
    import os, subprocess, sys, time

    numbers = [os.getpid(), os.getppid()]
    numbers.append(subprocess.Popen(["sleep", "600"]).pid)
    numbers.append(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    read, write = os.pipe()
    if os.fork() == 0:  # a process whose parent ends, in a session of its own
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    numbers.append(int(os.read(read, 20)))
    print(*numbers, flush=True)
    while True:
        time.sleep(60)
"""


def alive(numbers: list[int]) -> list[int]:
    """Return those that are there and are no zombies."""
    found = []
    for number in numbers:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [number] if state != "Z" else []
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


def ended(code: str) -> GuardedProcess:
    process = GuardedProcess(textwrap.dedent(code))
    process.end()
    return process


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 11)", -11),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.killpg(0, 9)", -9),
    ],
)
def test_the_end_is_told(code: str, expected: int) -> None:
    process = ended(code)
    end = process.end()
    assert (end.code, end.told, end.memory) == (expected, False, False)
    assert ("ZeroDivisionError" in process.last_errors()) == (code == "1 / 0")
    process.close()


@LINUX
def test_all_below_a_process_ends_when_it_is_killed() -> None:
    process = GuardedProcess(textwrap.dedent(FAMILY))
    numbers = [int(word) for word in process.readline().split()]
    assert alive(numbers) == numbers
    process.close()
    assert process.end().told
    assert alive(numbers) == []


@LINUX
@pytest.mark.parametrize("who", ["the driver", "the guard"])
def test_nothing_outlives_a_driver_that_is_killed_and_no_worker_a_guard(who: str) -> None:
    code = f"""
        import threading
        from paperweight.processes import GuardedProcess

        found = []

        def start():  # in a thread that ends before the process does
            found.append(GuardedProcess({textwrap.dedent(FAMILY)!r}))

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        print(found[0].readline().decode(), flush=True)
        print(found[0].end().code, flush=True)
    """
    source = str(Path(guard.__file__).parents[2])
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert driver.stdout is not None
    worker, its_guard, *below = map(int, driver.stdout.readline().split())
    time.sleep(0.6)  # longer than the guard waits between two looks: the end of the thread is no reason
    assert alive([worker, its_guard, *below]) == [worker, its_guard, *below]
    if who == "the driver":
        driver.kill()
        assert wait_for(lambda: alive([worker, its_guard, *below]) == [])
    else:
        os.kill(its_guard, signal.SIGKILL)
        assert wait_for(lambda: alive([worker]) == [])
        for number in alive(below):
            os.kill(number, signal.SIGKILL)
    driver.communicate(timeout=10)


def test_the_last_of_the_errors_is_kept_however_much_there_is() -> None:
    process = ended("import sys\nfor n in range(300_000): sys.stderr.write(f'line {n}\\n')")
    assert process.last_errors().endswith("line 299999")
    assert len(process.last_errors()) <= 2_000
    process.forget_errors()
    assert process.last_errors() == ""
    process.close()


def test_processes_end_together_and_no_more_are_started() -> None:
    with Processes() as processes:
        first = processes.start("import time; time.sleep(600)", environment={})
    assert first.end().code in (None, -signal.SIGKILL)  # it may not have begun
    with pytest.raises(StoppedError):
        processes.start("", environment={})


def test_a_process_that_was_prepared_is_the_first_to_run_its_code_and_no_other() -> None:
    code = "import time; time.sleep(600)"
    prepared, unfit = GuardedProcess(code), GuardedProcess("pass")
    with Processes(prepared) as processes:
        assert processes.start(code, environment={}) is prepared
        assert processes.start(code, environment={}) is not prepared
    assert prepared.end().code in (None, -signal.SIGKILL)
    with Processes(unfit) as processes:
        assert processes.start(code, environment={}) is not unfit
    unfit.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_kills_for_memory_are_counted_in_both_versions_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setattr(guard, "_control_groups", lambda: [tmp_path])
    before = guard._memory_kills()
    (tmp_path / name).write_text(text)
    assert guard._memory_kills() - before == 2


@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_the_limit_of_a_control_group_is_the_memory_that_a_process_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(guard, "_control_groups", lambda: [tmp_path])
    (tmp_path / name).write_text("max\n")
    assert guard._memory_limit() > 100_000
    (tmp_path / name).write_text("100000\n")
    assert guard._memory_limit() == 100_000
