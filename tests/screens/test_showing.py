"""What a screen shows while it runs."""

import io

from rich.console import Console

from paperweight.cli.racing import picture
from paperweight.screens import Progress


def shown(progress: Progress) -> list[str]:
    console = Console(file=io.StringIO(), width=60)
    console.print(picture(progress))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    return [line.rstrip() for line in text.splitlines()]


def test_who_is_ahead_stands_first_with_the_margin_and_the_time_left() -> None:
    lines = shown(Progress("confirming, 5 pairs", 40, 300, {"b": -0.002, "a": 0.01, "new\x1b": None}, 321.4))
    assert lines[0] == "confirming, 5 pairs; 5:21 left"
    assert [line.split() for line in lines[2:]] == [["a", "+0.0100"], ["new\\x1b"], ["b", "-0.0020"]]


def test_a_long_list_is_cut() -> None:
    lines = shown(Progress("trying rates", 0, 0, {f"recipe{i}": float(i) for i in range(30)}, -3.0))
    assert lines[0].endswith("0:00 left")
    assert lines[2].split() == ["recipe29", "+29.0000"]
    assert lines[-1] == "and 18 more"
