"""The commands ``paperweight list`` and ``paperweight show``, which import no torch."""

from typing import Annotated, Literal

from cyclopts import Parameter

from paperweight.catalogue import Entry, OfficialResult, find, official_result, select, signatures
from paperweight.cli.printing import print_json, write

__all__ = ["list_papers", "show"]

_SHOWN = 5
_VERSIONS = ("python", "torch", "numpy", "scikit-learn")


def list_papers(
    *,
    field: str | None = None,
    kind: str | None = None,
    search: str | None = None,
    verdict: Literal["helps", "hurts", "no effect", "inconclusive"] | None = None,
    screen: Annotated[bool, Parameter(negative=())] = False,
    embed: Annotated[bool, Parameter(negative=())] = False,
    json: bool = False,
) -> None:
    """List the papers of the library, each with the verdict of its official result, its gain and its computing time.

    Args:
        field: Only this research field, such as optim.
        kind: Only papers that provide this kind, such as optimizer.
        search: Only papers in whose card all these words occur.
        verdict: Only papers whose official result says so.
        screen: Only papers that paperweight screen can try.
        embed: Only papers by which paperweight embed can learn.
        json: Print JSON instead of a table.
    """
    results = [(entry, official_result(entry)) for entry in select(field=field, kind=kind, search=search)]
    if verdict is not None:
        results = [each for each in results if each[1] is not None and each[1].concluded["verdict"] == verdict]
    if screen:
        results = [each for each in results if each[0].has_recipe]
    if embed:
        results = [each for each in results if each[0].has_embedding]
    if json:
        print_json([{**_card(entry), "result": official and _standing(official)} for entry, official in results])
        return
    if not results:
        write("No paper meets these conditions.\n")
        return
    rows = [("NAME", "FIELD", "VERDICT", "GAIN", "TIME", "YEAR", "TITLE")]
    rows += [
        (entry.stem, entry.field, *_cells(official), str(entry.paper.year), entry.paper.title)
        for entry, official in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    stale = [entry.stem for entry, official in results if official and official.stale]
    write(f"\n{len(results)} paper{'' if len(results) == 1 else 's'}. More on one: paperweight show NAME\n")
    if stale:
        write(f"Stale, since code that made the result has changed: {', '.join(stale)}\n")


def show(name: str, *, json: bool = False) -> None:
    """Show a paper: its card, what it provides, its claim, and the official result of its study.

    Args:
        name: Stem of the paper, or a name that it provides.
        json: Print JSON instead of text.
    """
    entry = find(name)
    official = official_result(entry)
    if json:
        result = None if official is None else {**official.record, "stale": official.stale, "changed": official.changed}
        print_json({**_card(entry), "signatures": signatures(entry), "result": result})
        return
    paper = entry.paper
    lines = [
        f"{paper.title} ({paper.year})",
        ", ".join(paper.authors),
        paper.url,
        "",
        f"Claim   {paper.claim}",
        f"Field   {entry.field}",
        f"Null    {', '.join(f'{k}={v}' for k, v in paper.null.items()) or 'none'}",
        "",
        f"from paperweight.{entry.field} import {', '.join(paper.provides)}",
        *(f"  {paper.provides[public]:12} {call}" for public, call in signatures(entry).items()),
        "",
    ]
    if official is None:
        lines.append(
            f"There is no official result yet. Try the study: paperweight weigh {entry.stem} --first-seed 1000; "
            f"write the result: paperweight board {entry.stem}"
        )
    else:
        lines += _result(entry, official)
    write("\n".join(lines) + "\n")


def _standing(official: OfficialResult) -> dict[str, object]:
    """Return the verdict of an official result, with gain, interval, cost and whether it still holds."""
    concluded = official.concluded
    metric = concluded["metrics"][concluded["headline"]]
    primary = next(comparison for comparison in metric["comparisons"] if comparison["primary"])
    return {
        "verdict": concluded["verdict"],
        "metric": metric["label"],
        "unit": metric["unit"],
        "gain": primary["gain"],
        "interval": primary["interval"],
        "cost": concluded["cost"][concluded["method"]],
        "stale": official.stale,
    }


def _cells(official: OfficialResult | None) -> tuple[str, str, str]:
    """Return verdict, gain and multiple of the baseline's computing time for a table."""
    if official is None:
        return "not weighed", "", ""
    concluded = official.concluded
    metric = concluded["metrics"][concluded["headline"]]
    gain = next(comparison["gain"] for comparison in metric["comparisons"] if comparison["primary"])
    cost = concluded["cost"][concluded["method"]]["cpu"]
    size = gain if isinstance(gain, str) else f"{gain:+.2g}"
    unit = f" {metric['unit']}," if metric["unit"] else ""
    return concluded["verdict"], f"{size}{unit} {metric['label']}", "" if cost is None else f"x {cost:.2g}"


def _result(entry: Entry, official: OfficialResult) -> list[str]:
    measured, concluded = official.measured, official.concluded
    lines = [
        f"Official result ({measured['budget']} budget, {len(measured['seeds'])} seeds, {measured['measured_on']}): "
        f"{concluded['verdict'].upper()}",
        concluded["words"],
        f"Limits: {concluded['limits']}",
    ]
    lines.append(_measured_with(measured["environment"], "Measured with"))
    if official.record["renewed"]:
        last = official.record["renewed"][-1]
        lines.append(
            f"Renewed on {last['on']} by a replay at the {last['budget']} budget with seeds "
            f"{', '.join(map(str, last['seeds']))}, equal bit for bit. "
            + _measured_with(last["environment"], "Replayed with")
        )
    if official.stale:
        shown = ", ".join(official.changed[:_SHOWN])
        more = len(official.changed) - _SHOWN
        lines.append(
            f"STALE: changed since: {shown}{f' and {more} more' if more > 0 else ''}. Weigh it: paperweight weigh "
            f"{entry.stem}"
        )
    for part in (*official.record["renewed"], {} if official.stale else official.record):
        if "explained" in part:
            since = "as it is now" if part is official.record else f"that was replayed on {part['on']}"
            lines.append(f"It holds for the code {since}, by hand: {part['explained']['reason']}")
    return lines


def _measured_with(environment: dict[str, str], words: str) -> str:
    """Return versions and processor, and what of the versions is another one here."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        if name == "python":
            return platform.python_version()
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    shown = [name for name in _VERSIONS if name in environment]
    parts = [f"{name} {environment[name]}" for name in shown]
    others = [
        f"{name} {installed(name)}"
        for name in shown
        if installed(name).partition("+")[0] != environment[name].partition("+")[0]
    ]
    here = f"; here {', '.join(others)}" if others else ""
    return f"{words} {', '.join(parts)} on {environment['cpu']}{here}."


def _card(entry: Entry) -> dict[str, object]:
    paper = entry.paper
    return {
        "stem": entry.stem,
        "field": entry.field,
        "title": paper.title,
        "authors": paper.authors,
        "year": paper.year,
        "url": paper.url,
        "provides": paper.provides,
        "claim": paper.claim,
        "null": paper.null,
        "builds_on": paper.builds_on,
    }
