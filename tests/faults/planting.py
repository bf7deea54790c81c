"""Faults to plant in a method, and what notices them: laws of its contract, the method's own tests, its example.

A fault is planted in a fresh process, of which the files on disk know nothing.
"""

import contextlib
import gc
import importlib
import io
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from tests.subjects import checks, subjects

from paperweight.catalogue import Entry
from paperweight.testing import run_check

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240
EARLY = "imported before it was planted"
_PRELOADED = ["torch", "torch._dynamo", "scipy.stats", "sklearn.datasets", "pytest"]
_PRELOADED += ["paperweight.testing", "paperweight.loops", "paperweight.bench.worker"]


@dataclass(frozen=True)
class Fault:
    """A fault that a person might make.

    Args:
        what: The fault in a few words.
        old: Text of the method's file that occurs once.
        new: What takes its place.
        survives: Why nothing notices; empty for a fault that must be noticed.
        part: The private part, such as ``_range_test``, that has the text in place of the method's file.
    """

    what: str
    old: str
    new: str
    survives: str = ""
    part: str = ""

    def path(self, entry: Entry) -> Path:
        """Return the file that has the text."""
        return entry.path.with_name(f"{self.part or entry.stem}.py")

    def module(self, entry: Entry) -> str:
        """Return the module that has the text."""
        return f"paperweight.{entry.field}.{self.part or entry.stem}"


def planted(entry: Entry, fault: Fault) -> str:
    """Return the text of the file with the fault."""
    path = fault.path(entry)
    text = path.read_text(encoding="utf-8")
    count = text.count(fault.old)
    if count != 1:
        raise ValueError(f"{fault.old!r} must occur once in {path.name}, it occurs {count} times")
    return text.replace(fault.old, fault.new)


def noticed(entry: Entry, fault: Fault) -> str:
    """Plant a fault; return what notices it first of all laws, then tests, then examples, or nothing."""
    return _in_fresh_process(entry, fault, _first)


def noticed_by(entry: Entry, fault: Fault, by: str) -> str:
    """Plant a fault again; return this where it notices it, and else what came in its place, or nothing."""
    return _in_fresh_process(entry, fault, partial(_again, by))


def _in_fresh_process(entry: Entry, fault: Fault, judge: Callable[[Entry], str]) -> str:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_judge, args=(entry, fault, judge, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(SECONDS) else "time limit"
    except EOFError:
        return "crash"
    finally:
        process.kill()
        process.join()


class _Planting(SourceFileLoader, MetaPathFinder):
    """Gives one module the code of another text than that of its file."""

    def __init__(self, module: str, path: Path, text: str) -> None:
        super().__init__(module, str(path))
        self._text = text

    def get_code(self, fullname: str) -> Any:
        return compile(self._text, self.path, "exec")

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


def _judge(entry: Entry, fault: Fault, judge: Callable[[Entry], str], sender: Any) -> None:
    import torch

    gc.freeze()  # nothing of what was loaded before is ever freed here
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    if fault.module(entry) in sys.modules:
        sender.send(EARLY)
        return
    sys.meta_path.insert(0, _Planting(fault.module(entry), fault.path(entry), planted(entry, fault)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            importlib.import_module(entry.module)
            subjects(entry)
        except Exception:
            sender.send("import")
        else:
            sender.send(judge(entry))


def _first(entry: Entry) -> str:
    laws = _laws(entry)
    examples = [name for name in laws if name.startswith("check_example_runs ")]
    return (
        next((name for name in laws if name not in examples and _fails(laws[name])), "")
        or _failing_test(entry)
        or next((name for name in examples if _fails(laws[name])), "")
    )


def _again(by: str, entry: Entry) -> str:
    laws = _laws(entry)
    if by in laws:
        return by if _fails(laws[by]) else ""
    return _failing_test(entry, by)


def _laws(entry: Entry) -> dict[str, Callable[[], None]]:
    """Return the laws that the method is to meet, by names such as ``check_closure of AdaBelief``."""
    return {
        f"{check} of {name}": run
        for (name, check), run in checks(entry).items()
        if check not in subjects(entry)[name].expected_failures
    }


def _fails(run: Callable[[], None]) -> bool:
    return not run_check("", run).passed


def _failing_test(entry: Entry, name: str = "") -> str:
    """Run the paper's own tests, or the one of this name; return the name of the first that fails."""
    import pytest

    failed: list[str] = []

    class Noting:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            items[:] = [item for item in items if "paper" not in getattr(item, "fixturenames", ())]

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.location[2].partition("[")[0])

        def pytest_unconfigure(self) -> None:
            gc.freeze()  # pytest goes on to look for garbage

    path = str(ROOT / "tests" / entry.field / f"test_{entry.stem}.py")
    status = pytest.main(["-x", "-p", "no:xdist", f"{path}::{name}" if name else path], plugins=[Noting()])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return "tests that do not run"
    return failed[0] if failed else ""
