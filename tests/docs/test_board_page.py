"""The board of the documents, in a headless browser: filters, order, phone width, and that nothing is loaded."""

import importlib.util
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from paperweight.catalogue import entries, find, official_result

DOCS = Path(__file__).resolve().parents[2] / "docs"
STYLE = DOCS.parent / "src" / "paperweight" / "reports" / "templates" / "style.css"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
document.addEventListener("DOMContentLoaded", () => {
  document.body.dataset.wide = document.documentElement.scrollWidth - window.innerWidth;
});
"""


class Rows(HTMLParser):
    """The rows of the board that are shown, by name, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.loaded: list[str] = []
        self.wide = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr" and found.get("data-name") and "hidden" not in found:
            self.shown.append(str(found["data-name"]))
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link":
            self.loaded.append(str(found.get("href")))
        if tag == "body":
            self.wide = str(found.get("data-wide"))


@pytest.fixture(scope="module")
def board() -> ModuleType:
    spec = importlib.util.spec_from_file_location("board_of_documents", DOCS / "board.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(board: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    styles = "".join(path.read_text() for path in (STYLE, DOCS / "static" / "board.css"))
    scripts = (DOCS / "static" / "board.js").read_text() + PROBE
    path = tmp_path_factory.mktemp("board") / "index.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<style>{styles}</style><body>{''.join(board.page(entries()))}<script>{scripts}</script></body>"
    )
    return path


def shown(page: Path, query: str = "", width: int = 1300) -> Rows:
    if BROWSER is None:
        pytest.skip("there is no browser here (chromium)")
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*words, f"{page.as_uri()}{query}"], capture_output=True, text=True, check=True, timeout=120)
    return Rows(done.stdout)


def verdicts(verdict: str) -> set[str]:
    found = {entry.stem: official_result(entry) for entry in entries()}
    return {stem for stem, official in found.items() if official and official.concluded["verdict"] == verdict}


def test_all_papers_are_on_it_and_nothing_is_loaded(page: Path) -> None:
    rows = Rows(page.read_text())
    assert sorted(rows.shown) == sorted(entry.stem for entry in entries())
    assert rows.loaded == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page.read_text())


def test_filters_and_order_of_the_address_are_those_of_the_page(page: Path) -> None:
    assert set(shown(page, "?verdict=helps").shown) == verdicts("helps")
    assert set(shown(page, "?verdict=no+effect&field=optim").shown) == {
        entry.stem for entry in entries() if entry.field == "optim" and entry.stem in verdicts("no effect")
    }
    assert set(shown(page, "?kind=optimizer").shown) == {
        entry.stem for entry in entries() if "optimizer" in entry.paper.provides.values()
    }
    undecided = {
        stem
        for stem in verdicts("inconclusive")
        if (official := official_result(find(stem))) and "could not have decided" in official.concluded["words"]
    }
    assert set(shown(page, "?power=could+not+have+decided").shown) == undecided
    assert shown(page, "?search=laplacian+gradient").shown == ["laplacian_smoothing"]
    assert shown(page, "?sort=name").shown == sorted(entry.stem for entry in entries())
    years = {entry.stem: entry.paper.year for entry in entries()}
    ordered = [years[stem] for stem in shown(page, "?sort=year&down=1").shown]
    assert ordered == sorted(years.values(), reverse=True)


def test_it_fits_a_phone(page: Path) -> None:
    assert int(shown(page, width=500).wide) <= 0


def test_effects_stand_where_their_sign_says_and_never_outside(board: ModuleType) -> None:
    for value in (-1e9, -3.0, -0.1, 0.0, 0.1, 3.0, 1e9, float("inf"), float("-inf")):
        place = board._place(value)
        assert 0 <= place <= board.WIDTH
        assert (place > board.WIDTH / 2) == (value > 0)
        assert (place < board.WIDTH / 2) == (value < 0)
    assert 'cx="110.0"' in board.picture((0.0, -1.0, 1.0))
