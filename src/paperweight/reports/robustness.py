# pyright: reportUnknownMemberType=false
"""The report of an audit of robustness: one self-contained page, nothing fetched, all escaped; numbers as JSON."""

from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup

from paperweight.audits.erasure_findings import Rate
from paperweight.audits.robustness_findings import RobustnessAudit, rate
from paperweight.audits.robustness_inspection import RobustnessInspection
from paperweight.reports.drawing import MUTED, STYLE, colour, new_figure, svg, title
from paperweight.reports.pages import png, rendered, write_page
from paperweight.robustness.data_budget import RobustnessCurve

__all__ = ["render_robustness", "write_robustness_report"]

_MOST_CLASSES = 40


def write_robustness_report(found: RobustnessInspection, out: str | Path, command: str) -> Path:
    """Write ``robustness-<checkpoint>.html`` and, beside it, the numbers as JSON; earlier ones are replaced.

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
    page = Path(out) / f"robustness-{found.checkpoint.stem}.html"
    return write_page(page, render_robustness(found, command), numbers)


def render_robustness(found: RobustnessInspection, command: str) -> str:
    """Return the whole report, an HTML page that needs no network and no script.

    Args:
        found: The audit, and what it was made of.
        command: The command that repeats it.
    """
    audit = found.audit
    classes = sorted(audit.by_class.items(), key=lambda item: item[1].share)
    return rendered(
        "robustness.html.j2",
        audit=audit,
        found=found,
        command=command,
        shifts=[(name, rate(right)) for name, right in audit.shifted.items()],
        attacks=[(each, rate(each.held)) for each in audit.attacked],
        proofs=[(at, rate(audit.by_radius[at]), rate(proved)) for at, proved in sorted(audit.proofs.by_radius.items())],
        classes=classes[:_MOST_CLASSES],
        left_out=max(0, len(classes) - _MOST_CLASSES),
        held={box: audit.held(box) for box in ("white", "black", "any")},
        rates=Markup(_rates_figure(audit)),
        radii=Markup(_radii_figure(audit)),
        curve=None if audit.curve is None or audit.effective is None else Markup(_curve_figure(audit, audit.curve)),
        pictures=[(caption, [png(image) for image in images]) for caption, images in audit.images.items()],
    )


def _rates_figure(audit: RobustnessAudit) -> str:
    """Return what is right unchanged, after each shift and after each attack, with intervals."""
    rows: list[tuple[str, Rate, str]] = [("unchanged", audit.accuracy, colour(0))]
    rows += [(name.replace("_", " "), rate(right), colour(1)) for name, right in audit.shifted.items()]
    rows += [(f"attack: {each.name}", rate(each.held), colour(2)) for each in audit.attacked]
    rows += [("all attacks", audit.held(), colour(2))]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.8, 0.8 + 0.27 * len(rows))
        for place, (_, each, tone) in enumerate(rows):
            axes.plot([each.low, each.high], [place] * 2, color=tone, linewidth=2)
            axes.scatter([each.share], [place], color=tone, s=30, zorder=3)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")
        axes.set_title(title("Share of right images, 95% intervals", 44))
    return svg(figure, "share of right images: unchanged, shifted and attacked, with intervals", "rates")


def _radii_figure(audit: RobustnessAudit) -> str:
    """Return what is right after attacks by radius, up to the whole range, and what is proved to be."""
    radii = sorted(audit.by_radius)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 2.7)
        found = [rate(audit.by_radius[radius]) for radius in radii]
        places = range(1, len(radii) + 1)
        before = rate(audit.tried).share
        axes.plot([0, *places], [before, *(each.share for each in found)], color=colour(2), marker="o")
        axes.fill_between(places, [x.low for x in found], [x.high for x in found], color=colour(2), alpha=0.2)
        proved = [rate(each).share for _, each in sorted(audit.proofs.by_radius.items())]
        if proved:
            axes.plot([0, *places][: len(proved) + 1], [before, *proved], color=colour(0), marker="s", linestyle="--")
        axes.set_xticks([0, *places], ["0", *(f"{radius:.2g}" for radius in radii)])
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("largest change of an image; the last is any")
        axes.set_title(title("Right after steps along the gradient; dashed: proved", 56))
    return svg(figure, "share of right images by the radius of the attack", "radii")


def _curve_figure(audit: RobustnessAudit, curve: RobustnessCurve) -> str:
    """Return the models trained beside, their curve, and the audited one."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 3.0)
        ends = [audit.accuracy.share, *(each.accuracy for each in audit.references)]
        along = np.linspace(min(ends), max(ends), 50)
        axes.plot(along, curve.predict(along.tolist()).numpy(), color=MUTED, linewidth=1)
        axes.scatter(
            [x.accuracy for x in audit.references], [x.average for x in audit.references], color=colour(0), s=30
        )
        axes.scatter([audit.accuracy.share], [audit.average], color=colour(2), marker="D", s=44, zorder=3)
        axes.set_xlabel("accuracy, unchanged images")
        axes.set_title(title("Average accuracy over the shifts", 44))
    return svg(
        figure, "average accuracy over shifts by accuracy, of this model and of those trained beside it", "curve"
    )
