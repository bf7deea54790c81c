"""Official results: what the bench wrote about each study, and whether it still holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperweight.catalogue.fingerprint import code_hashes
from paperweight.catalogue.reading import Entry, package_root

__all__ = ["OfficialResult", "official_result", "results_root"]


@dataclass(frozen=True, slots=True)
class OfficialResult:
    """The committed result of a study.

    Args:
        record: The file's content, as the bench wrote it.
        changed: Which of ``method``, ``study`` and ``shared`` code changed since; empty while the result holds.
    """

    record: dict[str, Any]
    changed: tuple[str, ...]

    @property
    def stale(self) -> bool:
        """Whether any code that made the result has changed."""
        return bool(self.changed)


def results_root() -> Path:
    """Return the folder of official results: inside an installed package, or beside a checkout's ``src``."""
    installed = package_root() / "_results"
    return installed if installed.is_dir() else package_root().parents[1] / "results"


def official_result(entry: Entry) -> OfficialResult | None:
    """Return the official result of a paper's study, or ``None`` where there is none yet.

    Args:
        entry: A paper of the catalogue.
    """
    path = results_root() / entry.field / f"{entry.stem}.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    now = code_hashes(entry.path, entry.study_path)
    return OfficialResult(record, tuple(part for part in now if record["code"].get(part) != now[part]))
