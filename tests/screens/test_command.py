"""The command ``screen`` and its report: a real screen of digits, going on, stopping, mistakes, and the page."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from paperweight.bench.engine import local_engine
from paperweight.bench.trial import TrialSpec
from paperweight.cli import main
from paperweight.cli.screening import _print_screen
from paperweight.errors import InputError
from paperweight.reports import render_screen, screening_figures, write_screen_report
from paperweight.screens import screen
from paperweight.screens.outcome import spanned
from paperweight.screens.screen import _command, _outcome
from paperweight.studies.screening import TREES, ScreenArm, ScreenData

SOURCE = Path(__file__).resolve().parents[2] / "src"
OWN = """
import torch
from torch import nn
from paperweight.studies import Recipe

def blind(images, labels, generator):
    return torch.zeros_like(images), labels

blind = Recipe(words="it sees nothing <b>", line="images = 0 * images", data=blind)
residual = Recipe(words="it needs a GELU", line="x", penalty=lambda model: torch.zeros(()),
    fits=lambda model, data: "the network has no GELU")

def network(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
"""


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    arguments = [sys.executable, "-m", "paperweight.cli", "screen", "--out", "out", *words]
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def status(*words: str) -> object:
    try:
        main(["screen", *words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_a_screen_stops_with_a_report_goes_on_and_then_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = ["--data", "digits", "--minutes", "1", "--field", "gan", "--with", "own:blind", "--with"]
    words += ["own:residual", "--network", "own:network", "--jobs", "1"]
    first = command(tmp_path, *words)
    end = time.monotonic() + 60
    assert first.stderr is not None
    for line in first.stderr:
        assert time.monotonic() < end
        if "trying rates" in line:
            break
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130, out
    (page,) = (tmp_path / "out").glob("*.html")
    assert json.loads(page.with_suffix(".json").read_text())["end"] == "interrupted"

    second = command(tmp_path, *words)
    out, err = second.communicate(timeout=150)
    assert second.returncode == 0, err
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["end"] in ("time", "decided")
    fates = {fate["name"]: fate for fate in numbers["fates"]}
    assert fates["own:residual"]["verdict"] == "does not fit"
    assert fates["own:residual"]["reason"] == "the network has no GELU"
    assert fates["own:blind"]["verdict"] in ("dropped", "hurts", "inconclusive")  # the last where the time is over
    assert "not reached" not in {fate["verdict"] for fate in numbers["fates"]}
    assert numbers["seconds"] <= 1.1 * 60

    monkeypatch.chdir(tmp_path)
    assert status(*words, "--out", "out") == 0
    assert json.loads(page.with_suffix(".json").read_text())["fates"] == numbers["fates"]
    text = page.read_text()
    assert "it sees nothing &lt;b&gt;" in text
    assert "it sees nothing <b>" not in text


def test_a_changed_recipe_has_trials_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that killed its worker left no word of the files that it executed, and the time given to it was spent."""
    seen: list[str] = []

    def stop(bench: object, data: ScreenData, *_: object, **__: object) -> None:
        seen.append(data.study())
        raise InputError("seen enough")

    monkeypatch.setattr(sys.modules["paperweight.screens.screen"], "Course", stop)
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in (OWN, OWN, OWN + "# changed"):
        (tmp_path / "changing.py").write_text(text)
        with pytest.raises(InputError, match="seen enough"):
            screen("digits", recipes=["changing:blind"], network="changing:network", out=tmp_path)
    assert seen[0] == seen[1] != seen[2]


def test_a_recipe_of_ones_own_leaves_its_worker_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = ScreenData(train=60, used=60, validation=20, test=20, batch_size=20, recipes="mine:blind")
    arm = ScreenArm("mine:blind", "sgd", 0.01, 4)
    spec = TrialSpec(study=data.study(), arm=arm.name, seed=0, budget="desk", data="digits")
    (record,) = local_engine(jobs=1, time_limit=60.0).run([spec])
    assert record.status == "finished"
    assert "the worker was replaced" not in record.message
    assert any(name.endswith("mine.py") for name in record.own)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "digits", "--minutes", "0.1"), "minutes must be from 0.25"),
        (("--data", "digits", "--minutes", "nan"), "minutes must be from 0.25"),
        (("--data", "digits", "--least", "0"), "least must be above 0"),
        (("--data", "digits", "--least", "nan"), "least must be above 0"),
        (("--data", "digits", "--least", "1"), "below 1"),
        (("--data", "no/such/folder"), "no/such/folder"),
        (("--data", "digits", "--field", "optics"), "did you mean optim?"),
        (("--data", "digits", "--field", "gan"), "no paper of gan has a recipe"),
        (("--data", "digits", "--with", "math:pi"), "math:pi must be a recipe"),
        (("--data", "digits", "--with", "lookahed"), "lookahed must be a recipe"),
        (("--data", "digits", "--network", "math:tau"), "math:tau"),
        (("--data", "digits", "--jobs", "0"), "jobs must be at least 1"),
        (("--data", "digits", "--target", "y"), "digits"),
        (
            (
                "--data",
                "no_such.csv",
            ),
            "no_such.csv",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(
    words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(*words) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert "Traceback" not in shown.err


def page_of(bench, recipes, **options):
    course = bench.course(recipes, **options)
    return _outcome(
        course,
        data='<script>"toy"',
        network="a net",
        minutes=bench.minutes,
        least=bench.least,
        seconds=600.0,
        end="decided" if course.decided else "time",
        command="paperweight screen --data toy",
    )


def test_the_page_ranks_names_costs_and_the_line_to_use_and_fetches_nothing(drawn, tmp_path: Path) -> None:
    screen = page_of(drawn({"lookahead": 0.02, "bad": -0.2}, misfits=["odd"]), ["lookahead", "bad", "odd", "none"])
    page = write_screen_report(screen, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "from paperweight.optim" not in text  # the line of the drawn recipe names nothing of the paper
    assert text.index("<svg") < text.index("<h2>To use what helps</h2>")
    assert "<script" not in text
    assert text.count("<svg") == 3
    assert not re.findall(r"(?:src|href)=[\"'](?!https://|data:|#)", text)
    assert "Does not fit" in text
    assert "it has no convolutions" in text
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["words"] == screen.words()
    assert {fate["verdict"] for fate in numbers["fates"]} >= {"helps", "does not fit"}


def test_the_page_counts_recipes_as_its_words_do_and_says_what_failed(drawn) -> None:
    bench = drawn({"helper": 0.02}, failing=[TREES, "own.module:recipe"])
    screen = page_of(bench, ["helper", "none", "own.module:recipe"], target="y")
    text = render_screen(screen)
    assert "Of 3 recipes" in screen.words()
    assert "<dt>recipes looked at</dt><dd>3</dd>" in text
    assert "<strong>own.module:recipe</strong>: 3 of its 3 trainings failed, the first timed-out" in text


def test_a_page_without_a_ranking_shows_none(drawn) -> None:
    text = render_screen(page_of(drawn({"helper": 0.02, "half_of_the_data": 0.03}, minutes=3.0), ["helper"]))
    assert "A control failed" in text
    assert "To use what helps" not in text
    assert "What was measured, not to be relied on" in text


def test_a_page_of_nothing_can_be_read(drawn) -> None:
    text = render_screen(page_of(drawn({}, minutes=0.02, step_seconds=1.0), ["a", "b"]))
    assert "too short" in text
    assert "<svg" not in text


def test_the_command_to_repeat_it_has_all_that_was_given() -> None:
    words = _command("toy", None, None, 3.0, 0.02, ["optim"], [], 1, "ray", "other.sqlite", "here")
    given = "--minutes 3 --least 0.02 --field optim --jobs 1 --engine ray --ledger other.sqlite --out here"
    assert words == f"paperweight screen --data toy {given}"


@pytest.mark.parametrize("width", [60, 80])
def test_the_console_cuts_no_number_and_names_alike_recipes_in_one_line(drawn, width: int) -> None:
    names = ["a_recipe_with_a_very_long_name", *"abcdefghijk", "odd", "strange"]
    screen = page_of(drawn({"a": -0.2, "b": -0.2}, minutes=1.2, misfits=["odd", "strange"]), names)
    console = Console(file=io.StringIO(), width=width)
    _print_screen(console, screen, Path("page.html"))
    text = console.file.getvalue()
    for fate in screen.confirmed:
        assert f" {spanned(fate.confirmed.interval)} " in text
        assert f" {len(fate.confirmed.gains)} " in text
        assert f" {fate.verdict} " in text
    assert screen.confirmed
    assert "\nodd, strange: does not fit. " in text
    assert not any(line.endswith(". ") for line in text.splitlines())


@pytest.mark.parametrize(("low", "high"), [(-0.093, 0.048), (-0.0119, 0.0123), (0.1111, 0.1119)])
def test_ticks_of_gains_do_not_run_into_each_other(drawn, low: float, high: float, monkeypatch) -> None:
    monkeypatch.setattr(screening_figures, "_limits", lambda rows, effect: (low, high))
    drawings = []
    monkeypatch.setattr(screening_figures, "svg", lambda figure, *words: drawings.append(figure) or "")
    screening_figures.ranking_figure(page_of(drawn({"a": 0.02}, minutes=1.2), ["a_recipe_with_a_long_name", "b"]))
    (figure,) = drawings
    figure.canvas.draw()
    boxes = [each.get_window_extent() for each in figure.axes[0].get_xticklabels()]
    assert len(boxes) >= 2
    assert not any(one.x1 + 2 > other.x0 for one, other in itertools.pairwise(boxes))
