"""The page of verdicts on erasers."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("erasure", Path(__file__).parents[2] / "docs" / "erasure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_tells_every_eraser_of_the_official_result(page):
    text = "\n".join(page.page())
    assert text.count("](") >= 8
    for eraser in ("esd", "uce", "concept_ablation", "forget_me_not", "selective_amnesia", "negative_prompt"):
        assert f"[{eraser}]({eraser}.md)" in text
