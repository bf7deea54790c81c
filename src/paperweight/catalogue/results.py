"""Official results: what the bench wrote about each study, how its file is laid out, and whether it still holds.

A result has two parts. What was *measured* is written once and never edited; what was *concluded* from it follows from
the measured part and the study's declaration, and is written anew when statistics or wording change.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paperweight.catalogue.reading import Entry, package_root
from paperweight.provenance import changed, here

__all__ = ["OfficialResult", "official_result", "result_path", "results_root", "stale_units", "write_result"]

_LONGEST_OBJECT = 100_000


@dataclass(frozen=True, slots=True)
class OfficialResult:
    """The committed result of a study.

    Args:
        record: The file's content: ``study``, ``measured``, ``renewed`` and ``concluded``.
        changed: What of the code that made it has changed since; empty while the result holds.
    """

    record: dict[str, Any]
    changed: tuple[str, ...]

    @property
    def stale(self) -> bool:
        """Whether any code that made the result has changed."""
        return bool(self.changed)

    @property
    def measured(self) -> dict[str, Any]:
        """What the trials gave."""
        return self.record["measured"]

    @property
    def concluded(self) -> dict[str, Any]:
        """What follows from it."""
        return self.record["concluded"]


def stale_units(record: Mapping[str, Any]) -> list[str]:
    """Return the definitions that a result's trials executed and that have changed since it was made or last renewed.

    Args:
        record: The content of a result's file.

    Returns:
        Their names; empty, too, where a person has explained why the result holds for the definitions as they are.
    """
    units = (record["renewed"][-1] if record["renewed"] else record["measured"])["units"]
    if not units:
        return ["nothing that it executed is recorded"]
    now = here()
    found = changed(now, units)
    explained = record.get("explained", {}).get("units", {})
    return found if any(explained.get(unit) != now.digest(unit) for unit in found) else []


def results_root() -> Path:
    """Return the folder of official results: inside an installed package, or beside a checkout's ``src``."""
    installed = package_root() / "_results"
    return installed if installed.is_dir() else package_root().parents[1] / "results"


def result_path(entry: Entry) -> Path:
    """Return the file of a paper's official result, whether it is there or not."""
    return results_root() / entry.field / f"{entry.stem}.json"


def official_result(entry: Entry) -> OfficialResult | None:
    """Return the official result of a paper's study, or ``None`` where there is none yet.

    Args:
        entry: A paper of the catalogue.
    """
    path = result_path(entry)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return OfficialResult(record, tuple(stale_units(record)))


def write_result(entry: Entry, record: Mapping[str, Any]) -> None:
    """Write the official result of a paper's study in place of the one before.

    Args:
        entry: A paper of the catalogue.
        record: The content: ``study``, ``measured``, ``renewed`` and ``concluded``.
    """
    path = result_path(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(_laid_out(record) + "\n", encoding="utf-8")
    partial.replace(path)


def _flat(value: object) -> bool:
    return not isinstance(value, dict | list)


def _flat_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_flat, cast(list[object], value)))


def _laid_out(value: object, indent: str = "") -> str:
    """Return JSON in which arrays of plain values, and objects of such and of plain values, stand on one line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + " "
    if isinstance(value, list):
        items = cast(list[object], value)
        if _flat_list(items):
            return line
        lines = [_laid_out(item, inner) for item in items]
        return f"[\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}]"
    if isinstance(value, dict):
        parts = cast(dict[str, object], value)
        plain = all(_flat(part) or _flat_list(part) for part in parts.values())
        if plain and len(line) <= _LONGEST_OBJECT:
            return line
        lines = [f"{json.dumps(name, ensure_ascii=False)}: {_laid_out(part, inner)}" for name, part in parts.items()]
        return f"{{\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}}}"
    return line
