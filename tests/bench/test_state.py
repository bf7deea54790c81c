"""What a trial leaves changed in its process is noticed, each kind by its name, and undone changes are none."""

import decimal
import gc
import importlib
import locale
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from paperweight.bench.state import State

NO_PROCESS = -1  # what else the process of the tests has started is not the business of a test


def now() -> State:
    return State((), NO_PROCESS)


def swap(space: object, name: str, value: object) -> Callable[[], object]:
    inherited = isinstance(space, type) and name not in vars(space)
    before = getattr(space, name)
    setattr(space, name, value)
    return lambda: delattr(space, name) if inherited else setattr(space, name, before)


def entered(context: object) -> Callable[[], object]:
    context.__enter__()  # type: ignore[attr-defined]
    return lambda: context.__exit__(None, None, None)  # type: ignore[attr-defined]


def called(do: Callable[[object], object], value: object, undone: object) -> Callable[[], object]:
    do(value)
    return lambda: do(undone)


def limited() -> Callable[[], object]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (soft + 1 if soft == 0 else 0, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def thread() -> Callable[[], object]:
    end = threading.Event()
    running = threading.Thread(target=end.wait, daemon=True)
    running.start()
    return lambda: (end.set(), running.join())


def masked() -> Callable[[], object]:
    before = os.umask(0o77)
    os.umask(before ^ 0o7)
    return lambda: os.umask(before)


def spoken() -> Callable[[], object]:
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_CTYPE, "C" if "UTF" in before else "C.UTF-8")
    return lambda: locale.setlocale(locale.LC_ALL, before)


def variable() -> Callable[[], object]:
    os.environ["LEFT_BY_A_TRIAL"] = "1"
    return lambda: os.environ.pop("LEFT_BY_A_TRIAL")


def filtered() -> Callable[[], object]:
    before = warnings.filters[:]
    warnings.simplefilter("ignore")

    def undo() -> None:
        warnings.filters[:] = before  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]

    return undo


def timer() -> Callable[[], object]:
    signal.setitimer(signal.ITIMER_VIRTUAL, 1e6)
    return lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 0)


CHANGES: dict[str, Callable[[Path], Callable[[], object]]] = {
    "default dtype": lambda _: called(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda _: called(torch.set_default_device, "meta", None),
    "gradient mode": lambda _: called(torch.set_grad_enabled, False, True),
    "inference mode": lambda _: entered(torch.inference_mode()),
    "autocast": lambda _: entered(torch.autocast("cpu")),
    "anomaly mode": lambda _: called(torch.autograd.set_detect_anomaly, True, False),
    "deterministic mode": lambda _: called(torch._C._set_deterministic_algorithms, True, False),
    "threads of torch": lambda _: called(torch.set_num_threads, torch.get_num_threads() + 1, torch.get_num_threads()),
    "precision of torch": lambda _: called(torch.set_float32_matmul_precision, "medium", "highest"),
    "flags of cudnn and mkldnn": lambda _: swap(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "subnormal numbers": lambda _: called(torch.set_flush_denormal, True, False),
    "print options": lambda _: called(lambda n: torch.set_printoptions(precision=n), 9, 4),
    "global hooks": lambda _: register_module_forward_hook(lambda *_: None).remove,
    "errors of numpy": lambda _: entered(np.errstate(over="ignore", divide="raise")),
    "decimal context": lambda _: called(lambda n: setattr(decimal.getcontext(), "prec", n), 5, 28),
    "environment variable LEFT_BY_A_TRIAL": lambda _: variable(),
    "search path": lambda _: swap(sys, "path", ["/nowhere", *sys.path]),
    "recursion limit": lambda _: called(sys.setrecursionlimit, 5_000, sys.getrecursionlimit()),
    "warnings": lambda _: filtered(),
    "root logger": lambda _: called(logging.getLogger().setLevel, logging.DEBUG, logging.getLogger().level),
    "standard streams": lambda _: swap(sys, "stdout", sys.stderr),
    "garbage collection": lambda _: called(lambda on: gc.enable() if on else gc.disable(), False, True),
    "threads": lambda _: thread(),
    "current folder": lambda folder: called(os.chdir, folder, Path.cwd()),
    "umask": lambda _: called(os.umask, 0o77, 0o22) if os.umask(0o22) == 0o22 else called(os.umask, 0o22, 0o22),
    "locale": lambda _: called(
        lambda to: locale.setlocale(locale.LC_ALL, to), "C.UTF-8", locale.setlocale(locale.LC_ALL)
    ),
    "signal handlers": lambda _: called(lambda to: signal.signal(signal.SIGUSR1, to), signal.SIG_IGN, signal.SIG_DFL),
    "timers": lambda _: timer(),
    "limits": lambda _: limited(),
    "math.sqrt": lambda _: swap(sys.modules["math"], "sqrt", abs),
    "torch.Tensor.mean": lambda _: swap(torch.Tensor, "mean", torch.Tensor.sum),
    "torch.nn.Module.train": lambda _: swap(torch.nn.Module, "train", torch.nn.Module.eval),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_one_that_was_undone_is_none(name: str, tmp_path: Path) -> None:
    before = now()
    undo = CHANGES[name](tmp_path)
    try:
        changed = before.changes(now())
    finally:
        undo()
    assert name in changed
    assert set(changed) <= {name, "torch.Storage", "modes of torch functions", "gradient mode"}
    assert before.changes(now()) == []


def test_a_process_that_is_left_below_is_noticed() -> None:
    with subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        before = State((), shell.pid)
        print("sleep 60 & echo started", file=shell.stdin, flush=True)
        assert shell.stdout.readline() == "started\n"
        assert before.changes(State((), shell.pid)) == ["processes"]
        print("kill $!; wait $!; echo ended", file=shell.stdin, flush=True)
        assert shell.stdout.readline() == "ended\n"
        assert before.changes(State((), shell.pid)) == []


def test_a_stream_that_was_closed_is_noticed() -> None:
    read, write = os.pipe()
    before = State((read, write), NO_PROCESS)
    os.close(write)
    assert before.changes(State((read, write), NO_PROCESS)) == ["file descriptors"]
    os.close(read)


@pytest.mark.parametrize(
    "change",
    [
        "own.RATE = 2",
        "own.CACHE.append(1)",
        "own.MODEL.weight.detach().add_(1)",
        "own.WEIGHT.add_(1)",
        "own.ARRAY[0] = 7",
    ],
)
def test_what_a_module_of_the_users_holds_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy, torch\nRATE, CACHE, WEIGHT = 1, [], torch.zeros(2)\n"
        "ARRAY = numpy.zeros(2)\nMODEL = torch.nn.Linear(1, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = now()
    own = importlib.import_module(name)
    assert f"module {name}" in before.changes(now())
    before = now()
    assert before.changes(now()) == []
    exec(change, {"own": own})
    assert len(before.changes(now())) == 1
    del sys.modules[name]
