# pyright: reportUnknownMemberType=false
"""The figures of a screen's report: the ranking, effect against cost, and the rates of the baseline."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from paperweight.bench.wording import number
from paperweight.reports.drawing import GRID, MUTED, STYLE, VERDICTS, colour, drawable, label, new_figure, svg, title
from paperweight.screens.evidence import Confirmed
from paperweight.screens.outcome import Fate, Screen
from paperweight.texts import visible

__all__ = ["costs_figure", "ranking_figure", "rates_figure"]

Row = tuple[Fate, Confirmed]

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _rows(screen: Screen) -> list[Row]:
    return [(fate, fate.confirmed) for fate in screen.confirmed if fate.confirmed is not None]


def _limits(rows: Sequence[Row], effect: float) -> tuple[float, float]:
    """Return the range of gains, of ends of intervals as far as they are near, and of the minimal effect."""
    gains = [g for _, found in rows for g in found.gains if g is not None and math.isfinite(g)] or [0.0]
    ends = [end for _, found in rows for end in (found.interval.low, found.interval.high)]
    near = 1.5 * max(*map(abs, gains), effect)
    shown = [*gains, *(end for end in ends if abs(end) <= near), -effect, effect]
    low, high = drawable(min(shown)), drawable(max(shown))
    margin = 0.06 * (high - low) or effect
    return low - margin, high + margin


def ranking_figure(screen: Screen) -> str:
    """Return each confirmed recipe's gains, their mean and interval, the best first."""
    rows = _rows(screen)
    low, high = _limits(rows, screen.minimal_effect)

    def inside(value: float) -> float:
        return min(max(value, low), high)

    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 0.95 + 0.44 * len(rows))
        axes.axvspan(-screen.minimal_effect, screen.minimal_effect, color=GRID, alpha=0.6, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, (_, found) in enumerate(rows):
            tone = VERDICTS[found.verdict]
            gains = [inside(gain) for gain in found.gains if gain is not None and not math.isnan(gain)]
            axes.scatter(gains, [place + 0.17] * len(gains), color=tone, s=12, alpha=0.4, linewidth=0)
            ends = (found.interval.low, found.interval.high)
            axes.plot([inside(end) for end in ends], [place - 0.12] * 2, color=tone, linewidth=2.4)
            for end, arrow in zip(ends, "<>", strict=True):
                if not low <= end <= high:
                    axes.scatter([inside(end)], [place - 0.12], color=tone, marker=arrow, s=40, zorder=3, clip_on=False)
            if math.isfinite(found.gain):
                axes.scatter([inside(found.gain)], [place - 0.12], color=tone, s=36, zorder=3)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=2))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        names = [f"{place}  {_short(fate.name)}" for place, (fate, _) in enumerate(rows, start=1)]
        axes.set_yticks(range(len(rows)), names)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("gain in test accuracy")
        axes.set_title(title("Gains, with intervals", 44))
    return svg(figure, "gains of the confirmed recipes with intervals, one row each", "ranking")


def costs_figure(screen: Screen) -> str:
    """Return gain against computing time of the confirmed recipes, numbered as in the ranking."""
    rows = [(place, *row) for place, row in enumerate(_rows(screen), start=1) if row[0].cost is not None]
    low, high = _limits([row[1:] for row in rows], screen.minimal_effect)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.4, 3.4)
        axes.axhspan(-screen.minimal_effect, screen.minimal_effect, color=GRID, alpha=0.6, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(1, color=MUTED, linewidth=1)
        costs = [1.0]
        marks: dict[str, tuple[float, float]] = {}
        for place, fate, found in rows:
            cost, gain = max(0.01, drawable(fate.cost or 1.0)), drawable(found.gain)
            if not math.isfinite(gain):
                continue
            costs.append(cost)
            tone = VERDICTS[found.verdict]
            shown = [min(max(end, low), high) for end in (found.interval.low, found.interval.high)]
            axes.plot([cost, cost], shown, color=tone, linewidth=1.6, alpha=0.6)
            axes.scatter([cost], [gain], color=tone, s=40, zorder=3)
            marks[str(place)] = (cost, gain)
        axes.set_xscale("log")
        axes.set_ylim(low, high)
        ends = min(costs) / 1.3, max(costs) * 1.3
        ticks = [tick for tick in _TICKS if ends[0] <= tick <= ends[1]]
        axes.set_xlim(*ends)
        axes.set_xticks(ticks, [f"× {number(tick)}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("computing time, in multiples of the baseline's")
        axes.set_title("Gain in test accuracy, by cost")
        label(figure, axes, marks)
    return svg(figure, "gain against computing time, one numbered mark a confirmed recipe", "costs")


def rates_figure(screen: Screen) -> str:
    """Return the validation accuracy of the baseline's optimizers by learning rate."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.4, 3.4)
        for index, (name, scores) in enumerate(screen.scores.items()):
            points = sorted((rate, drawable(score)) for rate, score in scores.items() if math.isfinite(score))
            axes.plot(*zip(*points, strict=True), color=colour(index + 1), marker="o", label=name) if points else None
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
        if screen.lr is not None:
            axes.axvline(screen.lr, color=MUTED, linewidth=1)
        axes.legend(frameon=False, labelcolor=MUTED)
        axes.set_xlabel("learning rate; the line is the one chosen")
        axes.set_title("Validation accuracy of the baseline's tries")
    return svg(figure, "validation accuracy of the baseline by learning rate", "rates")


def _short(name: str) -> str:
    name = visible(name.rpartition(":")[2])
    return name if len(name) <= 24 else f"{name[:23]}…"
