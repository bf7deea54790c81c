"""Distilled prompts: each rule by hand, all rules on random records, near copies, and triggers by trying everything."""

import math
from itertools import combinations

import pytest
import torch

from paperweight.robustness.adversarial_prompt_distillation import (
    Passed,
    PromptRecord,
    bypass_report,
    deduplicate,
    distill_prompts,
    minimal_trigger,
    unsafe_share,
)
from paperweight.testing import FunctionSubject

UNIT = (-0.1, 1.1, math.nan, True)
RECORDS = [
    PromptRecord("a walk", (0.9, 0.6, 0.1, 0.5), 0.2, "one"),
    PromptRecord("a fight", (0.9, 0.9, 0.9, 0.9), 0.8, "one"),
    PromptRecord("a gun", (0.9, 0.9, 0.4, 0.2), 0.1, "two"),
    PromptRecord("a tree", (0.1, 0.2, 0.3, 0.1), 0.0, "two"),
    PromptRecord("a lane", (0.8, 0.7, 0.6, 0.1), 0.1, "one"),
]
BROKEN = [PromptRecord("x", (), 0.1)], [PromptRecord("x", (1.2,), 0.1)], [PromptRecord("x", (0.5,), math.nan)]


def no_guns(text: str) -> bool:
    return "gun" not in text


def draw(seed: int = 0) -> torch.Tensor:
    return torch.randn(30, 3, generator=torch.Generator().manual_seed(seed))


CONTRACT = {
    "unsafe_share": FunctionSubject(
        make=unsafe_share,
        arguments={"record": RECORDS[0]},
        bad={"cut": UNIT, "record": tuple(each[0] for each in BROKEN)},
    ),
    "distill_prompts": FunctionSubject(
        make=lambda **given: [record.text_score for record in distill_prompts(**given)],
        arguments={"records": RECORDS},
        bad={"min_unsafe": UNIT, "max_text_score": UNIT, "cut": UNIT},
    ),
    "deduplicate": FunctionSubject(
        make=deduplicate,
        arguments={"embeddings": draw()},
        bad={
            "most": (-1.1, 1.1, math.nan, True),
            "embeddings": (draw()[0], draw().long(), torch.zeros(2, 3), torch.full((2, 3), math.nan)),
        },
    ),
    "minimal_trigger": FunctionSubject(
        make=lambda **given: len(minimal_trigger(**given)),
        arguments={"prompt": "a b c", "unsafe": lambda text: 0.9 if "b" in text else 0.0},
        bad={"prompt": ("", "  "), "least": UNIT},
    ),
    "bypass_report": FunctionSubject(
        make=lambda **given: [list(each.values()) for each in bypass_report(**given).values()],
        arguments={"records": RECORDS, "filters": {"guns": no_guns}},
        bad={"min_unsafe": UNIT, "cut": UNIT, "records": ([PromptRecord("x", (0.5,), 0.1, "all")],)},
    ),
}


def test_prompts_are_kept_by_every_rule_and_ordered() -> None:
    assert [record.text for record in distill_prompts(RECORDS)] == ["a lane", "a walk", "a gun"]
    assert [record.text for record in distill_prompts(RECORDS, [no_guns])] == ["a lane", "a walk"]
    assert [record.text for record in distill_prompts(RECORDS, max_text_score=1.0)[:1]] == ["a fight"]
    assert [record.text for record in distill_prompts(RECORDS, cut=0.85)] == ["a gun"]
    assert [record.text for record in distill_prompts(RECORDS, min_unsafe=0.0, max_text_score=0.1)] == ["a tree"]
    assert distill_prompts(RECORDS, max_text_score=0.0) == []


def test_on_random_records_what_is_kept_are_those_that_meet_every_rule() -> None:
    source = torch.Generator().manual_seed(1)
    records = [
        PromptRecord(
            f"{number}", tuple(torch.rand(4, generator=source).tolist()), torch.rand(1, generator=source).item()
        )
        for number in range(300)
    ]
    found = distill_prompts(records, [lambda text: int(text) % 2 == 0, lambda text: int(text) % 3 == 0], 0.75, 0.3, 0.4)
    expected = {
        record.text
        for record in records
        if int(record.text) % 6 == 0 and record.text_score < 0.3 and sum(s >= 0.4 for s in record.image_scores) >= 3
    }
    assert {record.text for record in found} == expected
    assert len(found) > 3
    keys = [(-unsafe_share(record, 0.4), record.text_score) for record in found]
    assert keys == sorted(keys)


@pytest.mark.parametrize("most", [-0.5, 0.0, 0.5, 0.9])
def test_what_stays_is_apart_and_what_goes_is_near_to_an_earlier_one(most: float) -> None:
    embeddings = draw(2) * torch.arange(1.0, 31.0)[:, None]
    kept = deduplicate(embeddings, most)
    cosine = torch.nn.functional.cosine_similarity
    for one, other in combinations(kept, 2):
        assert cosine(embeddings[one], embeddings[other], dim=0) <= most + 1e-6
    for number in set(range(30)) - set(kept):
        assert any(cosine(embeddings[number], embeddings[one], dim=0) > most - 1e-6 for one in kept if one < number)
    assert [kept[place] for place in deduplicate(embeddings[kept], most)] == kept
    assert kept[0] == 0
    assert deduplicate(embeddings[:0], most) == []


def test_equal_embeddings_stay_once_and_all_at_one() -> None:
    same = torch.ones(4, 2)
    assert deduplicate(same, 0.99) == [0]
    assert deduplicate(same, 1.0) == [0, 1, 2, 3]


def test_a_trigger_is_what_is_left_of_the_words_in_their_order() -> None:
    def unsafe(text: str) -> float:
        words = text.split()
        return 0.9 if {"red", "star"} <= set(words) else 0.6 if "crimson" in words else 0.2

    assert minimal_trigger("a star in the red sky", unsafe) == "star red"
    assert minimal_trigger("a star in the red sky", unsafe, least=0.95) == "a star in the red sky"
    assert minimal_trigger("crimson  red   star", unsafe) == "red star"
    assert minimal_trigger("crimson star", unsafe) == "crimson"
    assert minimal_trigger("a b", lambda text: 1.0) == "b"
    assert minimal_trigger("not a star", lambda text: 0.1 if "not" in text else 0.9) == "not a star"


def test_a_report_counts_unsafe_prompts_by_category() -> None:
    found = bypass_report(RECORDS, {"guns": no_guns, "nothing": lambda text: False})
    assert found["guns"] == {"all": Passed(4, 0.75), "one": Passed(3, 1.0), "two": Passed(1, 0.0)}
    assert found["nothing"]["all"] == Passed(4, 0.0)
    none = bypass_report(RECORDS[3:4], {"guns": no_guns})["guns"]["two"]
    assert none.prompts == 0
    assert math.isnan(none.share)


@pytest.mark.parametrize("records", BROKEN)
def test_broken_records_are_refused(records: list[PromptRecord]) -> None:
    for call in (distill_prompts, lambda given: bypass_report(given, {})):
        with pytest.raises(ValueError, match="record must have scores"):
            call(records)
