"""Faults to plant in a method's file, and what then notices: the contract of its kind or the method's own test."""

import contextlib
import importlib
import io
import multiprocessing
import sys
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from paperweight.catalogue import Entry, find

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120


@dataclass(frozen=True)
class Fault:
    """A fault that a person might make.

    Args:
        what: The fault in a few words.
        old: Text of the method's file that occurs once.
        new: What takes its place.
        survives: Why nothing notices; empty for a fault that must be noticed.
    """

    what: str
    old: str
    new: str
    survives: str = ""


def planted(entry: Entry, fault: Fault) -> str:
    """Return the text of the method's file with the fault."""
    text = entry.path.read_text(encoding="utf-8")
    count = text.count(fault.old)
    if count != 1:
        raise ValueError(f"{fault.old!r} must occur once in {entry.path.name}, it occurs {count} times")
    return text.replace(fault.old, fault.new)


def noticed(stem: str, fault: Fault) -> str:
    """Run contract and test of a method with a fault in a fresh process; return what noticed it, or nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytest", "paperweight.testing", "paperweight.nets", "paperweight.loops"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_judge, args=(stem, fault, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            return "time limit"
        return receiver.recv()
    except EOFError:
        return "crash"
    finally:
        process.kill()
        process.join()


class _Planting(SourceFileLoader, MetaPathFinder):
    """Gives one module the code of another text than that of its file."""

    def __init__(self, entry: Entry, text: str) -> None:
        super().__init__(entry.module, str(entry.path))
        self._text = text

    def get_code(self, fullname: str) -> Any:
        return compile(self._text, self.path, "exec")

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


def _judge(stem: str, fault: Fault, sender: Any) -> None:
    import pytest
    import torch

    from paperweight.testing import contract, run_check

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    entry = find(stem)
    sys.meta_path.insert(0, _Planting(entry, planted(entry, fault)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            module = importlib.import_module(entry.module)
            subjects = importlib.import_module(f"tests.{entry.field}.test_{stem}").CONTRACT
        except Exception as error:
            sender.send(f"import: {error!r}")
            return
        for name, kind in entry.paper.provides.items():
            subject = subjects[name]
            for check, run in contract(kind, getattr(module, name), subject).items():
                if check not in subject.expected_failures and not run_check(check, run).passed:
                    sender.send(f"contract: {check} of {name}")
                    return
        test = ROOT / "tests" / entry.field / f"test_{stem}.py"
        failed = pytest.main(["-x", "-q", "-p", "no:xdist", str(test)])
    sender.send(f"test: {test.name}" if failed == pytest.ExitCode.TESTS_FAILED else "" if not failed else "test crash")
