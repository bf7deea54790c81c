# pyright: reportUnknownMemberType=false
"""What the figures of all reports share: a style, and SVG that takes its colours from the page's style sheet."""

import io
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["ARM_COLOURS", "GRID", "INK", "MUTED", "STYLE", "colour", "new_figure", "svg"]

ARM_COLOURS = 8

INK, MUTED, GRID = "#000001", "#000002", "#000003"
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
    return f"#0000{0xA0 + index % ARM_COLOURS:02x}"


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
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "var(--ink)").replace(MUTED, "var(--muted)").replace(GRID, "var(--line)")
    text = re.sub(r"#0000a([0-7])", r"var(--arm\1)", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a clear figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes
