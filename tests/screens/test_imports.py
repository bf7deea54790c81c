"""The line of code that a screen's report gives: what it names is imported beside it."""

from paperweight.catalogue import entries
from paperweight.reports.screening import _imports
from paperweight.screens.outcome import Fate
from paperweight.studies.screening import find_recipe


def imported(name: str, line: str) -> list[str]:
    return _imports(Fate(name, "", line, (), "tried"), {entry.stem: entry for entry in entries()}).splitlines()


def test_what_a_line_names_is_imported_from_its_paper_and_from_what_networks_share() -> None:
    assert imported("crrelu", find_recipe("crrelu").line) == [
        "from paperweight.architecture import CRReLU",
        "from paperweight.nets import replace_modules",
    ]
    assert imported("lookahead", "optimizer = Lookahead(optimizer)") == ["from paperweight.optim import Lookahead"]
    assert imported("mine:recipe", "do(Lookahead)") == []


def test_every_recipe_names_something_that_can_be_imported() -> None:
    for entry in entries():
        if entry.has_recipe:
            assert imported(entry.stem, find_recipe(entry.stem).line)
