"""ReGuide: answers read in many forms, names filtered by hand, confidences shared, and a model of words asked twice."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from paperweight.robustness.reguide import (
    REJECTED,
    Judged,
    PromptedModel,
    filter_names,
    judge_confidences,
    parse_confidences,
    parse_names,
    reflexive_guidance,
)
from paperweight.testing import FunctionSubject


class Told:
    """A model whose suggestions and confidences are told beforehand; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def suggest(self, image: Any, count: int, *, near: bool) -> Sequence[str]:
        self.asked.append((count, near))
        return ["lynx", "Cat", "puma", "lynx"] if near else ["sea", "none of these  classes", "hill"]

    def confidences(self, image: Any, names: Sequence[str]) -> Mapping[str, float]:
        self.asked.append(tuple(names))
        return {name: float(len(name)) for name in names}


CLASSES = ("cat", "wild dog")
BAD_CLASSES = ((), ("cat", "Cat"), (REJECTED,), "cat", ("",))
CONTRACT = {
    "filter_names": FunctionSubject(
        make=lambda **given: len(filter_names(**given)),
        arguments={"names": ["lynx", "Cat"], "classes": CLASSES},
        bad={"classes": BAD_CLASSES},
    ),
    "judge_confidences": FunctionSubject(
        make=lambda **given: judge_confidences(**given).ood_score,
        arguments={"confidences": {"cat": 1.0}, "classes": CLASSES},
        bad={"classes": BAD_CLASSES, "confidences": ({"cat": -1.0}, {"cat": math.nan}, {"a": math.inf}, {"a": True})},
    ),
    "parse_confidences": FunctionSubject(
        make=parse_confidences, arguments={"answer": "Confidence: {'cat': 3}", "names": CLASSES}, bad={"names": ((),)}
    ),
    "parse_names": FunctionSubject(
        make=lambda **given: len(parse_names(**given)), arguments={"answer": "a, b"}, bad={"answer": (None, 3)}
    ),
    "reflexive_guidance": FunctionSubject(
        make=lambda **given: reflexive_guidance(**given).ood_score,
        arguments={"model": Told(), "image": None, "classes": CLASSES},
        bad={"near": (-1, 2.0, True), "far": (-1, 2.0, True), "classes": BAD_CLASSES},
        null=lambda model, image, classes: reflexive_guidance(model, image, classes, 0, 0).ood_score,
        baseline=lambda model, image, classes: (
            judge_confidences(model.confidences(image, (*classes, REJECTED)), classes).ood_score
        ),
    ),
}


def test_an_image_is_judged_among_classes_suggestions_and_the_rejected_class() -> None:
    model = Told()
    found = reflexive_guidance(model, None, CLASSES, near=3, far=4)
    names = ("cat", "wild dog", "lynx", "puma", "sea", "hill", REJECTED)
    assert model.asked == [(3, True), (4, False), names]
    assert found == Judged("wild dog", 8 / sum(map(len, names)), 1 - 8 / sum(map(len, names)), names[2:-1])


@pytest.mark.parametrize(("near", "far", "kept"), [(1, 0, ("lynx",)), (0, 1, ("sea",)), (2, 1, ("lynx", "sea"))])
def test_no_more_names_count_than_were_asked_for(near: int, far: int, kept: tuple[str, ...]) -> None:
    assert reflexive_guidance(Told(), None, CLASSES, near, far).suggested == kept


def test_without_suggestions_it_is_the_baseline_and_nothing_is_suggested() -> None:
    model = Told()
    found = reflexive_guidance(model, None, CLASSES, 0, 0)
    assert model.asked == [(*CLASSES, REJECTED)]
    assert found == judge_confidences(Told().confidences(None, (*CLASSES, REJECTED)), CLASSES)


def test_more_names_never_raise_the_share_of_a_class() -> None:
    few = judge_confidences({"cat": 3.0, "wild dog": 1.0, REJECTED: 1.0}, CLASSES)
    more = judge_confidences({"cat": 3.0, "wild dog": 1.0, REJECTED: 1.0, "lynx": 0.5}, CLASSES)
    assert few == Judged("cat", 0.6, 0.4)
    assert more.confidence < few.confidence
    assert more.label == few.label


def test_a_label_is_a_class_even_where_others_have_all_confidence() -> None:
    assert judge_confidences({"lynx": 5.0}, CLASSES) == Judged("cat", 0.0, 1.0)
    assert judge_confidences({}, CLASSES) == Judged("cat", 0.0, 1.0)
    assert judge_confidences({"cat": 2.0, "wild dog": 2.0}, CLASSES).label == "cat"


def test_names_of_classes_go_in_other_spellings_and_words() -> None:
    names = ["Wild-Dog", "wolf", "wild_dog", "CAT", "kitten", "Wolf", " ", "cat flap", "None of these classes"]
    assert filter_names(names, CLASSES) == ["wolf", "kitten", "cat flap"]
    assert filter_names(names, CLASSES, lambda one, of: (one, of) == ("kitten", "cat")) == ["wolf", "cat flap"]


@pytest.mark.parametrize(
    "answer",
    [
        "Prediction: cat\nConfidence: {'cat': '80', 'wild dog': '12.5'}",
        "-----\nprediction: cat\nCONFIDENCES : {\n 'Cat': 80,\n 'wild-dog': 12.5, 'other': 3}\n-----",
        "Confidence: {'cat': '80%', 'wild dog': ' 12.5 '} and so on {",
    ],
)
def test_confidences_are_read_in_several_forms(answer: str) -> None:
    assert parse_confidences(answer, CLASSES) == {"cat": 80.0, "wild dog": 12.5}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("I'm unable to help with this image.", 0.0),
        ("Confidence: {'cat': 'your confidence'}", 0.0),
        ("Confidence: {'cat': 250}", 100.0),
        ("Confidence: {'cat': -3}", 0.0),
        ("Confidence: {'cat': 'nan'}", 0.0),
        ("Confidence: {'cat'}", 0.0),
        ("Confidence: {['cat']: 5}", 0.0),
        ("**Confidence**: {'cat': 5}", 5.0),
        ("\"Confidence\": {'cat': 5}", 5.0),
        ("Confidence: {'cat': open('x')}", 0.0),
        ("Confidence: {'cat': 5", 0.0),
    ],
)
def test_odd_answers_give_confidences_within_their_range(answer: str, value: float) -> None:
    assert parse_confidences(answer, ["cat"]) == {"cat": value}


def test_names_are_read_from_lists_of_several_forms() -> None:
    wanted = ["red fox", "lynx", "1970s car"]
    for answer in ("red fox, lynx, 1970s car", "1. red fox\n2. lynx\n3. 1970s car", "['red fox', 'lynx', '1970s car']"):
        assert parse_names(answer) == wanted
    assert parse_names("- red fox\n* lynx.\n\n 12) '1970s car'") == wanted
    assert parse_names("") == []


def test_a_model_of_words_is_asked_and_read() -> None:
    asked: list[str] = []

    def complete(image: Any, question: str) -> str:
        asked.append(question)
        if "Confidence" not in question:
            return "1. lynx\n2. puma\n3. wolf" if "neither" not in question else "sea"
        return "Prediction: lynx\nConfidence: {'cat': 10, 'lynx': 30, 'none of these classes': 40}"

    found = reflexive_guidance(PromptedModel(complete), None, CLASSES, near=2, far=1)
    assert found == Judged("cat", 0.125, 0.875, ("lynx", "puma", "sea"))
    assert ["2 classes" in asked[0], "1 classes" in asked[1], "these 6 classes" in asked[2]] == [True] * 3
    assert all(repr(name) in asked[2] for name in (*CLASSES, "lynx", "puma", "sea", REJECTED))
