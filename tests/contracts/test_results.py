"""Official results hold: what made them is as it was, was renewed, or somebody has explained why it does not matter."""

import json

import pytest

from paperweight.catalogue import Entry, entries, official_result, result_path
from paperweight.data import load_images

each_entry = pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.stem)


def missing(entry: Entry) -> str:
    return f"{entry.stem} has no official result yet: paperweight board {entry.stem}"


@each_entry
def test_no_result_is_stale(entry: Entry):
    official = official_result(entry)
    assert official is not None, missing(entry)
    remedy = f"paperweight board --renew {entry.stem}, or --explain it"
    assert not official.stale, f"{', '.join(official.changed[:5])} changed since: {remedy}"


@each_entry
def test_a_result_says_what_it_rests_on(entry: Entry):
    assert result_path(entry).is_file(), missing(entry)
    record = json.loads(result_path(entry).read_text(encoding="utf-8"))
    measured, renewed = record["measured"], record["renewed"]
    assert len(measured["revision"].rstrip("+")) == 40
    assert {"torch", "python", "cpu"} <= measured["environment"].keys()
    units = (renewed[-1] if renewed else measured)["units"]
    assert f"studies.{entry.field}.{entry.stem}:run" in units
    assert f"studies.{entry.field}.{entry.stem}:STUDY" in units
    assert any(name.startswith(f"{entry.field}.{entry.stem}:") for name in units)
    for entry_of_renewal in renewed:
        assert entry_of_renewal["seeds"][0] == 0
        assert len(set(entry_of_renewal["seeds"])) > 1
        assert entry_of_renewal["cpu_seconds"] > 0


@each_entry
def test_embedded_data_are_those_that_a_result_was_measured_with(entry: Entry):
    official = official_result(entry)
    assert official is not None, missing(entry)
    parts = [official.measured, *official.record["renewed"]]
    known = {
        name: mark for part in parts if isinstance(part["data_hash"], dict) for name, mark in part["data_hash"].items()
    }
    for name in known.keys() & {"digits"}:  # the pixels of glyphs may differ by a rounding between processors
        assert load_images(name).fingerprint == known[name]
