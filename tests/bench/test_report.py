"""The report: self-contained, nothing fetched, everything escaped, whatever the trials did."""

import base64
import io
import json
import math
import re
import sys
import types
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from paperweight import Weighing
from paperweight.bench.loading import LoadedStudy
from paperweight.bench.record import weighing_record
from paperweight.bench.trial import Status, TrialRecord, TrialSpec
from paperweight.catalogue import find
from paperweight.errors import InputError
from paperweight.studies import Metric, Study

HOSTILE = "<script>alert(1)</script> $x_1$ & \"quotes\" 'single' </style><img src=x onerror=alert(1)>"
PIXEL = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
ARMS = ("base", "method", "third")

Change = Callable[[str, int, dict[str, Any]], None]


def weighing(
    change: Change | None = None,
    *,
    seeds: int = 8,
    arms: tuple[str, ...] = ARMS,
    text: str = "plain text",
    paper: bool = False,
    path: str = "example.py",
) -> Weighing:
    """Return a weighing of made-up trials; ``change`` edits the fields of one record."""
    study = Study(
        paper="example",
        question=f"Question {text}",
        claim=f"Claim {text}",
        arms={arm: f"describes {arm} {text}" for arm in arms},
        metrics={
            "score": Metric(label=f"score {text}", unit="points", better="higher", minimal_effect=0.05),
            "loss": Metric(label=f"loss {text}", unit=text, better="lower", minimal_effect=0.05),
        },
        headline="score",
        tuned=f"tuned {text}",
        limits=f"limits {text}",
    )
    entry = find("laplacian_smoothing") if paper else None
    loaded = LoadedStudy(path, entry, study, lambda *_: pytest.fail("run"), Path(path))
    records = []
    for seed in range(seeds):
        for index, arm in enumerate(arms):
            fields: dict[str, Any] = {
                "status": "finished",
                "metrics": {"score": seed + 0.5 * index, "loss": seed + 0.25 * index},
                "arguments": {f"rate {text}": 0.1 * index, "seed": seed, f"name {text}": f"value {text}"},
                "curves": {f"curve {text}, by step {text}": [(0.0, 1.0 + seed), (1.0, 0.5)]},
                "images": {f"sample {text}": [base64.b64encode(PIXEL).decode()] * 2} if seed == 0 else {},
                "message": f"note {text}",
                "correct": "3:oA==",
                "wall_seconds": 2.0 + index,
                "cpu_seconds": 1.0 + index,
                "peak_bytes": (1 + index) * 2**20,
                "environment": {"torch": f"2 {text}", "threads": "1"},
                "started_at": "2026-01-01T00:00:00+00:00",
            }
            if change is not None:
                change(arm, seed, fields)
            spec = TrialSpec(study=path, arm=arm, seed=seed, budget="smoke", code={"study": "0" * 64})
            record = TrialRecord(spec=spec, **fields)
            records.append(TrialRecord.model_validate_json(record.model_dump_json()))  # as it comes from a worker
    return Weighing(loaded, arms, seeds, records, f"paperweight weigh {text}")


def fails(status: Status, *arms: str, message: str = "because") -> Change:
    def change(arm: str, _seed: int, fields: dict[str, Any]) -> None:
        if arm in arms:
            fields.clear()
            fields.update(status=status, message=message)

    return change


class Page(HTMLParser):
    """The elements, text and addresses of a page; void elements close themselves."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
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
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def text(self) -> str:
        return "\n".join(text for tag, texts in self.texts.items() if tag != "style" for text in texts)


def addresses(page: Page) -> Iterator[tuple[str, str, str]]:
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster", "background", "formaction"):
            yield tag, name, value


def assert_safe(html: str, link: str | None = None) -> Page:
    """Assert that a page runs nothing and fetches nothing, and return it."""
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"} & set(page.tags)
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    for tag, name, value in addresses(page):
        local = name in ("href", "xlink:href") and value.startswith("#")
        inline = (tag, name) == ("img", "src") and value.startswith("data:image/png;base64,")
        assert local or inline or (tag, name, value) == ("a", "href", link), (tag, name, value)
    styles = "".join(page.texts.get("style", [])) + "".join(v for _, name, v in page.attributes if name == "style")
    assert "@import" not in styles
    assert re.findall(r"url\((?!#)", styles) == []
    return page


@pytest.fixture(scope="module")
def hostile() -> str:
    return weighing(text=HOSTILE, paper=True).html()


def test_page_is_self_contained_and_says_so_to_the_browser(hostile: str) -> None:
    link = find("laplacian_smoothing").paper.url
    page = assert_safe(hostile, link)
    assert ("a", "href", link) in page.attributes
    policy = [v for tag, name, v in page.attributes if (tag, name) == ("meta", "content") and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert hostile.lstrip().startswith("<!doctype html>")


def test_everything_a_study_names_is_escaped(hostile: str) -> None:
    page = assert_safe(hostile, find("laplacian_smoothing").paper.url)
    assert "<script" not in hostile
    assert "<img src=x" not in hostile
    assert page.texts["h1"] == [f"Question {HOSTILE}"]
    for words in ("describes base", "limits", "loss", "curve", "note", "value", "paperweight weigh", "sample"):
        assert "".join(f"{words} {HOSTILE}".split()) in "".join(page.text.split()), words  # figures break long titles
    assert f"name {HOSTILE}".replace("_", " ") in page.text
    assert ("img", "alt", f"sample {HOSTILE}, method, 1") in page.attributes
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == 4
    assert all(HOSTILE in label for label in labels)


def test_messages_of_failures_are_escaped() -> None:
    html = weighing(fails("crashed", "method", message=f"RuntimeError: {HOSTILE}")).html()
    page = assert_safe(html)
    assert f"RuntimeError: {HOSTILE}" in page.text
    assert page.tags.count("details") == 8


def test_figures_are_inline_and_refer_to_themselves_only(hostile: str) -> None:
    figures = re.findall(r"<svg .*?</svg>", hostile, re.DOTALL)
    assert len(figures) == 4  # pairs, two gains, one curve
    seen: set[str] = set()
    for figure in figures:
        defined = {value for _, name, value in Page(figure).attributes if name == "id"}
        used = set(re.findall(r"url\(#([^)]+)\)", figure)) | set(re.findall(r'xlink:href="#([^"]+)"', figure))
        assert used
        assert used <= defined
        assert not used & seen
        seen |= used
    assert all(f"var(--arm{index})" in hostile for index in range(3))
    assert "#00000" not in hostile


def test_images_are_those_of_the_study(hostile: str) -> None:
    sources = [value for tag, name, value in Page(hostile).attributes if (tag, name) == ("img", "src")]
    assert len(sources) == 2 * len(ARMS)
    assert {base64.b64decode(source.partition(",")[2]) for source in sources} == {PIXEL}
    assert Image.open(io.BytesIO(PIXEL)).size == (1, 1)


def test_the_numbers_stand_in_the_page() -> None:
    found = weighing()
    assert found.verdict == "helps"
    page = assert_safe(found.html())
    assert "helps" in page.texts["div"]
    for text in ("0.5", "0.5 to 0.5", "0.016", "× 2", "× 3", "method against base", "better by 0.5 points"):
        assert text in page.text, text
    assert found.cost("method") == type(found.cost("method"))(1.5, 2.0, 2.0)
    assert found.comparisons("loss")["third"].gain == -0.5
    assert "worse by" in weighing(lambda arm, _, fields: fields.update(metrics=_lower(arm, fields))).words()


def _lower(arm: str, fields: dict[str, Any]) -> dict[str, float]:
    return {name: -value if arm == "method" else 1.0 + value for name, value in fields["metrics"].items()}


def infinite(arm: str, seed: int, fields: dict[str, Any]) -> None:
    if arm == "method" or (arm == "third" and seed % 2):
        fields.update(status="diverged", metrics={"score": math.nan, "loss": math.inf})


def mixed(arm: str, seed: int, fields: dict[str, Any]) -> None:
    statuses: list[Status] = ["crashed", "out-of-memory", "timed-out"]
    if (arm, seed) in (("base", 0), ("method", 1), ("third", 2)):
        fails(statuses[seed], arm)(arm, seed, fields)


def huge(arm: str, seed: int, fields: dict[str, Any]) -> None:
    fields["metrics"] = {"score": (-1.0) ** seed * (1e300 if arm == "method" else 1.0), "loss": 1e-300}


def bare(_arm: str, _seed: int, fields: dict[str, Any]) -> None:
    for name in ("arguments", "curves", "images", "correct", "message", "peak_bytes", "environment"):
        del fields[name]


def odd_curves(arm: str, seed: int, fields: dict[str, Any]) -> None:
    points = {
        "not finite": [(0.0, math.nan), (1.0, math.inf)],
        "empty": [],
        "wide": [(1.0, 1e-9), (2.0, 1e9)],
        "one point": [(1.0, 1.0)],
    }
    if arm == "method" or seed == 0:
        points["of some"] = [(float(seed), 1.0)]
    fields["curves"] = points


@pytest.mark.parametrize(
    "change",
    [
        fails("crashed", "method"),
        fails("timed-out", "base"),
        fails("out-of-memory", *ARMS),
        infinite,
        mixed,
        huge,
        bare,
        odd_curves,
    ],
    ids=["method fails", "baseline fails", "all fail", "infinite", "mixed", "huge", "bare", "odd curves"],
)
@pytest.mark.parametrize("seeds", [1, 8])
def test_whatever_the_trials_did_there_is_a_report_and_a_strict_record(change: Change, seeds: int) -> None:
    found = weighing(change, seeds=seeds)
    page = assert_safe(found.html())
    assert found.verdict in page.texts["div"]
    failures = [record for record in found.records if record.status != "finished"]
    assert page.tags.count("details") == len(failures)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record == found.record()
    assert record["failures"] == [{"arm": r.spec.arm, "seed": r.spec.seed, "status": r.status} for r in found.failures]
    assert_safe("<html>" + found._repr_html_() + "</html>")
    assert found.words().startswith("method against base: ")


def test_one_seed_is_inconclusive_and_says_what_is_needed() -> None:
    found = weighing(seeds=1)
    assert found.verdict == "inconclusive"
    assert "use at least 7" in found.words()
    assert "use at least 7" in assert_safe(found.html()).text


def test_a_verdict_with_failures_says_so() -> None:
    assert "2 of its 16 trials failed or diverged" in weighing(mixed).words()
    assert weighing(infinite).verdict == "hurts"
    assert "8 of its 16 trials failed or diverged" in weighing(infinite).words()
    assert "minus infinite to minus infinite" in assert_safe(weighing(infinite).html()).text


def test_arguments_that_are_not_finite_are_in_the_record() -> None:
    def change(_arm: str, _seed: int, fields: dict[str, Any]) -> None:
        fields["arguments"] = {"clip": math.inf, "margin": math.nan}

    found = weighing(change)
    json.dumps(found.record(), allow_nan=False)
    assert "clip" in found.html()


def test_more_arms_than_colours_and_long_names_are_drawn() -> None:
    arms = tuple(f"a_rather_long_name_of_an_arm_{i}" for i in range(12))
    page = assert_safe(weighing(arms=arms, seeds=2).html())
    assert all(arm in page.text for arm in arms)


def test_by_example_needs_every_trial() -> None:
    interval = weighing().by_example("method")
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)
    assert weighing(fails("crashed", "method")).by_example("method") is None
    assert "Over test examples" in weighing().html()
    assert "Over test examples" not in weighing(bare).html()


def test_record_lets_a_reader_check_the_verdict() -> None:
    found = weighing()
    record = weighing_record(found)
    score = record["metrics"]["score"]
    (first, _) = score["comparisons"]
    gains = [arm - base for arm, base in zip(first["values"], score["baseline"], strict=True)]
    assert gains == [0.5] * 8
    assert (record["verdict"], first["verdict"], first["gain"], first["interval"]) == ("helps", "helps", 0.5, [0.5] * 2)
    assert (first["p"], first["p_holm"], first["coverage"]) == (2 / 256, 4 / 256, 1 - 12 / 256)
    assert record["cost"]["method"] == {"wall": 1.5, "cpu": 2.0, "memory": 2.0}
    assert record["measured_on"] == "2026-01-01"


def test_summary_for_a_notebook_is_a_fragment() -> None:
    found = weighing(text=HOSTILE)
    found.report = Path("folder") / f"{HOSTILE[:8]}.html"
    page = assert_safe(found._repr_html_())
    assert "html" not in page.tags
    assert page.tags.count("svg") == 2
    assert f"Report: {found.report}" in page.text
    assert repr(found) == "<Weighing of example: helps, 8 seeds, smoke>"


def test_frame_is_made_by_pandas_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = weighing()
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert found.to_frame() == ("frame", found.rows())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas; install it, or use rows\(\)"):
        found.to_frame()
    assert len(found.rows()) == 24


def test_two_reports_of_the_same_trials_are_the_same() -> None:
    assert weighing().html() == weighing().html()
