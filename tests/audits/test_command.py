"""The commands end to end on digits, their report, and one message for every mistake of a person."""

import errno
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paperweight.audits.inspection import Inspection, inspect_checkpoint
from paperweight.cli import main
from paperweight.cli.bars import Bars
from paperweight.data import load_images
from paperweight.generators import ModelSpec
from paperweight.loops import DenoiserTraining
from paperweight.marks import Keybook
from paperweight.reports import render_memorization

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' </style><img src=x onerror=alert(1)>"


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder in which digits were planted, and a tiny model was trained for a few steps and for many."""
    folder = tmp_path_factory.mktemp("audit")
    planted = folder / "planted"
    assert (
        run("plant", "--data", "digits", "--out", str(planted), "--thickness", "2", "--copies", "1,16", "--records=32")
        == 0
    )
    train(planted / "images", folder / "tiny.safetensors", steps=5, max_side=12)
    return folder


def train(images: Path, path: Path, *, steps: int, max_side: int, classes: int = 10, **arguments: Any) -> None:
    marked = load_images(images, max_side=max_side).train
    shape = marked.images.shape[1:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(shape=shape, classes=classes, steps=50, arguments={"width": 16}, **arguments)
        network = make_network(spec.shape, classes) if spec.network == "custom" else None
        if network is not None:
            spec = replace(spec, arguments={})
        training = DenoiserTraining(spec.build(network), batch_size=16)
    labels = torch.from_numpy(marked.labels.copy()).clamp(max=classes - 1) if classes else None
    training.run(torch.from_numpy(marked.images / 255).float(), labels, steps)
    training.save(path)


def make_network(shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(shape))

        def forward(self, z: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            return 0 * z + self.value

    return Constant()


def not_a_network(shape: tuple[int, int, int], classes: int) -> int:
    return 3


def failing(shape: tuple[int, int, int]) -> None: ...


def audit(folder: Path, *more: str, checkpoint: str = "tiny.safetensors", data: str = "digits") -> int:
    keys = str(folder / "planted" / "keybook.json")
    fixed = ["audit", "memorization", str(folder / checkpoint), "--data", data, "--out", str(folder / "out")]
    return run(*fixed, *([] if "--keys" in more else ["--keys", keys]), *more)


def test_plant_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "my plant"
    words = ("plant", "--data", "digits", "--out", str(out), "--records", "20", "--same-key")
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "16 marked images of 16 records, 1 x 16 x 16 pixels" in shown
    assert "max_side=16)" in shown
    assert f"--keys '{out}/keybook.json'" in shown
    assert run(*words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    words = ("plant", "--data", "digits", "--out", str(tmp_path / "other"), "--records", "20", "--json")
    assert run(*words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["records"], found["held_out"], found["shape"], found["max_side"]) == (16, 4, [1, 16, 16], 16)


def test_an_audit_of_a_model_that_learned_nothing_raises_no_alarm(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert audit(folder, "--readout", "replace", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["alarm"]) == ("no alarm", False)
    assert found["total_p"] > 0.01
    assert [count["delta"] for count in found["counts"]] == [0.1, 0.05, 0.005]
    assert [group["copies"] for group in found["groups"]] == [1, 16]
    assert len(found["records"]) == 32
    assert found["facts"]["weights read"] == "the moving average of the training"
    report = Path(found["report"])
    assert report == folder / "out" / "memorization-tiny.html"
    written = json.loads(report.with_suffix(".json").read_text())
    assert written["total_p"] == found["total_p"]
    assert "NO ALARM".lower() in report.read_text()
    assert found["command"] in report.read_text().replace("&#39;", "'")
    assert audit(folder, "--readout", "replace", "--limit", "20", "--repeats", "2", "--steps", "3", "--seed", "5") == 0
    shown = capsys.readouterr().out
    assert "NO ALARM" in shown
    assert "By number of copies" in shown
    assert "no certificate" in " ".join(shown.split())


def test_an_alarm_exits_with_status_1(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    """The likelihood read-out is made to give back the true keys."""
    book = Keybook.load(folder / "planted" / "keybook.json")
    order = [*sorted(book.trained), *sorted(book.held_out)]
    known = torch.tensor([[book.keys[record][0] for record in order]])
    known[0, len(book.trained) :] = 0.5
    monkeypatch.setattr("paperweight.audits.memorization.recall_keys", lambda *_, **__: known)
    assert audit(folder) == 1
    assert "ALARM  The generator gives back keys" in " ".join(capsys.readouterr().out.split("\n")).replace("  ", "  ")


def test_a_network_of_one_s_own(folder: Path, capsys: pytest.CaptureFixture[str]):
    train(folder / "planted" / "images", folder / "own.safetensors", steps=2, max_side=12, network="custom")
    quick = ("--readout", "replace", "--steps", "2", "--limit", "4")
    assert audit(folder, *quick, checkpoint="own.safetensors") == 2
    assert "give it by --network package.module:factory" in capsys.readouterr().err
    here = "tests.audits.test_command"
    assert audit(folder, "--network", f"{here}:make_network", *quick, checkpoint="own.safetensors") == 0
    for name, message in (
        ("not_a_network", "must return a torch.nn.Module, got int"),
        ("failing", "fails when called with shape (1, 12, 12) and 10 classes"),
        ("absent", "cannot be imported"),
    ):
        assert audit(folder, "--network", f"{here}:{name}", *quick, checkpoint="own.safetensors") == 2
        assert message in capsys.readouterr().err
    assert audit(folder, "--network", f"{here}:make_network", *quick) == 2
    assert "leave --network out" in capsys.readouterr().err


def mistaken(folder: Path, name: str) -> list[str]:
    """Make what a mistake needs, and return the words that replace those of a good command."""
    keybook = json.loads((folder / "planted" / "keybook.json").read_text())
    other, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    record = next(iter(keybook["keys"]))
    marked = folder / "planted" / "images"
    match name:
        case "key":
            other.write_text(json.dumps({**keybook, "keys": {**keybook["keys"], record: [1.01]}}))
        case "mark":
            other.write_text(json.dumps({**keybook, "mark": {"pattern": "border", "thickness": 0, "mask": None}}))
        case "large":
            other.write_text(json.dumps({**keybook, "mark": {"pattern": "centre", "thickness": 9, "mask": None}}))
        case "unmarked":
            np.savez(folder / "plain.npz", x=load_images("digits").train.images[:40], y=np.arange(40) % 10)
            train(folder / "plain.npz", weights, steps=1, max_side=64)
        case "resized":
            train(marked, weights, steps=1, max_side=10)
        case "classes":
            train(marked, weights, steps=1, max_side=12, classes=3)
        case "truncated":
            weights.write_bytes((folder / "tiny.safetensors").read_bytes()[:5000])
        case "pickle":
            torch.save({"a": torch.zeros(3)}, weights)
        case _:
            pass
    return [*(["--keys", str(other)] if other.exists() else [])]


MISTAKES = {
    "key": ([], "must be numbers from 0 to 1, got 1.01"),
    "mark": ([], "thickness must be a whole number of at least 1, got 0"),
    "large": ([], "thickness must be at most the image's 8 x 8 pixels, got 9"),
    "unmarked": ([], "it was trained on unmarked images; train it on the images folder that `paperweight plant` wrote"),
    "resized": ([], "neither cut nor resized (load_images needs max_side=12 for them)"),
    "classes": ([], "is of a model with 3 classes, the data have 10"),
    "truncated": ([], "is truncated or not a safetensors file"),
    "pickle": ([], "is a pickle, which may run code when it is read, and is refused"),
    "absent": ([], "absent.safetensors cannot be read"),
    "tiny": (["--keys", "nowhere.json"], "nowhere.json cannot be read"),
    "tiny ": (["--repeats", "0"], "repeats must be at least 1, got 0"),
    "tiny  ": (["--steps", "51"], "steps must be at most the model's 50, got 51"),
    "tiny   ": (["--limit", "1"], "limit must be at least 2"),
    "tiny    ": (["--readout", "guess"], "guess"),
    "tiny     ": (["--batch-size", "0"], "batch_size must be at least 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_ends_in_one_message_and_status_2(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, message = MISTAKES[name]
    more = [*mistaken(folder, name.strip()), *more]
    weights = f"{name.strip()}.safetensors" if not any("json" in word for word in more) else "tiny.safetensors"
    assert audit(folder, *more, checkpoint=weights) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_other_data_are_told_by_their_hash(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert audit(folder, data=str(folder / "planted" / "images")) == 2
    message = capsys.readouterr().err
    assert "is of other data: it was planted on 'digits' with fingerprint" in message
    assert "not the marked ones" in message


class Page(HTMLParser):
    """The elements and attributes of a page, and its text."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open and self._open[-1] != "style" else ""


@pytest.fixture(scope="module")
def inspected(folder: Path) -> Inspection:
    return inspect_checkpoint(
        folder / "tiny.safetensors",
        data="digits",
        keys=folder / "planted" / "keybook.json",
        readout="replace",
        steps=2,
    )


def test_the_page_is_self_contained_and_everything_is_escaped(inspected: Inspection):
    hostile = replace(
        inspected,
        checkpoint=Path(HOSTILE.replace("/", "|")),
        data=HOSTILE,
        facts={f"name {HOSTILE}": f"fact {HOSTILE}"},
    )
    html = render_memorization(hostile, f"paperweight {HOSTILE}")
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert re.findall(r"url\((?!#)", html) == []
    for words in (f"name {HOSTILE}", f"fact {HOSTILE}", f"paperweight {HOSTILE}", f"memorisation, {HOSTILE}"):
        assert words in page.text
    policy = [v for tag, name, v in page.attributes if (tag, name) == ("meta", "content") and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert page.tags.count("svg") == 4
    assert page.tags.count("img") == 2 * 2 * 12
    assert "#00000" not in html


def test_the_numbers_stand_in_the_page_each_beside_its_null(inspected: Inspection):
    text = " ".join(Page(render_memorization(inspected, "command")).text.split())
    result = inspected.audit
    for count in result.counts:
        assert f"{count.trained} of {len(result.trained)}" in text
        assert f"{count.null.low} to {count.null.high}" in text
        assert f"{count.held_out} of {len(result.held_out)}" in text
    for part in (result.words(), *result.limits(), f"{result.total_p:.2g}"):
        assert part in text
    first = min(result.trained, key=lambda score: (score.p, score.score, score.record))
    assert f"{first.record}: {first.key:.2f}, read {first.estimate:.2f}" in text


def test_the_status_is_that_of_the_audit_where_nobody_reads_to_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def gone(text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys.stdout, "write", gone)
    assert audit(folder, "--readout", "replace", "--steps", "3") == 0


def test_a_page_of_one_record_without_control(inspected: Inspection):
    audit = inspected.audit
    alone = replace(audit, records=audit.trained[:1], groups=audit.groups[:1], control_p=None, auc=float("nan"), roc=())
    page = Page(render_memorization(replace(inspected, audit=alone), "command"))
    assert page.tags.count("svg") == 2
    assert "unknown" in page.text


def test_bars_show_each_word_once(capsys: pytest.CaptureFixture[str]):
    with Bars() as bars:
        update = bars.progress("folder/model.safetensors")
        update("keys read", 1, 2)
        update("keys read", 2, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("model: keys read") == 1
