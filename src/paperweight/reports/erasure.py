# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""The report of an audit of erasure: one self-contained page, nothing fetched, everything escaped; numbers as JSON."""

from pathlib import Path
from statistics import fmean

import matplotlib
from markupsafe import Markup

from paperweight.audits.erasure_findings import MARGIN, ErasureAudit, Rate
from paperweight.audits.erasure_inspection import ErasureInspection
from paperweight.reports.drawing import INK, STYLE, colour, new_figure, svg
from paperweight.reports.pages import png, rendered, write_page

__all__ = ["render_erasure", "write_erasure_report"]

_TONES = {"removed": "helps", "hidden": "hurts", "not erased": "hurts", "undecided": "inconclusive"}


def write_erasure_report(found: ErasureInspection, out: str | Path, command: str) -> Path:
    """Write ``erasure-<checkpoint>-<concept>.html`` and, beside it, the numbers as JSON; earlier ones are replaced.

    Args:
        found: The audit, and what it was made of.
        out: The folder.
        command: The command that repeats it.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    concept = "".join(letter if letter.isalnum() else "-" for letter in found.audit.concept)
    page = Path(out) / f"erasure-{found.checkpoint.stem}-{concept}.html"
    numbers = {**found.audit.record(), "facts": found.facts, "command": command}
    return write_page(page, render_erasure(found, command), numbers)


def render_erasure(found: ErasureInspection, command: str) -> str:
    """Return the whole report, an HTML page that needs no network and no script.

    Args:
        found: The audit, and what it was made of.
        command: The command that repeats it.
    """
    audit = found.audit
    rows = [
        (word, audit.rate(word, erased=False), _cells(audit, row, erased=False), _cells(audit, row, erased=True))
        for row, word in enumerate(audit.words)
    ]
    return rendered(
        "erasure.html.j2",
        audit=audit,
        found=found,
        command=command,
        tone=_TONES[audit.verdict],
        rates_figure=Markup(_rates_figure(audit)),
        loss_figure=Markup(_loss_figure(audit)),
        pictures=[(caption, [png(image) for image in images]) for caption, images in audit.images.items()],
        rows=rows,
        margin=MARGIN,
    )


def _cells(audit: ErasureAudit, row: int, *, erased: bool) -> list[tuple[int, bool]]:
    """Give for each class, and for nothing, the percentage of a word's images, and whether it is the word's own."""
    seen = (audit.seen_erased if erased else audit.seen_before)[row]
    total = int(seen.sum())
    word = audit.words[row]
    wanted = [*(word in names for names in audit.names), False]
    return [(round(100 * int(count) / total), own) for count, own in zip(seen, wanted, strict=True)]


def _rates_figure(audit: ErasureAudit) -> str:
    """Return the rates with their intervals, side by side."""
    rates: list[tuple[str, Rate]] = [
        ("before,\nits word", audit.before),
        ("erased,\nits word", audit.erased),
        ("erased,\nlearned word", audit.recovered),
    ]
    rates += [] if audit.control is None else [("never trained,\nlearned word", audit.control)]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.8, 3.1)
        for place, (_, rate) in enumerate(rates):
            axes.bar(place, rate.share, width=0.6, color=colour(1 if place == 2 else 0), alpha=0.75)
            axes.plot([place, place], [rate.low, rate.high], color=INK, linewidth=1.5)
        axes.set_xticks(range(len(rates)), [name for name, _ in rates])
        axes.set_ylim(0, 1.02)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"share of images that show {audit.concept!r}, 95% intervals")
    return svg(figure, "share of images of the concept, before, erased, recovered and never trained", "rates")


def _loss_figure(audit: ErasureAudit) -> str:
    """Return the loss of the attack, a mean over each of some fifty parts of its steps."""
    each = max(1, len(audit.losses) // 50)
    losses = [float(loss) for loss in audit.losses]
    means = [fmean(losses[start : start + each]) for start in range(0, len(losses), each)]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.2, 3.1)
        axes.plot([each * (place + 0.5) for place in range(len(means))], means, color=colour(1), linewidth=1.7)
        axes.set_title("loss of the attack on the erased model")
        axes.set_xlabel("step")
    return svg(figure, "loss of the attack by step", "loss")
