"""Writes the board, a page a field, and a page a method: its card, docstrings, contract and official result."""

import importlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import board
import erasure
import torch

from paperweight.bench.conclusion import Conclusion
from paperweight.bench.curves import read_points
from paperweight.bench.loading import load_study
from paperweight.catalogue import Entry, entries, official_result
from paperweight.reports.weighing_figures import curve_figure, gains_figure, pairs_figure
from paperweight.testing import contract, run_check

ROOT = Path(__file__).resolve().parents[1]
FIELD_TITLES = {"optim": "Optimizers and schedules", "gan": "Generative adversarial networks"}
TASKS = {
    "Screen your own images or table": "screen",
    "Weigh a method on your own images": "weigh",
    "Learn from your own images without labels": "embed",
    "Audit what an image generator memorised": "memorization",
    "Audit what was erased from a text-to-image model": "erasure",
    "Audit what a classifier withstands": "robustness",
    "Audit a classifier for backdoors": "backdoors",
    "Merge networks, or train without a server": "merge",
    "Run trials on a cluster": "cluster",
    "Train across devices": "devices",
    "Use a method alone": "alone",
    "How a verdict is reached": "verdicts",
}
LINKS = {
    "benchmarks/README.md": "../benchmarks.md",
    "CONTRIBUTING.md": "../contributing.md",
    "GLOSSARY.md": "../glossary.md",
    "docs/report.png": "../report.png",
}
MODULES = {
    "screens": "Screens of many methods",
    "embedding": "Encoders that learn without labels",
    "audits": "Audits of trained models",
    "studies": "What a study declares and is given",
    "testing": "Checks of contracts",
    "kinds": "Contracts, in words",
    "loops": "Training and evaluation loops",
    "nets": "Small networks",
    "merging": "Merging networks",
    "generators": "Image generators by diffusion",
    "agents": "Agents, graphs between them, and how they train together",
    "marks": "Keys, marks and scores",
    "attacks": "Attacks on classifiers",
    "poisoning": "Backdoors for experiments",
    "data": "Data",
    "catalogue": "The catalogue",
}


def write(docs: Path) -> None:
    """Write ``methods/`` and ``modules/`` anew."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    for folder in ("methods", "modules", "tasks"):
        shutil.rmtree(docs / folder, ignore_errors=True)
        (docs / folder).mkdir()
    for name, text in _tasks((ROOT / "README.md").read_text(encoding="utf-8")):
        (docs / "tasks" / f"{name}.md").write_text(text, encoding="utf-8")
    fields: dict[str, list[Entry]] = {}
    for entry in entries():
        fields.setdefault(entry.field, []).append(entry)
    forks = multiprocessing.get_context("fork")  # so that torch and matplotlib are loaded once
    with ProcessPoolExecutor(os.cpu_count(), mp_context=forks) as pool:
        for entry, text in zip(entries(), pool.map(_page, entries()), strict=True):
            (docs / "methods" / f"{entry.stem}.md").write_text(text, encoding="utf-8")
    (docs / "methods" / "erasure_verdicts.md").write_text("\n".join(erasure.page()) + "\n", encoding="utf-8")
    (docs / "methods" / "index.md").write_text("\n".join(_board(fields)) + "\n", encoding="utf-8")
    for field, found in fields.items():
        page = docs / "methods" / f"field_{field}.md"
        page.write_text("\n".join(_field(field, found)) + "\n", encoding="utf-8")
    for name, title in MODULES.items():
        text = "\n".join(_module(name, title)) + "\n"
        (docs / "modules" / f"{name}.md").write_text(text, encoding="utf-8")


def _tasks(readme: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of a page for each section of the README that says how something is done."""
    for section in readme.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        for path, page in LINKS.items():
            text = text.replace(f"({path})", f"({page})")
        if title in TASKS:
            yield TASKS[title], f"# {title}\n{text}"


def _board(fields: dict[str, list[Entry]]) -> Iterator[str]:
    yield "---\nhide-toc: true\n---\n"
    yield "# All results\n"
    yield "What the official result of each study says, on embedded data at the desk budget.\n"
    yield from _raw(board.page([entry for found in fields.values() for entry in found]))
    yield from _toctree(f"field_{field}" for field in fields)


def _field(field: str, found: list[Entry]) -> Iterator[str]:
    yield f"# {_field_title(field)}\n"
    yield "| method | year | claim | verdict | gain (interval) | cost |\n|---|---|---|---|---|---|"
    yield from map(_row, found)
    yield from _toctree(entry.stem for entry in found)


def _toctree(pages: Iterable[str]) -> Iterator[str]:
    yield "\n```{toctree}\n:hidden:\n"
    yield from pages
    yield "```"


def _raw(lines: Iterable[str]) -> Iterator[str]:
    yield "```{raw} html"
    yield from lines
    yield "```\n"


def _field_title(field: str) -> str:
    return FIELD_TITLES.get(field, field.capitalize())


def _row(entry: Entry) -> str:
    cells = [f"[{entry.stem}]({entry.stem}.md)", str(entry.paper.year), _cell(entry.paper.claim)]
    official = official_result(entry)
    if official is None:
        return f"| {' | '.join([*cells, 'not weighed', '', ''])} |"
    concluded = official.concluded
    method = concluded["method"]
    comparison = _comparisons(concluded, concluded["headline"])[method]
    verdict = concluded["verdict"] + (" (stale)" if official.stale else "")
    cells += [verdict, _gain(comparison), _cost(concluded, method)]
    return f"| {' | '.join(cells)} |"


def _comparisons(concluded: dict, metric: str) -> dict[str, dict]:
    return {comparison["arm"]: comparison for comparison in concluded["metrics"][metric]["comparisons"]}


def _gain(comparison: dict) -> str:
    gain, low, high = (float(value) for value in (comparison["gain"], *comparison["interval"]))
    return f"{gain:+.3g} ({low:.3g} to {high:.3g})"


def _cost(concluded: dict, arm: str) -> str:
    ratio = 1.0 if arm == concluded["baseline"] else concluded["cost"][arm]["cpu"]
    return "unknown" if ratio is None else f"×{ratio:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _page(entry: Entry) -> str:
    return "\n".join(_method(entry)) + "\n"


def _method(entry: Entry) -> Iterator[str]:
    paper = entry.paper
    yield f"# {entry.stem}\n"
    yield f"{', '.join(paper.authors)}. [{_cell(paper.title)}]({paper.url}), {paper.year}.\n"
    yield f"> {_cell(paper.claim)}\n"
    if paper.null:
        null = ", ".join(f"`{name}={value!r}`" for name, value in paper.null.items())
        yield f"Null setting: {null}.\n"
    yield from _result(entry)
    yield from _contract(entry)
    yield "\n## Reference\n"
    yield f"```{{eval-rst}}\n.. automodule:: {entry.module}\n   :members: {', '.join(paper.provides)}\n```"


def _result(entry: Entry) -> Iterator[str]:
    official = official_result(entry)
    if official is None:
        return
    measured, concluded = official.measured, official.concluded
    yield "## Official result\n"
    stale = f" It is stale: {', '.join(official.changed)} changed since." if official.stale else ""
    yield f"**{concluded['verdict']}**. {_cell(concluded['question'])} {_cell(concluded['words'])}{stale}\n"
    drawn = Conclusion(load_study(entry.stem).declaration, measured)
    figures = [pairs_figure(drawn), gains_figure(drawn, concluded["headline"])]
    later = official.record.get("later_curves", {"curves": {}})
    for name, of_arms in (measured.get("curves") or later["curves"]).items():
        points = {arm: read_points(plain) for arm, plain in of_arms.items()}
        figures.append(curve_figure(name, measured["arms"], points))
    yield from _raw(
        [
            '<div class="paperweight pictures"><div class="grid">',
            *(f'<div class="figure">{figure}</div>' for figure in figures),
            "</div></div>",
        ]
    )
    if later["curves"]:
        seeds = " and ".join(map(str, later["seeds"]))
        yield (
            f"The curves are of seeds {seeds}, run again on {later['measured_on']} since the result keeps none. Its "
            f"headline metric and theirs differ by {later['difference']:.3g} at most"
            + (": another processor or version rounds otherwise.\n" if later["difference"] else ".\n")
        )
    yield "| arm | " + " | ".join(_cell(metric["label"]) for metric in concluded["metrics"].values()) + " | cost |"
    yield "|---|" + "---|" * (len(concluded["metrics"]) + 1)
    for arm, description in concluded["arms"].items():
        first = arm == concluded["baseline"]
        cells = []
        for name in concluded["metrics"]:
            if first:
                values = [float(value) for value in measured["values"][name][arm] if value is not None]
                cells.append(f"{sum(values) / len(values):.4g}" if values else "unknown")
            else:
                comparison = _comparisons(concluded, name)[arm]
                verdict = comparison["verdict"] + (" (primary)" if comparison["primary"] else "")
                cells.append(f"{_gain(comparison)}, {verdict}")
        yield f"| `{arm}`: {_cell(description)} | {' | '.join(cells)} | {_cost(concluded, arm)} |"
    yield (
        f"\nThe first row has means over {len(measured['seeds'])} seeds, the others gains over it with intervals; "
        "above 0 is better. All comparisons but the primary one are secondary and corrected among themselves. Tuned: "
        f"{_cell(concluded['tuned'])}. {_cell(concluded['limits'])}\n"
    )
    yield f"`paperweight weigh {entry.stem}` repeats it.\n"


def _contract(entry: Entry) -> Iterator[str]:
    subjects = importlib.import_module(f"tests.{entry.field}.test_{entry.stem}").CONTRACT
    module = importlib.import_module(entry.module)
    yield "## Contract\n"
    yield "| object | kind | checks |\n|---|---|---|"
    for name, kind in entry.paper.provides.items():
        subject = subjects[name]
        checks = contract(kind, getattr(module, name), subject)
        results = [run_check(check, run) for check, run in checks.items()]
        failures = [result for result in results if not result.passed]
        words = [f"{len(results) - len(failures)} of {len(results)} passed"]
        words += [
            f"`{failure.name}` not met: {subject.expected_failures.get(failure.name, failure.reason)}"
            for failure in failures
        ]
        yield f"| `{name}` | {kind} | {_cell('; '.join(words))} |"


def _module(name: str, title: str) -> Iterator[str]:
    package = importlib.import_module(f"paperweight.{name}")
    yield f"# {title}\n"
    yield f"```{{eval-rst}}\n.. automodule:: paperweight.{name}\n"
    for public in package.__all__:
        value = getattr(package, public)
        if isinstance(value, type) and issubclass(value, BaseException):
            yield f".. autoexception:: paperweight.{name}.{public}\n   :members:\n"
        elif isinstance(value, type):
            yield f".. autoclass:: paperweight.{name}.{public}\n   :members:\n"
        elif callable(value) and hasattr(value, "__code__"):
            yield f".. autofunction:: paperweight.{name}.{public}\n"
    yield "```"
