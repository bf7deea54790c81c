"""The audit of an erasure: intervals and verdicts, models whose drawings are known in closed form, and the command."""

import copy
import json
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from paperweight.audits import audit_erasure
from paperweight.audits.erasure_findings import Rate, difference_interval, verdict
from paperweight.audits.erasure_inspection import inspect_erasure
from paperweight.cli import main
from paperweight.errors import InputError
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.reports import render_erasure
from paperweight.unlearning.negative_prompt import NegativePrompt

WORDS = ("circle", "disc", "cross", "bar", "shape")
NAMES = (("bar",), ("circle", "disc"), ("cross",))


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# --- rates and verdicts ----------------------------------------------------------------------------------------------


def test_intervals_are_those_of_the_literature():
    """Newcombe (1998): Wilson's interval of 81 in 263, and method 10 for 56 in 70 against 48 in 80."""
    rate = Rate(81, 263)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.2553, 0.3662)
    assert [round(end, 4) for end in difference_interval(Rate(56, 70), Rate(48, 80))] == [0.0524, 0.3339]
    assert (Rate(0, 20).low, Rate(20, 20).high) == (0.0, 1.0)
    low, high = difference_interval(Rate(48, 80), Rate(56, 70))
    assert (round(low, 4), round(high, 4)) == (-0.3339, -0.0524)


@pytest.mark.parametrize(
    ("erased", "recovered", "control", "expected"),
    [
        (60, 90, 0, "not erased"),
        (0, 60, 5, "hidden"),
        (0, 5, 5, "removed"),
        (0, 20, 60, "removed"),
        (0, 12, 5, "undecided"),
        (0, 60, None, "undecided"),
        (60, 60, None, "not erased"),
        (45, 90, 5, "undecided"),
        (45, 5, 5, "undecided"),
    ],
)
def test_verdicts(erased: int, recovered: int, control: int | None, expected: str):
    never = None if control is None else Rate(control, 100)
    assert verdict(Rate(95, 100), Rate(erased, 100), Rate(recovered, 100), never) == expected


# --- models that draw what the first token of a caption says, by one matrix ------------------------------------------


class Drawing(nn.Module):
    """Draws W c of the first token c, whatever the noise is."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return (tokens[:, 0] @ self.weight.T).view_as(z)


def prototypes() -> Tensor:
    """Give images of a bar, a circle and a cross, (3, 64), in [-1, 1]."""
    images = -torch.ones(3, 8, 8)
    images[0, 3:5] = 1
    images[1, 1, 2:6] = images[1, 6, 2:6] = images[1, 2:6, 1] = images[1, 2:6, 6] = 1
    images[2, range(8), range(8)] = images[2, range(8), range(7, -1, -1)] = 1
    return images.flatten(1)


def drawing(drawn: dict[str, int], base: TextToImage) -> TextToImage:
    """Give a model that draws a prototype for each word, and grey for the rest and without one, by one matrix."""
    model = copy.deepcopy(base)
    captions = [*WORDS, ""]
    tokens = model.condition(captions, len(captions))[:, 0].detach()
    targets = torch.stack([prototypes()[drawn[word]] if word in drawn else torch.zeros(64) for word in captions])
    model.network = Drawing((torch.linalg.pinv(tokens) @ targets).T)  # pyright: ignore[reportAttributeAccessIssue]
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> TextToImage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = TextSpec(shape=(1, 8, 8), words=WORDS, length=4, dim=8, steps=20, prediction="x0")
        return spec.build()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = (prototypes()[labels].view(-1, 1, 8, 8) + 1) / 2
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1), labels


BEFORE = {"bar": 0, "circle": 1, "disc": 1, "cross": 2}
HIDDEN = {**BEFORE, "circle": 2}
GONE = {"bar": 0, "circle": 2, "disc": 2, "cross": 2}


def audited(base: TextToImage, data: tuple[Tensor, Tensor], erased, control=None, **given):
    before = drawing(BEFORE, base)
    return audit_erasure(
        drawing(erased, base) if isinstance(erased, dict) else erased,
        before,
        *data,
        NAMES,
        "circle",
        control=None if control is None else drawing(control, base),
        **{"initial": "shape", "count": 30, "steps": 250, "sampling_steps": 2, "judge_steps": 150, **given},
    )


def test_a_concept_that_only_lost_a_name_is_hidden_and_its_other_name_still_draws_it(base, data):
    audit = audited(base, data, HIDDEN, GONE)
    assert audit.judge_accuracy == 1.0
    assert (audit.before.share, audit.erased.share) == (1.0, 0.0)
    assert audit.recovered.share > 0.9
    assert audit.control is not None
    assert audit.control.share < 0.1
    assert audit.verdict == "hidden"
    assert audit.rate("disc", erased=True).share == 1.0
    assert audit.synonyms == ("disc",)
    assert audit.seen_erased.tolist() == [[10, 0, 0, 0], [0, 0, 30, 0], [0, 30, 0, 0], [0, 0, 10, 0]]
    assert [rate.share for rate in audit.others] == [1.0, 1.0]
    assert audit.losses[-20:].mean() < 0.5 * audit.losses[:20].mean()


def test_what_no_word_draws_is_removed(base, data):
    audit = audited(base, data, GONE, GONE, count=60)
    assert audit.verdict == "removed"
    assert "removed as far as this attack tells" in audit.in_words()


def test_what_its_word_still_draws_is_not_erased(base, data):
    audit = audited(base, data, BEFORE, GONE, steps=5)
    assert audit.verdict == "not erased"


def test_without_a_control_nothing_is_decided(base, data):
    audit = audited(base, data, HIDDEN, steps=5)
    assert audit.verdict == "undecided"
    assert audit.control is None
    assert "taught it anew" in audit.in_words()


def test_grey_images_show_nothing(base, data):
    audit = audited(base, data, {"bar": 0, "disc": 1, "cross": 2}, GONE, steps=5)
    assert audit.erased.share == 0.0
    assert audit.seen_erased[1].tolist() == [0, 0, 0, 30]


def test_a_steered_model_is_attacked_through_its_sampler(base, data):
    steered = NegativePrompt()(drawing(BEFORE, base), ["circle"], [])
    audit = audited(base, data, steered, GONE, steps=5)
    assert audit.erased.share == 1.0  # asked for the negative prompt itself, it samples without guidance
    assert audit.verdict == "not erased"


def test_the_same_seed_gives_the_same_audit(base, data):
    first, second = (audited(base, data, HIDDEN, GONE, steps=20, judge_steps=20) for _ in range(2))
    assert {**first.record(), "cpu_seconds": 0} == {**second.record(), "cpu_seconds": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 9}, "count must be at least 10, got 9"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 10**40}, "seed must be from 0 to"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"templates": ("a circle",)}, "templates must be captions with {}"),
        ({"templates": "{}"}, "templates must be captions with {}"),
        ({"templates": ("the {}",)}, "the"),
        ({"initial": "shap"}, "shap"),
        ({"sampling_steps": 21}, "sampling_steps must be at most the 20 training times of each model, got 21"),
    ],
)
def test_bad_numbers_and_words_are_refused(base, data, given, message):
    with pytest.raises((InputError, ValueError), match=message):
        audited(base, data, HIDDEN, **given)


def test_data_that_do_not_fit_are_refused(base, data):
    model, (images, labels) = drawing(BEFORE, base), data
    audit = partial(audit_erasure, model, model, sampling_steps=2)
    with pytest.raises(InputError, match="concept must be a name of a class, got 'circel'"):
        audit(images, labels, NAMES, "circel")
    with pytest.raises(InputError, match="names must be at least one for each class, each once"):
        audit(images, labels, [["bar"], ["bar"], ["cross"]], "bar")
    with pytest.raises(InputError, match="ring"):
        audit(images, labels, [["bar"], ["ring"], ["cross"]], "bar")
    with pytest.raises(InputError, match=r"images must be \(N, 1, 8, 8\)"):
        audit(images[:, :, :4], labels, NAMES, "circle")
    few = torch.cat([(labels != 1).nonzero()[:, 0], (labels == 1).nonzero()[:3, 0]])
    with pytest.raises(InputError, match="at least 16 images of each class, of 'circle' there are 3"):
        audit(images[few], labels[few], NAMES, "circle")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: tuple[Tensor, Tensor]) -> Path:
    folder = tmp_path_factory.mktemp("erasure")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments = {"patch": 4, "width": 16, "blocks": 1, "heads": 2}
        spec = TextSpec(shape=(1, 8, 8), words=WORDS, length=4, dim=8, steps=20, arguments=arguments)
        for name in ("before", "erased", "never"):
            spec.build().save(folder / f"{name}.safetensors")
        TextSpec(shape=(3, 8, 8), words=WORDS, length=4, dim=8, steps=20).build().save(folder / "colour.safetensors")
    for number, (image, label) in enumerate(zip(*data, strict=True)):
        path = folder / "data" / ", ".join(NAMES[int(label)])
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(path / f"{number}.png")
    return folder


def command(folder: Path, *more: str, concept: str = "circle", erased: str = "erased", **given: str) -> list[str]:
    options = {"before": str(folder / "before.safetensors"), "data": str(folder / "data"), "count": "10"}
    options |= {"steps": "2", "judge-steps": "5", "out": str(folder / "out"), **given}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["audit", "erasure", str(folder / f"{erased}.safetensors"), "--concept", concept, *words, *more]


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("sampler", ["plain", "negative", "max"])
def test_the_command_writes_a_report_and_says_what_it_found(folder: Path, capsys, sampler: str):
    status = run(*command(folder, "--control", str(folder / "never.safetensors"), "--sampler", sampler))
    told = capsys.readouterr().out
    numbers = json.loads((folder / "out" / "erasure-erased-circle.json").read_text())
    assert status == (1 if numbers["verdict"] in ("hidden", "not erased") else 0)
    assert numbers["verdict"].upper() in told
    assert numbers["classes"] == ["bar", "circle", "cross", "nothing"]
    assert numbers["facts"]["sampler of the erased model"] == sampler
    page = Words()
    page.feed((folder / "out" / "erasure-erased-circle.html").read_text())
    assert page.tags.count("table") == 3
    assert page.tags.count("svg") == 2
    assert "script" not in page.tags
    assert numbers["command"] in " ".join(page.text.split())


def test_json_goes_to_the_output(folder: Path, capsys):
    run(*command(folder, "--json"))
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["control"] is None
    assert numbers["before"]["count"] == 10


def test_what_names_hold_is_escaped(folder: Path):
    found = inspect_erasure(
        folder / "erased.safetensors", concept="circle", before=folder / "before.safetensors", data=folder / "data",
        count=10, steps=1, judge_steps=5,
    )  # fmt: skip
    found.facts["data"] = "<script>alert(1)</script>"
    assert "<script>" not in render_erasure(found, "paperweight '<script>'")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda f: command(f, concept="circel"), "circel"),
        (lambda f: command(f, erased="missing"), "missing.safetensors"),
        (lambda f: command(f, erased="colour"), "of one kind"),
        (lambda f: command(f, data="digits"), "know"),
        (lambda f: command(f, count="3"), "count must be at least 10"),
        (lambda f: command(f, "--initial", "blob"), "blob"),
        (lambda f: command(f, "--templates", "a circle"), "templates must be captions"),
    ],
)
def test_a_mistake_gets_one_message_and_status_2(folder: Path, capsys, words, message: str):
    assert run(*words(folder)) == 2
    told = capsys.readouterr()
    assert message in " ".join((told.out + told.err).split())
    assert "Traceback" not in told.out + told.err


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
