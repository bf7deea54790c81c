"""The user's own files count with all that they import, however that is done; data that they read do not."""

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from paperweight.processes import GuardedProcess
from paperweight.provenance import own_files, unchanged_files

FILES = {
    "mine_study.py": """
        import importlib.util, runpy
        from pathlib import Path
        import mine_beside
        from mine_package import sub

        def run():
            import mine_lazy
            here = Path(__file__).parent
            spec = importlib.util.spec_from_file_location("anything", here / "mine_by_path.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            del module
            runpy.run_path(str(here / "mine_run.py"))
            importlib.import_module("mine_by_name")
            (here / "mine_data.py").read_text()
            (here / "mine_numbers.txt").read_text()

        def run_again():
            import mine_lazy
            importlib.reload(mine_lazy)
    """,
    "mine_package/__init__.py": "",
    "mine_package/sub.py": "from . import relative\nfrom .relative import deeper\n",
    "mine_package/relative.py": "from mine_package import deeper\n",
    **dict.fromkeys(
        ["mine_package/deeper.py", "mine_beside.py", "mine_lazy.py", "mine_by_path.py", "mine_run.py"], "X = 1\n"
    ),
    "mine_by_name.py": "X = 1\n",
}
CODE = """
    import importlib.util, json, sys
    from paperweight.processes import allow_folder
    from paperweight.provenance import note_own_files, own_files

    note_own_files()
    allow_folder({folder!r})
    spec = importlib.util.spec_from_file_location("study", {folder!r} + "/mine_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.run()
    print(json.dumps(own_files()), flush=True)
    sys.stdin.readline()
    module.run_again()
    print(json.dumps(own_files()), flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    for name in ("mine_data.py", "mine_numbers.txt"):
        (tmp_path / name).write_text("1\n")
    return tmp_path


@pytest.mark.parametrize("compiled", [False, True], ids=["from sources", "from a cache of bytecode"])
def test_every_way_of_import_is_noted_and_nothing_that_is_only_read(folder: Path, compiled: bool) -> None:
    if compiled:
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=True)
    process = GuardedProcess(textwrap.dedent(CODE).format(folder=str(folder)))
    line = process.readline()
    assert line.startswith(b"{"), process.last_errors()
    found = json.loads(line)
    assert set(found) == {str(folder / name) for name in FILES}
    assert unchanged_files(found)
    for name in FILES:
        path = folder / name
        text = path.read_text()
        path.write_text(text + "\nY = 2\n")
        assert not unchanged_files(found), name
        path.write_text(text + "\n# a comment\n")
        assert unchanged_files(found), name
    (folder / "mine_numbers.txt").write_text("2\n")
    assert unchanged_files(found)
    (folder / "mine_beside.py").write_text("X = 3\n")
    (folder / "mine_lazy.py").write_text("X = 3\n")
    process.send("")
    later = json.loads(process.readline())
    changed = {Path(name).name for name in found if later[name] != found[name]}
    assert changed == {"mine_lazy.py"}  # the other one was imported before it was edited: that is what ran
    assert not unchanged_files(later)
    process.close()


def test_a_module_that_was_edited_after_its_import_counts_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine_edited.py"
    path.write_text("RATE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("mine_edited")
    before = own_files()[str(path)]
    path.write_text("RATE = 2\n")
    assert own_files()[str(path)] == before
    assert not unchanged_files({str(path): before})
    del sys.modules["mine_edited"]
