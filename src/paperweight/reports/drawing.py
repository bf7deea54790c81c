# pyright: reportUnknownMemberType=false
"""What the figures of all reports share: a style, and SVG that takes its colours from the page's style sheet.

There are twelve colours. Of more arms the thirteenth has the first colour again, with square marks and dashed lines.
"""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox

from paperweight.texts import brief, visible

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "STYLE",
    "VERDICTS",
    "Look",
    "colour",
    "drawable",
    "label",
    "look",
    "new_figure",
    "svg",
    "title",
]

_COLOURS = 12
_LARGEST = 1e100
_AROUND = [
    (far * across, far * up)
    for far in range(10, 100, 6)
    for across, up in ((0.8, 0.7), (0.8, -0.7), (-0.8, 0.7), (-0.8, -0.7), (0, 1), (0, -1), (1, 0), (-1, 0))
]
"""Where a label may be, in points from its mark, the nearest first."""

INK, MUTED, GRID = "#000001", "#000002", "#000003"
VERDICTS = {"helps": "#000004", "hurts": "#000005", "no effect": "#000006", "inconclusive": "#000007"}
"""The stand-in for the colour of each verdict."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
}


def colour(index: int) -> str:
    """Return the stand-in for the colour of an arm, which the style sheet names ``--arm0`` and so on."""
    return f"#0000{0xA0 + index % _COLOURS:02x}"


class Look(NamedTuple):
    """How an arm is drawn.

    Args:
        tone: Its colour, as a style sheet has it.
        marker: The shape of its marks.
        line: The style of its lines.
        dashes: The same in a word; empty for an unbroken line.
    """

    tone: str
    marker: str
    line: str
    dashes: str


def look(index: int) -> Look:
    """Return how the arm of this number is drawn; up to 36 arms are told apart.

    Example:
        >>> look(1).tone, look(13).tone, look(13).dashes
        ('var(--arm1)', 'var(--arm1)', 'dashed')
    """
    marker, line, dashes = (("o", "-", ""), ("s", "--", "dashed"), ("D", ":", "dotted"))[index // _COLOURS % 3]
    return Look(f"var(--arm{index % _COLOURS})", marker, line, dashes)


def svg(figure: Figure, description: str, salt: str) -> str:
    """Return a figure as SVG.

    Args:
        figure: The figure.
        description: What it shows, for those who hear the page.
        salt: Keeps the names of its parts apart from those of other figures of the page.

    Returns:
        An ``svg`` element, escaped, with colours that the style sheet defines.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks: the page's fonts draw them
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "var(--ink)").replace(MUTED, "var(--muted)").replace(GRID, "var(--line)")
    for verdict, tone in VERDICTS.items():
        text = text.replace(tone, f"var(--{verdict.replace(' ', '')})")
    text = re.sub(r"#0000a([0-9ab])", lambda match: f"var(--arm{int(match[1], 16)})", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def title(text: str, width: int) -> str:
    r"""Return a stranger's text in lines of so many letters, cut where it is long.

    Example:
        >>> title("share of right answers", 12)
        'share of\nright\nanswers'
    """
    return textwrap.fill(visible(brief(text, 160)), width)


def drawable(value: float) -> float:
    """Return a number that can be drawn in place of one: NaN for one that is not finite, the largest for a larger.

    Example:
        >>> drawable(1e308), drawable(-0.5), drawable(float("inf"))
        (1e+100, -0.5, nan)
    """
    return max(-_LARGEST, min(_LARGEST, value)) if math.isfinite(value) else math.nan


def label(figure: Figure, axes: Axes, marks: Mapping[str, tuple[float, float]]) -> None:
    """Write words beside marks, each as near as it hides neither a mark nor other words, and join them where it is far.

    Args:
        figure: The figure.
        axes: Its axes, whose limits do not change any more.
        marks: Words to the place of their mark.
    """
    figure.draw_without_rendering()
    points = figure.dpi_scale_trans.inverted() + Affine2D().scale(72)
    inside = axes.get_window_extent().transformed(points)
    centres = {words: (axes.transData + points).transform(mark) for words, mark in marks.items()}
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres.values()]
    for words, (x, y) in centres.items():
        width, height = 6.5 * len(words), 10
        boxes = [Bbox.from_bounds(x + dx - width / 2, y + dy - height / 2, width, height) for dx, dy in _AROUND]
        free = (
            number
            for number, box in enumerate(boxes)
            if not box.count_overlaps(taken) and inside.contains(*box.min) and inside.contains(*box.max)
        )
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        axes.annotate(
            words,
            marks[words],
            xytext=_AROUND[chosen],
            textcoords="offset points",
            ha="center",
            va="center",
            color=MUTED,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6}
            if math.hypot(*_AROUND[chosen]) > 12
            else None,
        )


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a clear figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes
