"""Revisions: what a checkout is at, what changed a file, and older sources in a worktree that goes away again."""

import subprocess
from pathlib import Path

import pytest

from paperweight.errors import InputError
from paperweight.provenance import checked_out, is_known, revision, revisions_of


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    package = folder / "src" / "paperweight"
    package.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for number in (1, 2):
        (package / "code.py").write_text(f"def run():\n    return {number}\n", encoding="utf-8")
        (folder / "notes.md").write_text("words\n", encoding="utf-8")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", f"Return {number}")
    return folder


def test_a_revision_says_whether_sources_differ_from_it(checkout: Path, tmp_path: Path):
    head = git(checkout, "rev-parse", "HEAD")
    assert revision(checkout) == head
    (checkout / "notes.md").write_text("other words\n", encoding="utf-8")
    assert revision(checkout) == head
    (checkout / "src" / "paperweight" / "new.py").touch()
    assert revision(checkout) == f"{head}+"
    (tmp_path / "plain").mkdir()
    assert revision(tmp_path / "plain") == ""


def test_older_sources_are_given_and_leave_no_trace(checkout: Path):
    newest, first = revisions_of(checkout, checkout / "src" / "paperweight" / "code.py")
    assert revisions_of(checkout, checkout / "notes.md") == [first]
    assert is_known(checkout, first)
    assert not is_known(checkout, "0" * 40)
    with checked_out(checkout, first) as old, checked_out(checkout, newest) as new:
        place = old.package
        assert old.digest("code:run") != new.digest("code:run") != ""
    assert not place.exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1


def test_what_is_no_revision_or_no_checkout_is_refused(checkout: Path, tmp_path: Path):
    with pytest.raises(InputError, match="git worktree failed"), checked_out(checkout, "0" * 40):
        pass
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="git log failed"):
        revisions_of(tmp_path / "plain", tmp_path)
