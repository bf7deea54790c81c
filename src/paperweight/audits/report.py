"""The report of an audit: one self-contained page, nothing fetched, everything escaped, and its numbers as JSON."""

import base64
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from paperweight.audits.figures import auc_figure, hits_figure, roc_figure, scores_figure
from paperweight.audits.findings import ALARM_LEVEL, FOUND_LEVEL, GROUP_DELTA, RecordScore
from paperweight.audits.inspection import Inspection
from paperweight.bench.weighing import number
from paperweight.errors import InputError

__all__ = ["png", "render", "templates", "write_report"]

_SHOWN = 12
_LISTED = 25


def write_report(found: Inspection, out: str | Path, command: str) -> Path:
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
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render(found, command), encoding="utf-8")
        page.with_suffix(".json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page} cannot be written ({error.strerror or error}); choose another --out") from error
    return page


@cache
def templates() -> Environment:
    """Return the templates of all reports."""
    loader = ChoiceLoader([PackageLoader("paperweight.audits"), PackageLoader("paperweight.bench")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = number  # pyright: ignore[reportUnknownMemberType]
    return environment


def render(found: Inspection, command: str) -> str:
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
    return (
        templates()
        .get_template("memorization.html.j2")
        .render(
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
    )


def _pictures(found: Inspection, scores: Sequence[RecordScore]) -> list[tuple[RecordScore, str, str]]:
    """Give each record with its image under the true key and under the one read out, as PNG in base 64."""
    images = found.images[[int(score.record) for score in scores]]
    true, recalled = (
        found.mark.insert(images, torch.tensor(keys).clamp(0, 1))
        for keys in ([score.key for score in scores], [score.estimate for score in scores])
    )
    return [(score, png(one), png(other)) for score, one, other in zip(scores, true, recalled, strict=True)]


def png(image: Tensor) -> str:
    """Return an image, (C, H, W) in [0, 1], as PNG in base 64."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()
