"""Official results: what is concluded follows from what was measured, and their files are laid out to be read."""

import json
import re
from typing import Any

import pytest

from paperweight.bench.conclusion import conclude
from paperweight.bench.loading import load_study
from paperweight.catalogue import Entry, entries, official_result, result_path, results_root, write_result
from paperweight.catalogue import results as module

WEIGHED = [entry for entry in entries() if result_path(entry).is_file()]


def near(value: Any) -> Any:
    """Let numbers differ in their last digits, as those of two machines may."""
    if isinstance(value, dict):
        return {name: near(part) for name, part in value.items()}
    if isinstance(value, list):
        return [near(part) for part in value]
    return pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value


@pytest.mark.parametrize("entry", WEIGHED, ids=lambda entry: entry.stem)
def test_what_is_concluded_follows_from_what_was_measured(entry: Entry) -> None:
    official = official_result(entry)
    assert official is not None
    assert set(official.record) - {"explained", "later_curves"} == {"study", "measured", "renewed", "concluded"}
    assert official.record["study"] == entry.stem
    assert conclude(load_study(entry.stem).declaration, official.measured) == near(official.concluded)


@pytest.mark.parametrize("entry", WEIGHED, ids=lambda entry: entry.stem)
def test_one_comparison_is_primary_and_arrays_stand_on_one_line(entry: Entry) -> None:
    text = (results_root() / entry.field / f"{entry.stem}.json").read_text(encoding="utf-8")
    record = json.loads(text)
    primary = re.findall(r'"arm": "(\w+)", "primary": true', text)
    assert primary == [record["concluded"]["method"]]
    seeds = record["measured"]["seeds"]
    for of_arms in record["measured"]["values"].values():
        assert [len(values) for values in of_arms.values()] == [len(seeds)] * len(record["measured"]["arms"])
        for values in of_arms.values():
            assert json.dumps(values) in text


def test_a_result_that_is_written_again_is_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = WEIGHED[0]
    official = official_result(entry)
    assert official is not None
    before = (results_root() / entry.field / f"{entry.stem}.json").read_text(encoding="utf-8")
    monkeypatch.setattr(module, "results_root", lambda: tmp_path)
    write_result(entry, official.record)
    assert (tmp_path / entry.field / f"{entry.stem}.json").read_text(encoding="utf-8") == before
