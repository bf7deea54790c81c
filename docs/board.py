"""The board: one page of all official results, with a picture of each effect, to be filtered and sorted."""

import html
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from paperweight.catalogue import Entry, OfficialResult, official_result

VERDICTS = ("helps", "hurts", "no effect", "inconclusive", "not weighed")
WIDTH, HEIGHT, FARTHEST = 220, 22, 60.0
TICKS = (-30, -5, -1, 1, 5, 30)


class Row(NamedTuple):
    """A paper and what its official result says of the method on the headline metric; None where there is none."""

    entry: Entry
    official: OfficialResult | None
    verdict: str
    effect: tuple[float, float, float] | None
    gain: str
    label: str
    cost: float | None
    power: float | None
    decided: str


def rows(papers: Sequence[Entry]) -> list[Row]:
    """Return the rows of the board.

    The effect is gain and interval in multiples of the minimal effect, the power half the interval's width in these;
    what is inconclusive with a power of 1 or more could not have decided.
    """
    return [_row(entry, official_result(entry)) for entry in papers]


def _row(entry: Entry, official: OfficialResult | None) -> Row:
    if official is None:
        return Row(entry, None, "not weighed", None, "", "", None, None, "")
    concluded = official.concluded
    metric = concluded["metrics"][concluded["headline"]]
    primary = next(comparison for comparison in metric["comparisons"] if comparison["primary"])
    gain, low, high = (float(value) for value in (primary["gain"], *primary["interval"]))
    smallest = metric["minimal_effect"]
    return Row(
        entry,
        official,
        concluded["verdict"],
        (gain / smallest, low / smallest, high / smallest),
        f"{gain:+.3g} ({low:.3g} to {high:.3g})",
        f"{metric['label']}{', ' + metric['unit'] if metric['unit'] else ''}",
        concluded["cost"][concluded["method"]]["cpu"],
        (high - low) / 2 / smallest,
        "could not have decided" if primary["could_not_decide"] else "could have decided",
    )


def _place(value: float) -> float:
    """Return where a multiple of the minimal effect stands: linear near zero, logarithmic far out."""
    return WIDTH / 2 * (1 + math.asinh(max(-FARTHEST, min(FARTHEST, value))) / math.asinh(FARTHEST))


def picture(effect: tuple[float, float, float]) -> str:
    """Return an effect with its interval as SVG; shaded is what is below the minimal effect."""
    gain, low, high = map(_place, effect)
    middle = HEIGHT / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="effect {effect[0]:.3g} minimal effects">'
        f'<rect class="band" x="{_place(-1):.1f}" y="0" width="{_place(1) - _place(-1):.1f}" height="{HEIGHT}"/>'
        f'<line class="zero" x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}"/>'
        f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        + ("" if math.isnan(effect[0]) else f'<circle cx="{gain:.1f}" cy="{middle}" r="4.5"/>')
        + "</svg>"
    )


def _axis() -> str:
    texts = "".join(f'<text x="{_place(tick):.1f}" y="12">{tick:+d}</text>' for tick in TICKS)
    return f'<svg class="axis" viewBox="0 0 {WIDTH} 16" aria-hidden="true">{texts}</svg>'


def page(papers: Sequence[Entry]) -> Iterator[str]:
    """Yield the lines of the page as HTML, for ``board.js`` and ``board.css``."""
    found = rows(papers)
    counts = {verdict: sum(row.verdict == verdict for row in found) for verdict in VERDICTS}
    yield '<div class="paperweight board" id="board">'
    yield '<p class="counts">'
    for verdict, count in counts.items():
        if count:
            yield f'<span class="{verdict.replace(" ", "-")}"><b class="tone">{count}</b> {verdict}</span>'
    yield "</p>"
    yield '<form class="filters" onsubmit="return false">'
    yield '<label>Search <input type="search" name="search" placeholder="a word of title or claim"></label>'
    yield _select("field", sorted({row.entry.field for row in found}))
    yield _select("kind", sorted({kind for row in found for kind in row.entry.paper.provides.values()}))
    yield _select("verdict", [verdict for verdict, count in counts.items() if count])
    yield _select("power", ["could have decided", "could not have decided"])
    yield '<span class="shown" role="status"></span></form>'
    yield "<table><thead><tr>"
    heads = (("name", "method"), ("verdict", "verdict"), ("effect", "effect, in minimal effects"), ("cost", "time"))
    for key, words in (*heads, ("power", "half-width"), ("year", "year")):
        extra = _axis() if key == "effect" else ""
        yield f'<th aria-sort="none"><button type="button" data-sort="{key}">{words}</button>{extra}</th>'
    yield "</tr></thead><tbody>"
    for row in found:
        yield from _cells(row)
    yield "</tbody></table>"
    yield (
        '<p class="small muted">An effect is the mean gain of the method over its baseline on the headline metric, '
        "with its interval, divided by the smallest effect that the study calls worth reporting, which is shaded; to "
        "the right is better. Time is the computing time in multiples of the baseline's. Half-width is that of the "
        "interval: from 1 on, the weighing could not have shown that there is no effect, so that what is inconclusive "
        "could not have decided.</p></div>"
    )


def _number(value: float | None) -> str:
    """Return a number as a script reads it; empty where there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.6g}".replace("inf", "Infinity")


def _select(name: str, values: Sequence[str]) -> str:
    options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
    return f'<label>{name.capitalize()} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _cells(row: Row) -> Iterator[str]:
    paper = row.entry.paper
    kinds = sorted(set(paper.provides.values()))
    values = {
        "name": row.entry.stem,
        "field": row.entry.field,
        "kind": " ".join(kinds),
        "verdict": row.verdict,
        "power": _number(row.power),
        "decided": row.decided,
        "effect": _number(None if row.effect is None else row.effect[0]),
        "cost": _number(row.cost),
        "year": str(paper.year),
        "text": f"{row.entry.stem} {paper.title} {paper.claim} {' '.join(paper.authors)}".lower(),
    }
    data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in values.items())
    stale = " <small>stale</small>" if row.official is not None and row.official.stale else ""
    yield f'<tr class="{row.verdict.replace(" ", "-")}" {data}>'
    yield (
        f'<td class="name"><a href="{row.entry.stem}.html">{row.entry.stem.replace("_", "_<wbr>")}</a>'
        f"<small>{html.escape(paper.claim)}</small></td>"
    )
    yield f'<td class="nowrap"><span class="tone">{row.verdict}</span>{stale}</td>'
    effect = "" if row.effect is None else f"{picture(row.effect)}<small>{row.gain} {html.escape(row.label)}</small>"
    yield f'<td class="effect">{effect}</td>'
    yield f'<td class="nowrap" data-head="time">{"" if row.cost is None else f"× {row.cost:.3g}"}</td>'
    yield f'<td class="nowrap" data-head="half-width">{"" if row.power is None else f"{row.power:.2g}"}</td>'
    yield f'<td class="year">{paper.year}</td></tr>'
