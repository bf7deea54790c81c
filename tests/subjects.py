"""What the test of a paper declares to be checked, and the checks that this gives."""

import importlib
from collections.abc import Callable, Mapping

from paperweight.catalogue import Entry
from paperweight.testing import Subject, contract


def subjects(entry: Entry) -> Mapping[str, Subject]:
    """Return the subject of each public object, as ``tests/<field>/test_<stem>.py`` declares it."""
    return importlib.import_module(f"tests.{entry.field}.test_{entry.stem}").CONTRACT


def checks(entry: Entry) -> dict[tuple[str, str], Callable[[], None]]:
    """Return the checks of a paper by public object and name."""
    module, declared = importlib.import_module(entry.module), subjects(entry)
    return {
        (name, check): run
        for name, kind in entry.paper.provides.items()
        if name in declared
        for check, run in contract(kind, getattr(module, name), declared[name]).items()
    }
