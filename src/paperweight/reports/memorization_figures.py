# pyright: reportUnknownMemberType=false
"""The figures of an audit's report."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from paperweight.audits.findings import GROUP_DELTA, MemorizationAudit
from paperweight.reports.drawing import GRID, MUTED, STYLE, colour, new_figure, svg

__all__ = ["auc_figure", "hits_figure", "roc_figure", "scores_figure"]

_HELD_OUT, _TRAINED = 0, 1


def hits_figure(audit: MemorizationAudit) -> str:
    """Return the share of records within 0.05 of a key by number of copies, beside what is expected without memory."""
    groups = audit.groups
    places = list(range(len(groups)))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.1)
        for place, group in enumerate(groups):
            low, high = group.null.low / group.records, group.null.high / group.records
            axes.fill_between([place - 0.3, place + 0.3], low, high, color=GRID, alpha=0.8, linewidth=0)
            axes.plot([place - 0.3, place + 0.3], [group.null.mean / group.records] * 2, color=MUTED, linewidth=1)
        axes.plot(places, [group.hits / group.records for group in groups], color=colour(_TRAINED), marker="o")
        axes.set_xticks(places, [str(group.copies) for group in groups])
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"share of records within {GROUP_DELTA:g} of a key")
        axes.set_xlabel("copies in the training data; bands: 95% without memory")
    return svg(figure, "share of records near a key by number of copies, with what is expected by chance", "hits")


def auc_figure(audit: MemorizationAudit) -> str:
    """Return the AUC of trained against held-out records by number of copies, beside its range without memory."""
    groups = audit.groups
    places = list(range(len(groups)))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.1)
        for place, group in enumerate(groups):
            axes.fill_between([place - 0.3, place + 0.3], *group.auc_null, color=GRID, alpha=0.8, linewidth=0)
        axes.axhline(0.5, color=MUTED, linewidth=1)
        axes.plot(places, [group.auc for group in groups], color=colour(_TRAINED), marker="o")
        axes.set_xticks(places, [str(group.copies) for group in groups])
        axes.set_xlim(-0.5, len(groups) - 0.5)
        values = [value for group in groups for value in (group.auc, *group.auc_null)]
        axes.set_ylim(min(0.3, *values) - 0.03, max(0.7, *values) + 0.03)
        axes.grid(visible=False, axis="x")
        axes.set_title("AUC, trained against held-out records")
        axes.set_xlabel("copies in the training data; bands: 95% without memory")
    return svg(figure, "AUC of trained against held-out records by number of copies, 0.5 is chance", "auc")


def roc_figure(audit: MemorizationAudit) -> str:
    """Return the shares of held-out and of trained records at or below each p."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.6)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        axes.plot(*zip(*_thinned(audit.roc), strict=True), color=colour(_TRAINED), linewidth=1.7)
        axes.set_aspect("equal")
        axes.set_title("share of trained records at or below a p")
        axes.set_xlabel("share of held-out records at or below it")
    return svg(figure, "ROC curve of trained against held-out records; the diagonal is chance", "roc")


def _thinned(points: Sequence[tuple[float, float]], most: int = 1_000) -> list[tuple[float, float]]:
    """Return at most about so many points, evenly spaced, the first and the last among them."""
    return [*points[: -1 : -(-len(points) // most)], points[-1]]


def scores_figure(audit: MemorizationAudit) -> str:
    """Return the histogram of the distances to the nearest key, trained beside held-out records."""
    parts = [(audit.trained, _TRAINED, "trained"), (audit.held_out, _HELD_OUT, "held out")]
    highest = max(score.score for score in audit.records)
    edges = np.linspace(0, max(highest, 0.1), 21)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.6)
        for scores, place, label in parts:
            if scores:
                shares, _ = np.histogram([score.score for score in scores], edges)
                filled = place == _TRAINED
                axes.stairs(
                    shares / len(scores),
                    edges,
                    color=colour(place),
                    fill=filled,
                    alpha=0.55 if filled else 1,
                    linewidth=1.7,
                    label=label,
                )
        axes.set_title("share of records by distance to the key")
        axes.set_xlabel("distance to the nearest key; 0 is perfect recall")
        axes.grid(visible=False, axis="x")
    return svg(figure, "histogram of distances to the nearest key, trained and held-out records", "scores")
