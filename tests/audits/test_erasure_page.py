"""The page of verdicts on erasers, from records whose verdicts can be read off by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SEEDS = 9


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("erasure", Path(__file__).parents[2] / "docs" / "erasure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(word: list[float], recovered: list[float]) -> dict:
    """Make a record of one eraser on models that drew the concept always, where a learned word teaches 0.1 of it."""

    def metric(never: float, eraser: list[float], clean: float) -> dict:
        values = {"eraser": eraser, "not_erased": [clean] * SEEDS}
        comparisons = [{"arm": arm, "values": each} for arm, each in values.items()]
        return {"baseline": [never] * SEEDS, "comparisons": comparisons}

    return {
        "baseline": "never_trained",
        "arms": {"never_trained": "", "eraser": "", "not_erased": ""},
        "metrics": {
            "by_its_word": metric(0.0, word, 1.0),
            "recovered": metric(0.125, recovered, 1.0),
            "recovered_other_judge": metric(0.0, recovered, 1.0),
            "others": metric(0.9, [0.75] * SEEDS, 0.9),
        },
    }


@pytest.mark.parametrize(
    ("word", "recovered", "verdict", "models"),
    [
        ([0.0] * SEEDS, [0.75] * SEEDS, "hidden", {"hidden": 9}),
        ([0.0] * SEEDS, [0.0] * SEEDS, "removed", {"removed": 9}),
        ([0.75] * SEEDS, [0.75] * SEEDS, "not erased", {"not erased": 9}),
        ([0.0, 1.0] * 4 + [0.0], [0.0, 1.0] * 4 + [0.0], "undecided", {"removed": 5, "not erased": 4}),
        ([0.0] * SEEDS, [0.125, 0.5, 0.0] * 3, "undecided", {"hidden": 3, "removed": 3, "undecided": 3}),
    ],
)
def test_verdicts_over_models_and_one_by_one(page, word, recovered, verdict, models):
    (row,) = page.rows(record(word, recovered))
    assert row.verdict == verdict
    assert {name: count for name, count in row.models.items() if count} == models
    assert row.word[0] == pytest.approx(sum(word) / SEEDS)
    assert row.recovered[0] == pytest.approx(sum(recovered) / SEEDS - 0.125)
    assert row.others == pytest.approx((-0.15, -0.15, -0.15))


def test_the_page_tells_every_eraser_of_the_official_result(page):
    text = "\n".join(page.page())
    assert text.count("](") >= 8
    for eraser in ("esd", "uce", "concept_ablation", "forget_me_not", "selective_amnesia", "negative_prompt"):
        assert f"[{eraser}]({eraser}.md)" in text
