"""Each method has its card, test, study and result, and keeps to the shape of a method file."""

import ast
import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from paperweight.catalogue import FIELDS, Entry, entries, package_root

ROOT = Path(__file__).resolve().parents[2]
METHOD_FILES = sorted(
    path for field in FIELDS for path in (package_root() / field).glob("*.py") if not path.name.startswith("_")
)
each_entry = pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.stem)


def test_every_method_file_has_a_card():
    assert [entry.path for entry in sorted(entries(), key=lambda entry: entry.path)] == METHOD_FILES


def test_stems_are_unique():
    stems = Counter(path.stem for path in METHOD_FILES)
    assert [stem for stem, count in stems.items() if count > 1] == []


@each_entry
def test_method_has_a_test_a_study_and_faults(entry: Entry):
    assert (ROOT / "tests" / entry.field / f"test_{entry.stem}.py").is_file()
    assert (ROOT / "tests" / "faults" / f"{entry.stem}.py").is_file()
    assert entry.study_path == package_root() / "studies" / entry.field / f"{entry.stem}.py"
    assert entry.study_path.is_file()


@each_entry
def test_method_has_a_result(entry: Entry):
    path = ROOT / "results" / entry.field / f"{entry.stem}.json"
    assert path.is_file(), f"{entry.stem} has no official result yet: paperweight board {entry.stem}"
    assert isinstance(json.loads(path.read_text(encoding="utf-8")), dict)


@each_entry
def test_method_file_is_short_and_names_source_and_deviations(entry: Entry):
    text = entry.path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    docstring = ast.get_docstring(ast.parse(text)) or ""
    for title in ("Source", "Deviations"):
        assert re.search(rf"^{title}:\s+\S", docstring, re.MULTILINE)


@each_entry
def test_card_holds_only_literals_and_is_what_the_module_has(entry: Entry):
    cards = [
        node.value
        for node in ast.parse(entry.path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAPER"
    ]
    assert len(cards) == 1
    assert isinstance(cards[0], ast.Call)
    for keyword in cards[0].keywords:
        ast.literal_eval(keyword.value)
    assert entry.paper == importlib.import_module(entry.module).PAPER


@each_entry
def test_public_names_are_those_of_the_card_and_the_field_has_them(entry: Entry):
    module = importlib.import_module(entry.module)
    assert set(entry.paper.provides) <= set(module.__all__)
    field = importlib.import_module(f"paperweight.{entry.field}")
    for name in entry.paper.provides:
        assert getattr(field, name) is getattr(module, name)
