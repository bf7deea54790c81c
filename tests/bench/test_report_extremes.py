"""The report of a weighing of the largest numbers, the longest curves and the strangest texts."""

import base64
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from tests.bench.test_report import Page, weighing

from paperweight import Weighing
from paperweight.reports import render_report


@pytest.mark.parametrize("one", [1e308, -1.7e308, 1e-320])
@pytest.mark.parametrize("other", [1e308, -1e308, 0.0])
def test_the_largest_numbers_are_drawn(one: float, other: float):
    def change(arm: str, seed: int, fields: dict[str, Any]) -> None:
        fields["metrics"] = {"score": one if arm == "method" else other, "loss": one if seed % 2 else other}
        fields["curves"] = {"score, by step": [(0.0, one), (1.0, other), (one, 1.0)]}

    found = weighing(change)
    assert Page(render_report(found)).tags.count("svg") == 4
    assert found.verdict == ("no effect" if abs(one - other) < 1 else "helps" if one > other else "hurts")


@pytest.mark.parametrize("text", ["\x1b[31mred", "nul\x00", "\u202eleft", "\x9b2J"])
def test_control_characters_are_written_out(text: str):
    page = render_report(weighing(text=text))
    assert text[:4] not in page
    assert text.encode("unicode_escape").decode()[:5] in page


def test_a_lone_surrogate_of_a_label_is_written_out():
    found = weighing()
    metrics = {**found.study.metrics, "score": replace(found.study.metrics["score"], label="half \ud83d")}
    loaded = replace(found.loaded, declaration=replace(found.study, metrics=metrics))
    page = render_report(Weighing(loaded, found.arms, found.seeds, found.records, "command", units={}, official=None))
    page.encode()
    assert "half \\ud83d" in page


def test_long_curves_many_images_and_long_messages_stay_below_two_megabytes():
    def change(arm: str, seed: int, fields: dict[str, Any]) -> None:
        points = 20_000 if seed == 0 else 10
        fields["curves"] = {f"loss {i}, by step": [(float(x), math.sin(x)) for x in range(points)] for i in range(2)}
        noise = base64.b64encode(random.Random(0).randbytes(20_000)).decode()
        fields["images"] = {f"sample {i}": [noise] * 16 for i in range(4)} if seed == 0 else {}
        if arm == "third":
            fields.update(status="crashed", metrics={}, message="m" * 100_000)

    page = render_report(weighing(change))
    assert len(page.encode()) < 2_000_000
    assert "more have no room on this page" in page
