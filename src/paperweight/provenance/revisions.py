"""Revisions of a checkout: which one this is, which ones touched a file, and the sources of an older one."""

import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from paperweight.errors import InputError
from paperweight.provenance.units import SourceTree

__all__ = ["checked_out", "is_known", "revision", "revisions_of"]


def revision(checkout: Path) -> str:
    """Return the revision of a checkout, with a plus sign where its sources differ from it; empty where there is none.

    Args:
        checkout: The folder that holds ``src``.
    """
    try:
        changes = _git(checkout, "status", "--porcelain", "--", "src")
        return _git(checkout, "rev-parse", "HEAD").strip() + ("+" if changes.strip() else "")
    except InputError:
        return ""


def revisions_of(checkout: Path, file: Path) -> list[str]:
    """Return the revisions that changed a file, the newest first."""
    return _git(checkout, "log", "--format=%H", "--", str(file)).split()


def is_known(checkout: Path, revision: str) -> bool:
    """Tell whether a checkout's repository holds a revision."""
    try:
        return bool(_git(checkout, "cat-file", "-t", f"{revision}^{{commit}}"))
    except InputError:
        return False


@contextmanager
def checked_out(checkout: Path, revision: str) -> Generator[SourceTree]:
    """Give the sources of a revision in a worktree that is removed at the end.

    Args:
        checkout: A checkout of the same repository.
        revision: The revision.

    Raises:
        InputError: If the checkout is none, or does not hold the revision.
    """
    with tempfile.TemporaryDirectory(prefix="paperweight-revision-") as folder:
        place = Path(folder, "tree")
        _git(checkout, "worktree", "add", "--detach", "--quiet", str(place), revision)
        try:
            yield SourceTree(place / "src")
        finally:
            _git(checkout, "worktree", "remove", "--force", str(place))


def _git(checkout: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(
            f"git cannot be run ({error}); results are renewed in a checkout, with git installed"
        ) from error
    if done.returncode != 0:
        raise InputError(f"git {words[0]} failed in {checkout}: {done.stderr.strip()}")
    return done.stdout
