# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The report of an audit for backdoors: one self-contained page, nothing fetched, all escaped; numbers as JSON."""

from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from paperweight.audits.backdoor_findings import BackdoorAudit, Form
from paperweight.audits.backdoor_inspection import BackdoorInspection
from paperweight.reports.drawing import MUTED, STYLE, colour, new_figure, svg, title
from paperweight.reports.pages import png, rendered, write_page
from paperweight.texts import brief

__all__ = ["render_backdoor", "write_backdoor_report"]

_MOST_CLASSES = 40


def write_backdoor_report(found: BackdoorInspection, out: str | Path, command: str) -> Path:
    """Write ``backdoor-<checkpoint>.html`` and, beside it, the numbers as JSON; earlier ones are replaced.

    Args:
        found: The audit, and what it was made of.
        out: The folder.
        command: The command that repeats it.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    numbers = {**found.audit.record(), "facts": found.facts, "command": command}
    page = Path(out) / f"backdoor-{found.checkpoint.stem}.html"
    return write_page(page, render_backdoor(found, command), numbers)


def render_backdoor(found: BackdoorInspection, command: str) -> str:
    """Return the whole report, an HTML page that needs no network and no script.

    Args:
        found: The audit, and what it was made of.
        command: The command that repeats it.
    """
    audit = found.audit
    rows = audit.rows()
    return rendered(
        "backdoor.html.j2",
        audit=audit,
        found=found,
        command=command,
        rows=rows[:_MOST_CLASSES],
        left_out=max(0, len(rows) - _MOST_CLASSES),
        patches=Markup(_sizes_figure(audit, "patch", "Share of the image that a patch covers")),
        patterns=Markup(_sizes_figure(audit, "pattern", "Length of a pattern that is added")),
        pictures=[(caption, [png(image) for image in images]) for caption, images in audit.images.items()],
    )


def _sizes_figure(audit: BackdoorAudit, form: Form, words: str) -> str:
    """Return the size of each class's smallest trigger, in the model and in the clean twins."""
    sizes = audit.traces.sizes(form)
    shown: list[int] = sizes.argsort()[:_MOST_CLASSES].tolist()
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 0.9 + 0.24 * len(shown))
        for place, number in enumerate(shown):
            others = [float(twin.sizes(form)[number]) for twin in audit.clean_twins]
            axes.scatter(others, [place] * len(others), color=MUTED, s=12, alpha=0.6)
            odd = audit.alarm and number == audit.found.target
            axes.scatter([float(sizes[number])], [place], color=colour(2 if odd else 0), s=44, marker="D", zorder=3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(shown)), [brief(audit.classes[number], 18) for number in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_title(title(words, 44))
    return svg(figure, f"{words}, by class, in the model and in clean twins", form)


def _plain(value: float, place: int | None) -> str:
    return f"{value:g}"
