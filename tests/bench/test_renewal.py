"""Renewal: which budget a replay takes, when it renews, what it appends, and where the old sources come from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paperweight.bench import board, renewal
from paperweight.bench.loading import load_study
from paperweight.bench.renewal import Revisions, attempt_renewal
from paperweight.catalogue import OfficialResult, find, official_result, result_path
from paperweight.cli import papers
from paperweight.provenance import Replay, SourceTree, here

STEM = "infobatch"
ARMS = list(load_study(STEM).declaration.arms)
RUN = "studies.training.infobatch:run"
SAME = {RUN: here().digest(RUN)}
OLD = {RUN: "0" * 12}


def record(units: dict[str, str], **measured: Any) -> dict[str, Any]:
    plain = {"arms": ARMS, "budget": "desk", "revision": "a" * 40, "units": units, "data_hash": ""}
    return {"study": STEM, "measured": plain | measured, "renewed": []}


class Replays:
    """Stands for replays: what they compute in the old tree and in this one, and what was asked for."""

    def __init__(self) -> None:
        self.executed: dict[str, dict[str, str]] = {"smoke": OLD, "desk": OLD}
        self.now = "0x1p-1"
        self.data = {"old": {"digits": "d"}, "new": {"digits": "d"}}
        self.asked: list[tuple[bool, str, tuple[int, ...]]] = []

    def __call__(
        self, tree: SourceTree, study: str, arms: list[str], seeds: list[int], budget: str, **_: object
    ) -> Replay:
        old = tree.package != here().package
        self.asked.append((old, budget, tuple(seeds)))
        trial = {
            "status": "finished",
            "message": "",
            "metrics": {"accuracy": "0x1p-1" if old else self.now},
            "correct": 0,
            "computed": [],
            "picked": [],
            "data_hashes": self.data["old" if old else "new"],
        }
        trials = {(arm, seed): dict(trial) for arm in arms for seed in seeds}
        return Replay(trials, self.executed[budget] if old else SAME, 2.0)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Replays:
    found = Replays()
    monkeypatch.setattr(renewal, "replay", found)
    monkeypatch.setattr(Revisions, "measured", lambda *_: ("b" * 40, SourceTree(tmp_path)))
    return found


@pytest.fixture
def revisions() -> Iterator[Revisions]:
    with Revisions(here().package.parents[1]) as opened:
        yield opened


def attempt(units: dict[str, str], revisions: Revisions, **measured: Any) -> renewal.Renewal:
    return attempt_renewal(STEM, record(units, **measured), Path("infobatch.json"), revisions)


def test_equal_replays_give_an_entry_with_what_they_were(replays: Replays, revisions: Revisions):
    found = attempt(OLD, revisions)
    assert found.reasons == ()
    assert found.entry is not None
    assert (found.entry["from"], found.entry["budget"], found.entry["cpu_seconds"]) == ("b" * 40, "smoke", 4.0)
    assert found.entry["units"] == SAME
    assert found.entry["data_hash"] == {"digits": "d"}
    first, drawn = found.entry["seeds"]
    assert (first, drawn >= 1_000) == (0, True)
    assert sorted(replays.asked) == [(False, "smoke", (0, drawn)), (True, "smoke", (0, drawn))]


def test_what_the_small_budget_does_not_execute_is_replayed_at_that_of_the_result(
    replays: Replays, revisions: Revisions
):
    replays.executed["smoke"] = {}
    found = attempt(OLD, revisions)
    assert found.entry is not None
    assert (found.entry["budget"], found.cpu_seconds) == ("desk", 8.0)
    assert [budget for _, budget, _ in replays.asked] == ["smoke", "smoke", "desk", "desk"]


def test_a_difference_new_arms_and_other_data_are_reasons_to_weigh_again(replays: Replays, revisions: Revisions):
    (said,) = attempt(OLD, revisions, data_hash={"digits": "other"}).reasons
    assert said == "the data digits have changed"
    (said,) = attempt(OLD, revisions, arms=ARMS[:-1]).reasons
    assert said == f"arms {ARMS[-1]} are new"
    replays.now = "0x1p-2"
    found = attempt(OLD, revisions)
    assert found.entry is None
    assert len(found.reasons) == 6
    assert found.reasons[0].startswith(f"arm {ARMS[0]}, seed 0: accuracy is")
    assert found.reasons[-1] == f"and {2 * len(ARMS) - 5} more trials differ"


def test_data_that_are_drawn_are_compared_on_this_machine(replays: Replays, revisions: Revisions):
    replays.data = {"old": {"glyphs": "here"}, "new": {"glyphs": "here"}}
    found = attempt(OLD, revisions, data_hash={"glyphs": "elsewhere"})
    assert found.reasons == ()
    assert found.entry is not None
    assert found.entry["data_hash"] == {"glyphs": "here"}
    replays.data["new"] = {"glyphs": "changed"}
    (said,) = attempt(OLD, revisions, data_hash={"glyphs": "elsewhere"}).reasons
    assert said == "the data glyphs have changed"


def test_the_sources_are_those_of_the_first_revision_that_has_what_was_executed(
    monkeypatch: pytest.MonkeyPatch, revisions: Revisions, tmp_path: Path
):
    trees = {"a" * 40: SourceTree(tmp_path), "c" * 40: here()}
    monkeypatch.setattr(Revisions, "tree", lambda self, revision: trees[revision])
    monkeypatch.setattr(renewal, "is_known", lambda _, revision: revision in trees)
    monkeypatch.setattr(renewal, "revisions_of", lambda *_: ["c" * 40])
    assert revisions.measured(record(SAME), tmp_path)[0] == "c" * 40
    assert revisions.measured(record(SAME, revision="c" * 40 + "+"), tmp_path)[0] == "c" * 40
    renewed = {**record(OLD), "renewed": [{"to": "c" * 40, "units": SAME}]}
    assert revisions.measured(renewed, tmp_path)[0] == "c" * 40
    assert revisions.measured(record(SAME, revision="d" * 40), tmp_path)[0] == "c" * 40, "not in this history"
    with pytest.raises(ValueError, match="no revision has the code of the result"):
        revisions.measured(record(OLD), tmp_path)


def test_the_board_appends_a_renewal_and_leaves_what_was_measured(
    replays: Replays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    entry = find(STEM)
    official = official_result(entry)
    assert official is not None
    stale = {**official.record, "measured": {**official.measured, "units": OLD, "data_hash": ""}, "renewed": []}
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    monkeypatch.setattr(board, "results_root", lambda: tmp_path)
    board.write_result(entry, stale)
    refused: list[str] = []
    (row,) = board.board([STEM], renew=True, refused=lambda stem, reasons: refused.append(stem))
    assert (row.stem, row.done, refused) == (STEM, "renewed", [])
    after = official_result(entry)
    assert isinstance(after, OfficialResult)
    assert after.measured == stale["measured"]
    assert len(after.record["renewed"]) == 1
    assert not after.stale
    assert result_path(entry).parent == tmp_path / "training"
    assert board.board([STEM], renew=True)[0].done == ""


def test_a_result_is_explained_by_hand_until_the_code_changes_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entry = find(STEM)
    official = official_result(entry)
    assert official is not None
    stale = {**official.record, "measured": {**official.measured, "units": OLD}, "renewed": []}
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    monkeypatch.setattr(board, "results_root", lambda: tmp_path)
    board.write_result(entry, stale)
    with pytest.raises(ValueError, match="explain must be a reason in words, got an empty text"):
        board.explain(STEM, " ")
    board.explain(STEM, "only the name of an argument changed")
    explained = official_result(entry)
    assert explained is not None
    assert not explained.stale
    assert explained.record["explained"]["reason"] == "only the name of an argument changed"
    papers.show(STEM)
    said = " ".join(capsys.readouterr().out.split())
    assert "It holds for the code as it is now, by hand: only the name of an argument changed" in said
    with pytest.raises(ValueError, match="infobatch has no stale result to explain"):
        board.explain(STEM, "again")
    board.write_result(entry, {**explained.record, "explained": {"reason": "A comment.", "units": {RUN: "1"}}})
    assert official_result(entry).stale
    board.explain(STEM, "A word.")
    assert official_result(entry).record["explained"]["reason"] == "A comment. A word."


def test_a_renewal_begins_from_what_was_explained_and_keeps_the_explanation(
    monkeypatch: pytest.MonkeyPatch, revisions: Revisions, tmp_path: Path
):
    gone = {"studies.training.infobatch:gone": "1"}
    explained = {"reason": "only a size of the smoke budget changed", "units": SAME | dict.fromkeys(gone, "")}
    stale = {**record(OLD | gone), "explained": explained}
    trees = {"a" * 40: SourceTree(tmp_path), "c" * 40: here()}
    monkeypatch.setattr(Revisions, "tree", lambda self, revision: trees[revision])
    monkeypatch.setattr(renewal, "is_known", lambda _, revision: revision in trees)
    monkeypatch.setattr(renewal, "revisions_of", lambda *_: ["c" * 40])
    monkeypatch.setattr(renewal, "replay", Replays())
    entry = attempt_renewal(STEM, stale, Path("infobatch.json"), revisions).entry
    assert entry is not None
    assert entry["from"] == "c" * 40
    after = renewal.renewed(stale, entry)
    assert "explained" not in after
    assert after["renewed"][-1]["explained"] == explained
    assert after["renewed"][-1]["units"] == SAME
