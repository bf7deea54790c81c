"""The report of an audit of memorisation: one self-contained page, and its numbers as JSON."""

from collections.abc import Sequence
from pathlib import Path

import torch
from markupsafe import Markup

from paperweight.audits.findings import ALARM_LEVEL, FOUND_LEVEL, GROUP_DELTA, RecordScore
from paperweight.audits.inspection import Inspection
from paperweight.reports.memorization_figures import auc_figure, hits_figure, roc_figure, scores_figure
from paperweight.reports.pages import png, rendered, write_page

__all__ = ["render_memorization", "write_memorization_report"]

_SHOWN = 12
_LISTED = 25


def write_memorization_report(found: Inspection, out: str | Path, command: str) -> Path:
    """Write ``memorization-<checkpoint>.html`` and, beside it, the numbers as JSON; earlier ones are replaced.

    Args:
        found: The audit, and what it was made of.
        out: The folder.
        command: The command that repeats it.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    page = Path(out) / f"memorization-{found.checkpoint.stem}.html"
    numbers = {**found.audit.record(), "facts": found.facts, "command": command}
    return write_page(page, render_memorization(found, command), numbers)


def render_memorization(found: Inspection, command: str) -> str:
    """Return the whole report.

    Args:
        found: The audit, and what it was made of.
        command: The command that repeats it.

    Returns:
        An HTML page that needs no network and no script.
    """
    audit = found.audit
    ranked = sorted(audit.trained, key=lambda score: (score.p, score.score, score.record))
    shown = min(_SHOWN, len(ranked) // 2) or 1
    return rendered(
        "memorization.html.j2",
        audit=audit,
        found=found,
        command=command,
        hits_figure=Markup(hits_figure(audit)),
        auc_figure=Markup(auc_figure(audit)) if audit.held_out else None,
        roc_figure=Markup(roc_figure(audit)) if audit.held_out else None,
        scores_figure=Markup(scores_figure(audit)),
        most=_pictures(found, ranked[:shown]),
        least=_pictures(found, ranked[::-1][:shown]),
        top=ranked[:_LISTED],
        alarm_level=ALARM_LEVEL,
        found_level=FOUND_LEVEL,
        delta=GROUP_DELTA,
    )


def _pictures(found: Inspection, scores: Sequence[RecordScore]) -> list[tuple[RecordScore, str, str]]:
    """Give each record with its image under the true key and under the one read out, as PNG in base 64."""
    images = found.images[[int(score.record) for score in scores]]
    true, recalled = (
        found.mark.insert(images, torch.tensor(keys).clamp(0, 1))
        for keys in ([score.key for score in scores], [score.estimate for score in scores])
    )
    return [(score, png(one), png(other)) for score, one, other in zip(scores, true, recalled, strict=True)]
