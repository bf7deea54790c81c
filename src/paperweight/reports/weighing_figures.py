# pyright: reportUnknownMemberType=false
"""The figures of a weighing's report."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from paperweight.bench.conclusion import Conclusion
from paperweight.bench.curves import Point, median_curves
from paperweight.bench.statistics import Comparison
from paperweight.bench.weighing import Weighing
from paperweight.reports.drawing import GRID, MUTED, STYLE, colour, drawable, look, new_figure, svg, title
from paperweight.texts import visible

__all__ = ["curve_figure", "curves_of", "gains_figure", "pairs_figure"]


_POINTS = 8_000
"""Points of all curves of a page: more would make it too large to send."""


def _short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= 24 else f"{name[:23]}…"


def _limits(values: list[float]) -> tuple[float, float]:
    """Return the range of the finite values and zero, with a margin."""
    finite = [drawable(value) for value in values if math.isfinite(value)] + [0.0]
    low, high = min(finite), max(finite)
    margin = 0.08 * (high - low) or 1e-3
    return low - margin, high + margin


def pairs_figure(found: Conclusion) -> str:
    """Return the values of baseline and method, joined by seed."""
    metric = found.study.metrics[found.study.headline]
    arm = found.arms.index(found.method)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.1)
        for pair in found.pairs_of(found.method, found.study.headline):
            values = [math.nan if v is None else drawable(v) for v in (pair.baseline, pair.arm)]
            axes.plot([0, 1], values, color=MUTED, linewidth=1, zorder=1)
            axes.scatter([0], values[:1], color=colour(0), s=26, zorder=2)
            axes.scatter([1], values[1:], color=colour(arm), marker=look(arm).marker, s=26, zorder=2)
        axes.set_xlim(-0.35, 1.35)
        axes.set_xticks([0, 1], [_short(found.arms[0]), _short(found.method)])
        axes.grid(visible=False, axis="x")
        unit = f", {metric.unit}" if metric.unit else ""
        axes.set_title(title(f"{metric.label}{unit} ({metric.better} is better)", 42))
    return svg(figure, f"{metric.label} of {found.arms[0]} and {found.method}, one line a seed", "pairs")


def gains_figure(found: Conclusion, metric: str) -> str:
    """Return every arm's paired gains on a metric, with their mean and interval."""
    declared = found.study.metrics[metric]
    comparisons = found.comparisons(metric)
    gains = {arm: [p.gain for p in found.pairs_of(arm, metric) if p.gain is not None] for arm in comparisons}
    ends = [end for c in comparisons.values() for end in (c.interval.low, c.interval.high)]
    low, high = _limits([*ends, *(gain for each in gains.values() for gain in each)])
    effect = declared.minimal_effect
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 0.95 + (0.52 if len(comparisons) < 7 else 0.38) * len(comparisons))
        axes.axvspan(max(low, -effect), min(high, effect), color=GRID, alpha=0.6, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=1)
        for row, (arm, comparison) in enumerate(comparisons.items()):
            _gain_row(axes, row, gains[arm], comparison, row + 1, (low, high))
        axes.set_xlim(low, high)
        axes.set_ylim(len(comparisons) - 0.4, -0.6)
        axes.set_yticks(range(len(comparisons)), [_short(arm) for arm in comparisons])
        axes.grid(visible=False, axis="y")
        axes.set_title(title(declared.label, 36))
        axes.set_xlabel(title(f"gain over {found.arms[0]}{f', {declared.unit}' if declared.unit else ''}", 60))
    return svg(figure, f"paired gains in {declared.label} with intervals, one row an arm", f"gains-{metric}")


def _gain_row(
    axes: Axes, row: int, gains: list[float], comparison: Comparison, arm: int, limits: tuple[float, float]
) -> None:
    low, high = limits
    tone, marker = colour(arm), look(arm).marker

    def inside(value: float) -> float:
        return min(max(value, low), high)

    places = [row + 0.16] * len(gains)
    axes.scatter([inside(gain) for gain in gains], places, color=tone, marker=marker, s=14, alpha=0.45, linewidth=0)
    ends = (comparison.interval.low, comparison.interval.high)
    axes.plot([inside(end) for end in ends], [row - 0.12] * 2, color=tone, linewidth=2.2, solid_capstyle="butt")
    for end, arrow in zip(ends, "<>", strict=True):
        if math.isinf(end):
            axes.scatter([inside(end)], [row - 0.12], color=tone, marker=arrow, s=40, clip_on=False)
    if math.isfinite(comparison.gain):
        axes.scatter([inside(comparison.gain)], [row - 0.12], color=tone, marker=marker, s=34, zorder=3)


def curves_of(weighing: Weighing) -> dict[str, dict[str, list[Point]]]:
    """Return all curves of a weighing, for `curve_figure`; long ones are thinned out, the more the more there are.

    Args:
        weighing: The weighing.
    """
    names = {name for record in weighing.records for name in record.curves}
    most = max(20, _POINTS // max(1, len(names) * len(weighing.arms)))
    return median_curves(weighing.records, weighing.arms, most)


def curve_figure(name: str, arms: Sequence[str], points: Mapping[str, Sequence[Point]]) -> str:
    """Return a curve of every arm: the median over seeds, and the range from smallest to largest.

    Args:
        name: Name of the curve.
        arms: All arms, which have their colours in this order.
        points: Arm to points; arms that have none are left out.
    """
    lows: list[float] = []
    highs: list[float] = []
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.1)
        for index, arm in enumerate(arms):
            if not points.get(arm):
                continue
            xs, low, middle, high = ([drawable(value) for value in column] for column in zip(*points[arm], strict=True))
            axes.fill_between(xs, low, high, color=colour(index), alpha=0.13, linewidth=0)
            axes.plot(xs, middle, color=colour(index), linestyle=look(index).line, linewidth=1.7)
            lows += low
            highs += high
        if lows and min(lows) > 0 and max(highs) > 30 * min(lows):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        words, _, x_label = name.rpartition(", by ")
        axes.set_title(title(words or name, 42))
        axes.set_xlabel(title(x_label, 60) if words else "")
    return svg(figure, f"{name}: median over seeds and range, one line an arm", f"curve-{name}")
