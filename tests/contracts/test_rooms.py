"""A field's file stands on another paper only where its card says so, and on private parts of its own field only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from paperweight.catalogue import FIELDS, entries, package_root
from paperweight.catalogue.reading import read_card

STEMS = {entry.stem for entry in entries()}
PROVIDERS = {name: entry.stem for entry in entries() for name in entry.paper.provides}
FIELD_FILES = sorted(path for field in FIELDS for path in (package_root() / field).glob("*.py"))


def imported(text: str) -> Iterator[tuple[str, str]]:
    """Yield the field and, of each import from a field anywhere in a file, the name of the file or object imported."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, field, *rest = [*name.split("."), ""][:3]
            if root == "paperweight" and field in FIELDS:
                yield field, rest[0]


def papers_imported(text: str) -> set[str]:
    """Give the stems of the papers that a file imports, or a field as a whole where it does so."""
    named = {PROVIDERS.get(name, name or field) for field, name in imported(text)}
    return {name for name in named if not name.startswith("_")}


def private_parts_of_others(field: str, text: str) -> set[str]:
    """Give the private files of other fields that a file of this field imports."""
    return {f"{other}.{name}" for other, name in imported(text) if name.startswith("_") and other != field}


@pytest.mark.parametrize("path", FIELD_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_field_file_stands_on_the_papers_that_its_card_names(path: Path):
    text, card = path.read_text(encoding="utf-8"), read_card(path)
    assert papers_imported(text) == set(card.builds_on if card else ())
    assert private_parts_of_others(path.parent.name, text) == set()


@pytest.mark.parametrize(
    ("statement", "papers"),
    [
        ("from paperweight.federated.pfl_simulator import FederatedSimulator", {"pfl_simulator"}),
        ("from paperweight.federated import FederatedSimulator, dimat", {"pfl_simulator", "dimat"}),
        ("import paperweight.gan.ttur as other", {"ttur"}),
        ("def late():\n    from paperweight.optim.lookahead import Lookahead", {"lookahead"}),
        ("from paperweight import gan", {"gan"}),
        ("from paperweight.architecture._multihead import precise", set()),
        ("from paperweight.agents import Agent\nimport torch", set()),
    ],
)
def test_imports_of_papers_are_found_however_they_are_written(statement: str, papers: set[str]):
    assert papers_imported(statement) == papers


def test_private_parts_are_open_to_their_own_field():
    statement = "from paperweight.architecture._multihead import precise\nfrom paperweight.gan import _part"
    assert private_parts_of_others("architecture", statement) == {"gan._part"}


def test_cards_build_on_papers_that_there_are():
    assert {stem for entry in entries() for stem in entry.paper.builds_on} <= STEMS
