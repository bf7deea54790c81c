"""The current folder is searched last, and only for what the user named and what files of theirs import."""

import importlib
import json
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from paperweight.catalogue import load_named
from paperweight.errors import InputError
from paperweight.processes import allow_folder, belongs_to_the_user, current_folder_last, searched_folders

PLANTED = ("random", "torch", "json", "numpy", "sqlalchemy", "sitecustomize", "usercustomize", "pandas", "torch_xla")
NETWORK = """
    import own_helper
    from torch import nn

    def make(shape, classes):
        import own_lazy  # not before it is called

        return nn.Sequential(nn.Flatten(), nn.Linear(own_helper.product(shape) * own_lazy.ONE, classes))
"""
HELPER = "from math import prod as product\n"
STUDY = """
    from paperweight.studies import Arm, Metric, Outcome, Study

    STUDY = Study(
        paper="example", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm, setting):
        return Outcome(metrics={"score": setting.network((1, 8, 8), 10, default=None)[1].weight.sum().item()})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder in which modules lie, and what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_search_path_loses_the_current_folder_in_every_spelling(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    (folder / "below").mkdir()
    spellings = ["", ".", str(folder), f"{folder}/", f"{folder}/below/..", str(folder / "link")]
    assert searched_folders([*spellings, "/opt/b", "below", "/opt/a"]) == ["/opt/b", str(folder / "below"), "/opt/a"]


def test_a_current_folder_that_was_deleted_is_no_part_of_the_path(folder: Path) -> None:
    folder.rmdir()
    assert searched_folders(["", ".", "/opt/a"]) == ["/opt/a"]
    with current_folder_last():
        pass


def test_where_packages_are_installed_is_searched_even_if_it_is_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = str(Path(pytest.__file__).parents[1])
    monkeypatch.chdir(place)
    assert searched_folders([place]) == [place]


def test_modules_of_the_current_folder_are_found_for_names_that_were_given_alone(folder: Path) -> None:
    for name in ("own_given", "own_helper", "own_other"):
        (folder / f"{name}.py").write_text("import own_helper\n" if name == "own_given" else "ONE = 1\n")
    with current_folder_last():
        with pytest.raises(ImportError):
            importlib.import_module("own_other")
        assert load_named("own_given:own_helper", "network").ONE == 1  # type: ignore[attr-defined]
        with pytest.raises(ImportError):
            importlib.import_module("own_other")
    assert sys.meta_path[-1].__class__.__name__ != "_UsersFolders"


def test_what_an_installed_package_would_like_to_import_is_not_taken_from_the_users_folder(folder: Path) -> None:
    (folder / "own_optional.py").write_text("raise RuntimeError('it ran')\n")
    with current_folder_last():
        allow_folder(folder)
        with pytest.raises(ImportError):
            exec("import own_optional", {"__name__": "torch.optional", "__file__": pytest.__file__})
        with pytest.raises(RuntimeError, match="it ran"):
            exec("import own_optional", {"__name__": "mine", "__file__": str(folder / "mine.py")})


def test_a_standard_name_in_the_current_folder_is_never_found_first(folder: Path) -> None:
    (folder / "colorsys.py").write_text("raise RuntimeError('it ran')\n")
    sys.modules.pop("colorsys", None)
    with current_folder_last():
        assert load_named("colorsys:rgb_to_hsv", "network")
        with pytest.raises(InputError, match="own_absent"):
            load_named("own_absent:f", "network")


def test_files_belong_to_the_user_unless_they_are_installed() -> None:
    import paperweight.errors

    assert not any(
        map(belongs_to_the_user, (json.__file__, pytest.__file__, paperweight.errors.__file__, "relative.py"))
    )
    assert belongs_to_the_user("/home/me/network.py")


def run_command(folder: Path, start: str, path: str, *words: str) -> str:
    """Run a command in a folder full of modules that note that they ran, and return which did."""
    for name in PLANTED:
        if path == "" or "customize" not in name:  # with an entry of PYTHONPATH Python imports those two before us
            (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write('{name} ')\n")
    script = folder / "bin" / "paperweight"
    script.parent.mkdir()
    script.write_text("from paperweight.cli import main\nmain()\n")
    source = Path(sys.modules["paperweight"].__file__ or "").parents[1]
    done = subprocess.run(
        [sys.executable, *(["-m", "paperweight.cli"] if start == "module" else [str(script)]), *words],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{source}{path.format(folder=folder)}",
            "PAPERWEIGHT_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = folder / "ran"
    return ran.read_text() if ran.exists() else ""


@pytest.mark.parametrize(
    ("start", "path"), [("module", ""), ("script", ":"), ("script", ":."), ("script", ":{folder}")]
)
def test_no_file_of_the_current_folder_runs_in_a_command(folder: Path, start: str, path: str) -> None:
    assert run_command(folder, start, path, "list", "--field", "gan") == ""


def test_only_what_was_named_runs_in_workers_and_all_of_it_is_recorded(folder: Path) -> None:
    files = {"own_study": STUDY, "own_network": NETWORK, "own_helper": HELPER, "own_lazy": "ONE = 1\n"}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    words = ["weigh", "own_study.py", "--seeds", "1", "--jobs", "1", "--network", "own_network:make", "--out", "out"]
    assert run_command(folder, "module", "", *words, "--budget", "smoke") == ""
    ledger = sqlite3.connect(folder / "out" / "ledger.sqlite")
    rows = [json.loads(row) for (row,) in ledger.execute("SELECT record FROM trial")]
    ledger.close()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert {frozenset(row["own"]) for row in rows} == {frozenset(str(folder / f"{name}.py") for name in files)}
    assert [list(row["starts"]) for row in rows] == [["own_study 0 1x8x8 10"]] * 2
    assert len({row["starts"]["own_study 0 1x8x8 10"] for row in rows}) == 1
