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
from paperweight.bench.conclusion import conclude
from paperweight.bench.loading import LoadedStudy
from paperweight.bench.trial import Status, TrialRecord, TrialSpec
from paperweight.catalogue import OfficialResult, find
from paperweight.errors import InputError
from paperweight.provenance import here, revision
from paperweight.reports import render_report, write_report
from paperweight.studies import Arm, Metric, Study

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
    first_seed: int = 0,
    official: OfficialResult | None = None,
) -> Weighing:
    """Return a weighing of made-up trials; ``change`` edits the fields of one record."""
    study = Study(
        paper="example",
        question=f"Question {text}",
        claim=f"Claim {text}",
        arms={arm: Arm(f"describes {arm} {text}", arm) for arm in arms},
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
    for seed in range(first_seed, first_seed + seeds):
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
            spec = TrialSpec(study=path, arm=arm, seed=seed, budget="smoke")
            record = TrialRecord(spec=spec, **fields)
            records.append(TrialRecord.model_validate_json(record.model_dump_json()))  # as it comes from a worker
    return Weighing(
        loaded,
        arms,
        range(first_seed, first_seed + seeds),
        records,
        f"paperweight weigh {text}",
        units={},
        official=official,
    )


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
    return render_report(weighing(text=HOSTILE, paper=True))


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
    html = render_report(weighing(fails("crashed", "method", message=f"RuntimeError: {HOSTILE}")))
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
    page = assert_safe(render_report(found))
    assert "helps" in page.texts["div"]
    for text in (
        "0.5",
        "0.5 to 0.5",
        "0.0078",
        "0.023",
        "primary",
        "secondary",
        "× 2",
        "× 3",
        "method against base",
        "better by 0.5 points",
    ):
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
    page = assert_safe(render_report(found))
    assert found.verdict in page.texts["div"]
    failures = [record for record in found.records if record.status != "finished"]
    assert page.tags.count("details") == len(failures)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record == found.record()
    assert record["measured"]["failures"] == [
        {"arm": r.spec.arm, "seed": r.spec.seed, "status": r.status} for r in found.failures
    ]
    assert_safe("<html>" + found._repr_html_() + "</html>")
    assert found.words().startswith("method against base: ")


def test_one_seed_is_inconclusive_and_says_what_is_needed() -> None:
    found = weighing(seeds=1)
    assert found.verdict == "inconclusive"
    assert "use at least 6" in found.words()
    assert "use at least 6" in assert_safe(render_report(found)).text


def test_a_verdict_with_failures_says_so() -> None:
    assert "2 of its 16 trials failed or diverged" in weighing(mixed).words()
    assert weighing(infinite).verdict == "hurts"
    assert "8 of its 16 trials failed or diverged" in weighing(infinite).words()
    assert "minus infinite to minus infinite" in assert_safe(render_report(weighing(infinite))).text


def test_a_trial_that_was_killed_is_no_failure_of_its_arm_and_leaves_the_question_open() -> None:
    found = weighing(fails("killed", "method"))
    assert "8 of its 16 trials were killed from outside" in found.words()
    assert "failed or diverged" not in found.words()
    assert found.verdict == "inconclusive"


def test_arguments_that_are_not_finite_are_in_the_record() -> None:
    def change(_arm: str, _seed: int, fields: dict[str, Any]) -> None:
        fields["arguments"] = {"clip": math.inf, "margin": math.nan}

    found = weighing(change)
    json.dumps(found.record(), allow_nan=False)
    assert "clip" in render_report(found)


def test_more_arms_than_colours_and_long_names_are_drawn() -> None:
    arms = tuple(f"a_rather_long_name_of_an_arm_{i}" for i in range(12))
    page = assert_safe(render_report(weighing(arms=arms, seeds=2)))
    assert all(arm in page.text for arm in arms)


def test_by_example_needs_every_trial() -> None:
    interval = weighing().by_example("method")
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)
    assert weighing(fails("crashed", "method")).by_example("method") is None
    assert "Over test examples" in render_report(weighing())
    assert "Over test examples" not in render_report(weighing(bare))


def test_record_lets_a_reader_check_the_verdict() -> None:
    record = weighing().record()
    measured, concluded = record["measured"], record["concluded"]
    values = measured["values"]["score"]
    assert [arm - base for arm, base in zip(values["method"], values["base"], strict=True)] == [0.5] * 8
    first, second = concluded["metrics"]["score"]["comparisons"]
    assert (concluded["verdict"], first["verdict"], first["gain"], first["interval"]) == (
        "helps",
        "helps",
        0.5,
        [0.5] * 2,
    )
    assert (first["primary"], first["p"], first["p_adjusted"], first["coverage"]) == (
        True,
        2 / 256,
        2 / 256,
        1 - 12 / 256,
    )
    assert (second["primary"], second["p"], second["p_adjusted"]) == (False, 2 / 256, 6 / 256)  # of three
    assert concluded["cost"]["method"] == {"wall": 1.5, "cpu": 2.0, "memory": 2.0}
    assert measured["cost"]["method"] == {"wall": [3.0] * 8, "cpu": [2.0] * 8, "memory": [2 * 2**20] * 8}
    assert measured["arguments"]["method"] == {
        "rate plain text": 0.1,
        "seed": list(range(8)),
        "name plain text": "value plain text",
    }
    assert (measured["arguments_of_seeds"], measured["measured_on"]) == (list(range(8)), "2026-01-01")
    assert (measured["revision"], measured["units"]) == (revision(here().package.parents[1]), {})
    assert record["renewed"] == []


def test_values_that_are_not_finite_are_named_and_concluded_alike() -> None:
    found = weighing(infinite)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["measured"]["values"]["loss"]["method"] == ["inf"] * 8
    assert record["measured"]["values"]["score"]["method"] == ["nan"] * 8
    assert conclude(found.study, record["measured"]) == record["concluded"]


def test_words_say_where_secondary_comparisons_are_too_many_for_the_pairs() -> None:
    arms = tuple(f"arm_{number}" for number in range(5))  # 7 secondary comparisons: 7 x 2/256 is above 0.05
    assert weighing(arms=arms).verdict == "helps"
    said = "The 7 secondary comparisons, corrected among themselves, cannot reach 0.05 with 8 pairs; that takes 9."
    assert weighing(arms=arms).words().endswith(said)
    assert said in assert_safe(render_report(weighing(arms=arms))).text
    assert "secondary comparisons" not in weighing(arms=arms, seeds=9).words()
    assert "secondary comparisons" not in weighing().words()


def test_words_say_that_a_gain_is_below_the_minimal_effect() -> None:
    def small(arm: str, seed: int, fields: dict[str, Any]) -> None:
        gain = 0.04 + 0.02 * (seed % 2 == 0) - 0.01 * (seed % 4 == 0) if arm == "method" else 0.0
        fields.update(metrics={"score": gain, "loss": 0.0})

    found = weighing(small)
    assert (found.verdict, 0 < found.conclusion.primary.gain < 0.05) == ("helps", True)
    assert "That is below the minimal effect of 0.05 points." in found.words()
    assert "below the minimal effect" not in weighing().words()


def test_words_name_the_arms_that_a_method_which_helps_is_not_shown_to_beat() -> None:
    def varied(arm: str, seed: int, fields: dict[str, Any]) -> None:
        gains = {"base": 0.0, "method": 1.0, "above": 1.25, "below": 0.5, "near": 1.0 - (-1) ** seed * 0.5}
        fields.update(metrics={"score": seed + gains.get(arm, 1.0), "loss": 0.0})

    arms = ("base", "method", "above", "below", "near", "alike")
    said = "It is not shown to beat above (worse by 0.25), near (the same), alike (the same)."
    assert said in weighing(varied, arms=arms).words()
    assert "shown to beat" not in weighing(varied, arms=("base", "method", "below")).words()
    assert "shown to beat" not in weighing(varied, arms=("method", "base", "above")).words(), "it hurts"


def official(*, stale: bool = False, **changes: Any) -> OfficialResult:
    return OfficialResult(weighing(**changes).record(), ("a unit",) if stale else ())


def test_other_seeds_are_compared_with_the_official_result_in_one_line() -> None:
    new = weighing(first_seed=1000, official=official())
    line = (
        "Official result, 0 to 7: helps, gain 0.5 (0.5 to 0.5); these seeds, 1000 to 1007: helps, gain 0.5 (0.5 to "
        "0.5). They confirm it."
    )
    assert new.words().splitlines()[1] == line
    assert line in assert_safe(render_report(new)).text
    assert line not in new.record()["concluded"]["words"]
    lower = official(change=lambda arm, _, fields: fields.update(metrics=_lower(arm, fields)), stale=True)
    said = weighing(first_seed=1000, official=lower).confirmation
    assert "Official result (stale), 0 to 7: hurts" in said
    assert said.endswith("They do not confirm it: the verdicts differ and the intervals do not overlap.")
    few = weighing(first_seed=1000, seeds=1, official=official()).confirmation
    assert few.endswith("They are too few to confirm it; use at least 6.")


def test_the_same_seeds_or_another_budget_confirm_nothing() -> None:
    assert weighing(official=official()).confirmation == ""
    assert weighing(first_seed=7, official=official()).confirmation == ""
    other = official()
    other.measured["budget"] = "desk"
    assert weighing(first_seed=1000, official=other).confirmation == ""
    assert weighing(first_seed=1000).confirmation == ""


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    found = weighing()
    page = write_report(found, tmp_path / "out")
    assert page.read_text(encoding="utf-8") == render_report(found)
    assert [path.name for path in page.parent.iterdir()] == [page.name]
    with pytest.raises(InputError, match="cannot be written"):
        write_report(found, page)


def test_each_of_twelve_arms_has_its_own_colour_and_the_next_another_mark() -> None:
    arms = tuple(f"arm_{number}" for number in range(14))
    html = render_report(weighing(arms=arms, seeds=2))
    looks = re.findall(r'<li class="(\w*)" style="--tone: var\(--(arm\d+)\)"><strong>', html)
    assert len(looks) == len(set(looks)) == 14
    assert [tone for _, tone in looks] == [f"arm{number % 12}" for number in range(14)]
    for number in range(12):
        assert html.count(f"--arm{number}:") == 2  # by day and by night
    assert "arm_12, dashed" in html


def test_summary_for_a_notebook_is_a_fragment() -> None:
    found = weighing(text=HOSTILE)
    page = assert_safe(found._repr_html_())
    assert "html" not in page.tags
    assert page.tags.count("svg") == 2
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
    assert render_report(weighing()) == render_report(weighing())
