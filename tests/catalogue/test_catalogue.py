"""The catalogue: cards, look-up, lazy exports, fingerprints of code, and results that expire."""

import ast
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
    code_hashes,
    entries,
    find,
    nearest,
    official_result,
    package_root,
    results_root,
    select,
    signatures,
)
from paperweight.catalogue.fingerprint import file_hash, imported_files
from paperweight.catalogue.reading import read_card
from paperweight.errors import InputError

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


def test_reading_cards_and_hashing_code_need_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        "import paperweight.optim\n"
        "from paperweight.catalogue import code_hashes, entries, find, official_result, signatures\n"
        "for entry in entries():\n"
        "    signatures(entry)\n"
        "entry = find('laplacian_smoothing')\n"
        "official_result(entry), code_hashes(entry.path, entry.study_path)\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'pydantic', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- fingerprints --------------------------------------------------------------------------------------------------

CODE = '''
"""A module."""

import math


class Thing:
    """A thing."""

    size: int = 3

    def area(self, scale=1.0):
        """Return the area."""
        # a comment
        return math.pi * scale * self.size**2
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another module, in\n\nmany words."""'),
        ('"""A module."""', ""),
        ('    """A thing."""\n', ""),
        ('"""Return the area."""', "'''Give it.'''"),
        ("# a comment", "# another\n        # comment"),
        ("scale=1.0", "scale = 1.0,"),
        (
            "math.pi * scale * self.size**2",
            "(\n            math.pi\n            * scale\n            * self.size ** 2\n        )",
        ),
        ("import math\n", "import math\n\n\n\n"),
    ],
)
def test_words_and_layout_do_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    before = file_hash(write(tmp_path / "before.py", CODE))
    assert file_hash(write(tmp_path / "after.py", CODE.replace(old, new))) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.0", "1.5"),
        ("1.0", "1"),
        ("size: int = 3", "size: float = 3"),
        ("math.pi * scale", "math.pi + scale"),
        ("import math", "import cmath as math"),
        ("def area", "def surface"),
        ("class Thing:", "class Thing(object):"),
        ("    size: int = 3\n", "    size: int = 3\n    note = 'a string that is no docstring'\n"),
        ("return math", "'a string' + ''\n        return math"),
        ("self.size**2", "-self.size**2"),
        ("scale=1.0", "*, scale=1.0"),
    ],
)
def test_code_counts(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    before = file_hash(write(tmp_path / "before.py", CODE))
    assert file_hash(write(tmp_path / "after.py", CODE.replace(old, new))) != before


def test_a_file_that_changed_has_another_hash_in_the_same_process(tmp_path: Path) -> None:
    path = write(tmp_path / "file.py", "x = 1\n")
    before = file_hash(path)
    assert file_hash(write(path, "x = 2\n")) != before
    write(path, "from paperweight.nets import LeNet\n")
    (lenet, *_) = [found for found in imported_files((path,)) if found.name == "lenet.py"]
    assert lenet == package_root() / "nets" / "lenet.py"


def names(*start: Path) -> set[str]:
    return {path.relative_to(package_root()).as_posix() for path in imported_files(start)}


def test_the_shared_code_of_a_study_is_what_it_uses() -> None:
    entry = find("laplacian_smoothing")
    shared = names(entry.path, entry.study_path)
    assert {"nets/lenet.py", "nets/mlp.py", "nets/_common.py", "loops/supervised.py", "loops/core.py"} <= shared
    assert {"data/images.py", "data/splits.py", "data/transforms.py", "data/sources.py", "errors.py"} <= shared
    assert {"studies/_setting.py", "studies/_declaration.py"} <= shared
    assert not {"nets/unet.py", "nets/vit.py", "nets/resnet.py", "loops/contrastive.py", "data/tables.py"} & shared
    assert not {name for name in shared if name.startswith(("bench/", "testing/", "cli"))}
    assert not {"optim/laplacian_smoothing.py", "studies/optim/laplacian_smoothing.py"} & shared


def test_what_python_imported_is_found_by_reading() -> None:
    entry = find("laplacian_smoothing")
    code = (
        "import sys, pathlib\n"
        "import paperweight.studies.optim.laplacian_smoothing\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    path = getattr(module, '__file__', None)\n"
        "    if name.startswith('paperweight.') and not path.endswith('__init__.py'):\n"
        "        print(pathlib.Path(path).relative_to(sys.argv[1]).as_posix())\n"
    )
    run = [sys.executable, "-c", code, str(package_root())]
    imported = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    own = {"optim/laplacian_smoothing.py", "studies/optim/laplacian_smoothing.py"}
    siblings = {
        name for name in imported if name.startswith(("nets/", "loops/", "catalogue/"))
    }  # run by the package's __init__
    assert imported - siblings - own <= names(entry.path, entry.study_path)


@pytest.mark.parametrize(
    ("line", "reached", "not_reached"),
    [
        ("from paperweight.nets import UNet", "nets/unet.py", "nets/lenet.py"),
        ("from paperweight.nets.vit import ViT", "nets/vit.py", "nets/unet.py"),
        ("from paperweight.nets import vit", "nets/vit.py", "nets/unet.py"),
        ("from paperweight.data import load_table", "data/tables.py", "data/images.py"),
        ("import paperweight.nets.mlp as m", "nets/mlp.py", "nets/unet.py"),
        ("from paperweight.optim import LaplacianSmoothing", "optim/laplacian_smoothing.py", "nets/mlp.py"),
        ("def f():\n    from paperweight.loops import minimise", "loops/core.py", "loops/supervised.py"),
        ("from paperweight.studies import Metric", "studies/_declaration.py", "studies/_setting.py"),
        ("import json, torch", "", "errors.py"),
    ],
)
def test_imports_are_followed_name_by_name(tmp_path: Path, line: str, reached: str, not_reached: str) -> None:
    found = names(write(tmp_path / "study.py", line + "\n"))
    assert not reached or reached in found
    assert not_reached not in found


# --- official results ----------------------------------------------------------------------------------------------


def test_a_result_expires_with_the_code_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    entry = find("laplacian_smoothing")
    assert official_result(entry) is None
    now = code_hashes(entry.path, entry.study_path)
    path = tmp_path / "optim" / "laplacian_smoothing.json"
    path.parent.mkdir()
    for changes, changed in [
        ({}, ()),
        ({"method": "0"}, ("method",)),
        ({"study": "0", "shared": "0"}, ("study", "shared")),
    ]:
        path.write_text(json.dumps({"verdict": "helps", "code": now | changes}))
        found = official_result(entry)
        assert found is not None
        assert (found.changed, found.stale, found.record["verdict"]) == (changed, bool(changed), "helps")


def test_results_lie_beside_the_sources_of_a_checkout() -> None:
    assert results_root() == package_root().parents[1] / "results"


def test_the_hash_of_the_real_method_leaves_its_docstrings_out(tmp_path: Path) -> None:
    path = find("laplacian_smoothing").path
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert isinstance(tree.body[0], ast.Expr)
    tree.body = tree.body[1:]
    stripped = tmp_path / "stripped.py"
    stripped.write_text(ast.unparse(tree))
    assert file_hash(stripped) == file_hash(path)
