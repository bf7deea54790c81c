"""The catalogue: cards, look-up, lazy exports, and results that expire."""

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import paperweight.optim
from paperweight.catalogue import (
    FIELDS,
    KINDS,
    Entry,
    Paper,
    entries,
    find,
    nearest,
    official_result,
    package_root,
    results_root,
    select,
    signatures,
)
from paperweight.catalogue.reading import read_card
from paperweight.errors import InputError
from paperweight.provenance import here

CARD = """
PAPER = Paper(
    title="A method",
    authors=("A. Author",),
    year=2020,
    url="https://example.org",
    provides={"Method": "optimizer"},
    claim="It is better.",
)
"""


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


# --- cards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.stem)
def test_a_card_that_is_read_is_the_card_that_is_imported(entry: Entry) -> None:
    module = importlib.import_module(entry.module)
    assert entry.paper == module.PAPER
    assert Path(str(module.__file__)) == entry.path
    assert entry.field in FIELDS
    assert set(entry.paper.provides.values()) <= set(KINDS)


def test_a_card_is_read_from_a_file(tmp_path: Path) -> None:
    card = read_card(write(tmp_path / "a.py", CARD))
    assert card == Paper(
        title="A method",
        authors=("A. Author",),
        year=2020,
        url="https://example.org",
        provides={"Method": "optimizer"},
        claim="It is better.",
    )
    assert read_card(write(tmp_path / "b.py", "x = 1\n")) is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2020", "1000 + 1020 * n", "literal"),
        ('"A method"', "TITLE", "literal"),
        ("year=2020", '"positional", year=2020', "keyword"),
        ("year=2020", "year=2020, colour=1", "colour"),
        ("year=2020", "**more", "literal"),
        ('claim="It is better.",', "", "claim"),
        ('"optimizer"', '"optimiser"', "kind of Method must be one of"),
        ("2020", "20200", "year of a card must be within"),
        ('"A method"', '""', "title of a card must not be empty"),
        ('("A. Author",)', "()", "authors of a card must not be empty"),
        ('{"Method": "optimizer"}', "{}", "provides of a card must name at least one"),
        ("year=2020,", "year=2020", "literal"),
    ],
)
def test_a_bad_card_is_refused_with_the_name_of_its_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in CARD
    with pytest.raises(InputError, match=rf"bad_card\.py.*{says}"):
        read_card(write(tmp_path / "bad_card.py", CARD.replace(old, new)))


def test_signatures_are_those_of_the_objects() -> None:
    entry = find("laplacian_smoothing")
    calls = signatures(entry)
    assert list(calls) == list(entry.paper.provides)
    assert calls["smoothing_spectrum"] == "smoothing_spectrum(n: int, sigma: float=1.0, order: int=1)"
    assert calls["LaplacianSmoothing"].startswith("LaplacianSmoothing(optimizer: torch.optim.Optimizer, sigma")


# --- look-up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["laplacian_smoothing", "LaplacianSmoothingSGD", "laplacian_smooth"])
def test_a_paper_is_found_by_stem_and_by_what_it_provides(name: str) -> None:
    assert find(name).stem == "laplacian_smoothing"


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("laplacian_smothing", "laplacian_smoothing"),
        ("Laplacian-Smoothing", "laplacian_smoothing"),
        ("LaplacianSmoothingSDG", "LaplacianSmoothingSGD"),
        ("laplacian", "laplacian_smoothing"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(InputError, match=f"there is no paper called '{name}'; did you mean .*{suggested}"):
        find(name)


def test_without_a_near_name_all_are_told() -> None:
    assert nearest("qqq", ["one", "two"]) == "known: one, two"
    assert nearest("One", ["one", "zzz"]) == "did you mean one?"


def test_papers_are_selected_by_every_condition() -> None:
    assert select() == entries()
    (entry,) = [entry for entry in select(field="optim", kind="optimizer") if entry.stem == "laplacian_smoothing"]
    assert entry in select(search="OSHER gradient")
    assert entry not in select(search="osher nosuchword")
    assert entry not in select(field="gan")
    assert entry not in select(kind="attack")
    with pytest.raises(InputError, match=r"field 'optin' does not exist; did you mean optim"):
        select(field="optin")
    with pytest.raises(InputError, match=r"kind 'optimiser' does not exist; did you mean optimizer"):
        select(kind="optimiser")


def test_a_field_exports_what_its_cards_provide() -> None:
    from paperweight.optim import LaplacianSmoothingSGD
    from paperweight.optim.laplacian_smoothing import LaplacianSmoothingSGD as Original

    provided = sorted(public for entry in select(field="optim") for public in entry.paper.provides)
    assert LaplacianSmoothingSGD is Original
    assert provided == paperweight.optim.__all__
    assert dir(paperweight.optim) == provided
    with pytest.raises(AttributeError, match="has no attribute 'LaplacianSmoothingSDG'; did you mean Laplacian"):
        _ = paperweight.optim.LaplacianSmoothingSDG


def test_reading_cards_and_results_needs_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        "import paperweight.optim\n"
        "from paperweight.catalogue import entries, find, official_result, signatures\n"
        "for entry in entries():\n"
        "    signatures(entry)\n"
        "entry = find('laplacian_smoothing')\n"
        "official_result(entry)\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'pydantic', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- official results ----------------------------------------------------------------------------------------------


UNITS = {name: here().digest(name) for name in ("studies._setting:Setting.stream", "studies._setting:_stream")}
OTHER = UNITS | {"studies._setting:_stream": "0" * 12}
NOW = UNITS["studies._setting:_stream"]


@pytest.mark.parametrize(
    ("record", "changed"),
    [
        ({"measured": {"units": UNITS}, "renewed": []}, ()),
        ({"measured": {"units": OTHER}, "renewed": []}, ("studies._setting:_stream",)),
        ({"measured": {"units": OTHER}, "renewed": [{"units": UNITS}]}, ()),
        (
            {"measured": {"units": UNITS}, "renewed": [{"units": UNITS}, {"units": OTHER}]},
            ("studies._setting:_stream",),
        ),
        ({"measured": {"units": UNITS | {"nets.gone:Net": "1"}}, "renewed": []}, ("nets.gone:Net",)),
        ({"measured": {"units": {}}, "renewed": []}, ("nothing that it executed is recorded",)),
        ({"measured": {"units": OTHER}, "renewed": [], "explained": {"units": {"studies._setting:_stream": NOW}}}, ()),
        (
            {"measured": {"units": OTHER}, "renewed": [], "explained": {"units": {"studies._setting:_stream": "1"}}},
            ("studies._setting:_stream",),
        ),
    ],
)
def test_a_result_expires_with_a_definition_that_it_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict, changed: tuple[str, ...]
) -> None:
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    entry = find("laplacian_smoothing")
    assert official_result(entry) is None
    path = tmp_path / "optim" / "laplacian_smoothing.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    found = official_result(entry)
    assert found is not None
    assert (found.changed, found.stale) == (changed, bool(changed))


def test_results_lie_beside_the_sources_of_a_checkout() -> None:
    assert results_root() == package_root().parents[1] / "results"
