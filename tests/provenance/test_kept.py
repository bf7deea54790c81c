"""What is kept of files that were read: the same as what reading finds, never of another content, and no more."""

import ast
import json
from pathlib import Path

import pytest

from paperweight.data import cache_root
from paperweight.provenance import file_digest, kept, units

PACKAGE = Path(units.__file__).resolve().parents[1]
FILES = sorted(PACKAGE.glob("[dlop]*/*.py"))[::4]
ONE = PACKAGE / "provenance" / "units.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "cache"))
    assert kept._place(ONE).parents[1] == cache_root() == tmp_path / "cache"
    return tmp_path / "cache" / "units"


def read(path: Path) -> units._Module:
    return units._parsed.__wrapped__(str(path), 0, 0)


def test_what_is_kept_is_what_reading_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(FILES) > 20
    found = {path: read(path) for path in FILES}
    assert len(list(folder.iterdir())) == len(FILES)
    monkeypatch.setattr(ast, "parse", None)
    assert {path: read(path) for path in FILES} == found


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: text.replace('"kind": "function"', '"kind": "statement"', 1),
        lambda text: json.dumps(json.loads(text) | {"key": "0" * 64}),
    ],
)
def test_what_is_damaged_is_read_again(folder: Path, damage) -> None:
    found = read(ONE)
    (place,) = folder.iterdir()
    good = place.read_text()
    place.write_text(damage(good))
    assert place.read_text() != good
    assert read(ONE) == found
    assert place.read_text() == good


def test_another_content_or_another_reader_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(ONE)
    content = ONE.read_bytes()
    assert kept.recall(ONE, content) is not None
    assert kept.recall(ONE, content + b"\n") is None
    monkeypatch.setattr(kept, "_reading", lambda: b"another")
    assert kept.recall(ONE, content) is None


def test_nothing_is_kept_of_a_person_s_files_and_a_folder_that_cannot_be_written_is_no_error(
    folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text("x = 1\n")
    assert len(file_digest(own)) == 12
    assert not folder.exists()
    folder.parent.write_text("no folder")
    assert read(ONE) == units._found(ONE.read_bytes())
